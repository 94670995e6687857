"""How long an idle worker takes to start: from our bell, and from a bare Celery task.

The arms take turns sample by sample, both workers idle, so both see the same machine.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict

from sqlalchemy import select

from bench import backlog, baselines
from bench.engines import CALLS, IDLE
from bench.measure import Row, compare_percentile, interleave
from bench.parts import Parts
from tasks import jobs
from tasks.app import make_celery
from tasks.dispatch import Ringer
from tasks.tables import Job

_SAMPLES = 60
_PATIENCE_S = 20
_CLAIMED, _CALLED, _SUBMITTED = "bell to claim", "bell to engine", "submit to claim"


def rows(parts: Parts, rounds: int, share: float) -> list[Row]:
    """Compare enqueue-to-start latencies."""
    parts.start_worker()
    parts.start_baseline_worker()
    ringer = Ringer(make_celery(parts.task_settings))
    for _ in range(5):
        _ours(parts, ringer)
        _bare(parts)
    rounds_of_ours: dict[str, list[list[float]]] = defaultdict(list)
    rounds_of_bare: list[list[float]] = []
    for _ in range(rounds):
        taken = interleave(
            round(share * _SAMPLES),
            {"ours": lambda: _ours(parts, ringer), "bare": lambda: _bare(parts)},
        )
        for name in (_CLAIMED, _CALLED, _SUBMITTED):
            rounds_of_ours[name].append([one[name] for one in taken["ours"]])
        rounds_of_bare.append([one[_CLAIMED] for one in taken["bare"]])
    backlog.check_books(parts.sessions)
    return [
        compare_percentile(f"idle worker, {name}", percent, of_ours, rounds_of_bare)
        for name, of_ours in rounds_of_ours.items()
        for percent in (50, 99)
    ]


def _ours(parts: Parts, ringer: Ringer) -> dict[str, float]:
    """Submit a job to the idle worker; returns how long each part of its start took."""
    _idle()
    submitted_at = time.time()
    with parts.sessions.begin() as session:
        job, _ = jobs.submit(session, backlog.order(parts.gateway_id, IDLE))
    rung_at = time.time()
    ringer.ring(jobs.Bell(job.id, job.queue, job.model_id))
    call = parts.redis.blpop([CALLS], timeout=_PATIENCE_S)
    assert call is not None, "the worker did not hear the bell"
    claimed_at = _ended(parts, job)
    return {
        # When the transaction that claimed it began, by the clock of the same machine.
        _CLAIMED: claimed_at - rung_at,
        _CALLED: float(call[1]) - rung_at,
        _SUBMITTED: claimed_at - submitted_at,
    }


def _ended(parts: Parts, job: Job) -> float:
    """Wait for a job to end, so that the worker is idle again; returns when it was claimed."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up_at:
        with parts.sessions.begin() as session:
            row = session.execute(select(Job.state, Job.started_at).where(Job.id == job.id)).one()
        if row.state in jobs.FINAL_STATES:
            assert row.state == "succeeded", f"job {job.id} {row.state}"
            claimed_at: float = row.started_at.timestamp()
            return claimed_at
        time.sleep(0.005)
    raise TimeoutError(f"job {job.id} did not end")


def _bare(parts: Parts) -> dict[str, float]:
    _idle()
    baselines.started.apply_async((time.time(),), queue=baselines.TASKS)
    waited = parts.redis.blpop([baselines.STAMPS], timeout=_PATIENCE_S)
    assert waited is not None, "the baseline's worker did not start its task"
    return {_CLAIMED: float(waited[1])}


def _idle() -> None:
    """Let both workers come to rest, for a time that is in step with nothing."""
    time.sleep(random.uniform(0.01, 0.03))
