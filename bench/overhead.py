"""What the house adds to a job beyond inference, against a Celery task that does nothing.

Ours claims, makes a picture, encodes and uploads it, and settles: what is measured is everything
that is not the engine's sleep, for each job of a backlog.
"""

from __future__ import annotations

import time
from functools import partial

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from bench import backlog, baselines
from bench.engines import BACKLOGS, Model
from bench.measure import Row, compare, interleave
from bench.parts import Parts
from tasks import jobs
from tasks.app import make_celery
from tasks.tables import Job
from tasks.wire import Wire

_BATCHES = 30
_BARE_TASKS = 500
_WARM_UP = 0.05
_PATIENCE_S = 60
_BARE = "bare"


def rows(parts: Parts, rounds: int, share: float) -> list[Row]:
    """Compare the cost of a job beyond inference, for every model of a backlog."""
    parts.start_worker()
    parts.start_baseline_worker()
    # A little beforehand: imports, connections and caches are not what a job costs.
    interleave(1, _arms(parts, _WARM_UP))
    taken = interleave(rounds, _arms(parts, share))
    backlog.check_books(parts.sessions)
    return [
        compare(
            f"per job beyond inference, batch {model.max_batch}, "
            f"{1e3 * model.sleep_s:.0f} ms a call (baseline: empty task)",
            "ms",
            "lower",
            taken[model.model_id],
            taken[_BARE],
        )
        for model in BACKLOGS
    ]


def _arms(parts: Parts, share: float) -> dict[str, partial[float]]:
    return {
        model.model_id: partial(_ours, parts, model, round(share * _BATCHES)) for model in BACKLOGS
    } | {_BARE: partial(_bare, parts, round(share * _BARE_TASKS))}


def _ours(parts: Parts, model: Model, batches: int) -> float:
    """Run a backlog; returns the milliseconds for each job that the engine did not sleep."""
    count = batches * model.max_batch
    first = backlog.deepen(parts.sessions, parts.gateway_id, model, count)
    Wire(make_celery(parts.task_settings)).send([jobs.Bell(first.id, first.queue, first.model_id)])
    give_up_at = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up_at:
        time.sleep(0.05)
        with parts.sessions.begin() as session:
            if not _unfinished(session, model):
                spent_s = _spent_s(session, model, count)
                return 1e3 * (spent_s - batches * model.sleep_s) / count
    raise TimeoutError(f"the backlog of {model.model_id} is not done")


def _unfinished(session: Session, model: Model) -> int:
    mine = Job.queue == backlog.queue(model)
    return session.scalars(
        select(func.count()).where(mine, Job.state.in_(("queued", "running")))
    ).one()


def _spent_s(session: Session, model: Model, count: int) -> float:
    """Return the time from the first claim to the last settlement of the newest `count` jobs."""
    newest = (
        select(Job.state, Job.started_at, Job.finished_at)
        .where(Job.queue == backlog.queue(model))
        .order_by(Job.id.desc())
        .limit(count)
        .subquery()
    )
    facts = session.execute(
        select(
            func.count().filter(newest.c.state == "succeeded").label("succeeded"),
            # Jobs that were claimed together began in one transaction, so at one time.
            func.count(newest.c.started_at.distinct()).label("batches"),
            (func.max(newest.c.finished_at) - func.min(newest.c.started_at)).label("spent"),
        )
    ).one()
    assert facts.succeeded == count, f"{facts.succeeded} of {count} jobs succeeded"
    assert facts.batches == count // model.max_batch, f"{facts.batches} batches of {count} jobs"
    spent_s: float = facts.spent.total_seconds()
    return spent_s


def _bare(parts: Parts, count: int) -> float:
    """Run a backlog of empty tasks; returns the milliseconds for each."""
    baselines.gate.apply_async(queue=baselines.TASKS)
    for _ in range(count):
        baselines.nothing.apply_async(queue=baselines.TASKS)
    baselines.stamp.apply_async(queue=baselines.TASKS)
    parts.redis.rpush(baselines.GATE, "open")
    stamps = []
    for _ in ("gate", "stamp"):
        answer = parts.redis.blpop([baselines.STAMPS], timeout=_PATIENCE_S)
        assert answer is not None, "the baseline's backlog is not done"
        stamps.append(float(answer[1]))
    return 1e3 * (stamps[1] - stamps[0]) / count
