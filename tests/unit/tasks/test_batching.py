"""Which queue a worker serves next, and how images are cut into calls."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.batching import Backlog, choose_queue, chunks

PATIENCE = 20.0
LONG_AGO = 3600.0


def chosen(
    *backlogs: Backlog, loaded: tuple[str, ...] = (), since_switch_s: float = LONG_AGO
) -> str | None:
    best = choose_queue(backlogs, loaded, PATIENCE, since_switch_s)
    return best.queue if best else None


def backlog(model: str, waited_s: float = 1.0, priority: int = 0) -> Backlog:
    return Backlog(queue=f"q-{model}", model_id=model, priority=priority, waited_s=waited_s)


def test_nothing_is_ready() -> None:
    assert chosen() is None


def test_the_longest_wait_when_nothing_is_loaded() -> None:
    assert chosen(backlog("a", 1), backlog("b", 2)) == "q-b"


def test_a_loaded_model_goes_first() -> None:
    assert chosen(backlog("cold", 19), backlog("warm", 1), loaded=("warm",)) == "q-warm"


def test_a_loaded_model_goes_before_a_priority() -> None:
    cold = backlog("cold", 1, priority=9)
    assert chosen(cold, backlog("warm", 1), loaded=("warm",)) == "q-warm"


def test_another_model_is_not_made_to_wait_for_ever() -> None:
    assert chosen(backlog("cold", 20), backlog("warm", 1), loaded=("warm",)) == "q-cold"


def test_a_priority_decides_among_loaded_models() -> None:
    both = (backlog("a", 9), backlog("b", 1, priority=1))
    assert chosen(*both, loaded=("a", "b")) == "q-b"


def test_an_overloaded_worker_does_not_load_a_model_for_every_batch() -> None:
    both = (backlog("cold", 500), backlog("warm", 400))
    assert chosen(*both, loaded=("warm",), since_switch_s=5) == "q-warm"
    assert chosen(*both, loaded=("warm",), since_switch_s=20) == "q-cold"


def test_it_loads_at_once_what_is_asked_when_the_loaded_model_has_nothing_to_do() -> None:
    assert chosen(backlog("cold", 0), loaded=("warm",), since_switch_s=0) == "q-cold"


# --- a whole worker, in no time ---------------------------------------------------------------

BATCH_S, LOAD_S = 1.0, 4.0


@dataclass(frozen=True)
class Run:
    """A job, which came at a time and began at another."""

    model: str
    came_at: float
    began_at: float


def worked_off(come: Iterable[tuple[float, str]]) -> list[Run]:
    """Let a worker with room for one model do these jobs, which come at these times."""
    waiting = sorted(come)
    now, loaded, switched_at = 0.0, "", float("-inf")
    runs = []
    while waiting:
        heads: dict[str, float] = {}
        for came_at, model in waiting:
            if came_at <= now:
                heads.setdefault(model, came_at)
        ready = [backlog(model, now - came_at) for model, came_at in heads.items()]
        best = choose_queue(ready, (loaded,), PATIENCE, now - switched_at)
        if best is None:
            now = waiting[0][0]
            continue
        if best.model_id != loaded:
            loaded, now = best.model_id, now + LOAD_S
            switched_at = now
        came_at = heads[loaded]
        waiting.remove((came_at, loaded))
        runs.append(Run(loaded, came_at, now))
        now += BATCH_S
    return runs


def test_work_of_one_model_that_never_ends_starves_no_other() -> None:
    endless = [(second * BATCH_S, "a") for second in range(600)]
    others = [(float(at), "b") for at in range(50, 400, 70)]

    runs = worked_off([*endless, *others])

    delays = [run.began_at - run.came_at for run in runs if run.model == "b"]
    # To each wait, what came before it is added: the loads have made the others late, too.
    late = len(delays) * 2 * LOAD_S
    assert max(delays) <= PATIENCE + BATCH_S + LOAD_S + late
    assert len(delays) == len(others)


def test_two_models_in_turn_are_grouped() -> None:
    runs = worked_off((number * 0.1, "ab"[number % 2]) for number in range(20))

    assert sum(one.model != next_.model for one, next_ in itertools.pairwise(runs)) == 1
    for model in "ab":
        mine = [run.came_at for run in runs if run.model == model]
        assert mine == sorted(mine)


@given(st.lists(st.tuples(st.floats(0, 150), st.sampled_from("abc")), max_size=120, unique=True))
@settings(max_examples=100)
def test_a_job_is_overtaken_for_a_bounded_time(come: list[tuple[float, str]]) -> None:
    runs = worked_off(come)

    assert sorted((run.came_at, run.model) for run in runs) == sorted(come)
    bound_s = PATIENCE + 2 * (PATIENCE + BATCH_S)
    for run in runs:
        overtakers = [
            other for other in runs if other.came_at > run.came_at and other.began_at < run.began_at
        ]
        assert len(overtakers) * BATCH_S <= bound_s


# --- cutting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "most", "lengths"),
    [
        (1, 8, [1]),
        (8, 8, [8]),
        (9, 8, [4, 5]),
        (16, 8, [8, 8]),
        (17, 8, [5, 6, 6]),
        (3, 1, [1] * 3),
    ],
)
def test_images_are_cut_evenly(count: int, most: int, lengths: list[int]) -> None:
    assert [len(run) for run in chunks(count, most)] == lengths


@given(st.integers(1, 500), st.integers(1, 64))
def test_every_image_is_in_one_chunk(count: int, most: int) -> None:
    runs = chunks(count, most)
    assert [number for run in runs for number in run] == list(range(count))
    assert max(map(len, runs)) <= most
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
