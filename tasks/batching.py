"""Which queue a worker serves next, and how it cuts a batch. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Backlog:
    """The head of a queue with jobs ready: its model, its priority, and how long it has waited."""

    queue: str
    model_id: str
    priority: int
    waited_s: float


def choose_queue(
    backlogs: Sequence[Backlog],
    loaded: Collection[str],
    switch_wait_s: float,
    since_switch_s: float,
) -> Backlog | None:
    """Return the queue to serve, or None when nothing is ready.

    Loading a model costs seconds, so queues of loaded models come first. But when a job has waited
    `switch_wait_s`, and the last model was loaded that long ago, all queues are equal, so that no
    model starves another; the second condition keeps a worker with more work than it can do from
    loading a model for every batch. Among equals the priority decides, then the wait.

    So a job is overtaken by younger ones of its priority while it has waited less than that, and
    then, for each other model, in one turn of at most that long. Endless work of one model delays
    another by no more.
    """
    warm = [one for one in backlogs if one.model_id in loaded]
    may_switch = since_switch_s >= switch_wait_s
    overdue = any(one.waited_s >= switch_wait_s for one in backlogs if one not in warm)
    candidates = backlogs if not warm or (may_switch and overdue) else warm
    return max(candidates, key=lambda one: (one.priority, one.waited_s), default=None)


def chunks(count: int, most: int) -> list[range]:
    """Split `count` images into even runs of at most `most`: 9 by 8 is 4 and 5."""
    parts = -(-count // most)
    bounds = [count * part // parts for part in range(parts + 1)]
    return [range(low, high) for low, high in itertools.pairwise(bounds)]
