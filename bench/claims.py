"""What a queue's depth costs: the same operations on queues from shallow to very deep.

Each depth has a database of its own, so that all depths take turns in every round. The claimed and
canceled jobs are replaced after each round, and the dead rows they leave stay, as they would.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from sqlalchemy import Engine, func, select, tablesample
from sqlalchemy.orm import Session, aliased, sessionmaker

from bench import backlog
from bench.engines import SUBMITTED
from bench.measure import Row, compare, interleave
from bench.parts import Parts
from ledger import db
from tasks import claims, jobs
from tasks.tables import Job

SHALLOWEST = 400  # Fewer jobs would run out within a round.
_REPEATS = 20
_SAMPLE = 2_000  # Rows that are looked at to pick from, whole pages of the table.
_CLAIM = 8
_PAGE = 20
# A claim takes only jobs of one kind, so it has to look past the others.
_BATCH_KEYS = 5


@dataclass(frozen=True)
class _Depth:
    """A database with so many queued jobs of one gateway, in one queue."""

    count: int
    engine: Engine
    sessions: sessionmaker[Session]
    gateway_id: UUID
    dice: random.Random

    @property
    def name(self) -> str:
        return f"{self.count:,}"

    def fill(self) -> None:
        """Bring the queue to its depth."""
        with self.sessions.begin() as session:
            queued = session.scalars(select(func.count()).where(Job.state == "queued")).one()
        backlog.deepen(self.sessions, self.gateway_id, SUBMITTED, self.count - queued, _BATCH_KEYS)

    def pick(self, count: int) -> list[Job]:
        """Return queued jobs from anywhere in the queue."""
        pages = func.system(min(100.0, 100 * _SAMPLE / self.count))
        anywhere = aliased(Job, tablesample(Job, pages))
        with self.sessions.begin() as session:
            found = session.scalars(select(anywhere).where(anywhere.state == "queued")).all()
        return self.dice.sample(found, count)


def _claim(depth: _Depth, session: Session, _: Job) -> None:
    claimed = claims.claim(session, backlog.queue(SUBMITTED), "bench", _CLAIM, lease_s=3600)
    assert len(claimed) == _CLAIM, f"claimed {len(claimed)} jobs where {depth.name} wait"


def _position(_: _Depth, session: Session, job: Job) -> None:
    assert jobs.queue_position(session, job) is not None


def _list(depth: _Depth, session: Session, job: Job) -> None:
    jobs.list_jobs(session, depth.gateway_id, before=job.id, limit=_PAGE)


def _cancel(depth: _Depth, session: Session, job: Job) -> None:
    jobs.cancel(session, depth.gateway_id, job.id)


_OPERATIONS: dict[str, Callable[[_Depth, Session, Job], None]] = {
    f"claims of {_CLAIM}": _claim,
    "queue positions": _position,
    f"list pages of {_PAGE}": _list,
    "cancels": _cancel,
}


def rows(parts: Parts, rounds: int, depths: Sequence[int]) -> list[Row]:
    """Compare every deeper queue with the shallowest, operation by operation."""
    prepared = {one.name: one for one in (_prepare(parts, count) for count in sorted(depths))}
    taken = interleave(rounds, {name: partial(_round, one) for name, one in prepared.items()})
    for one in prepared.values():
        backlog.check_books(one.sessions)
        one.engine.dispose()
    shallowest, *deeper = prepared
    return [
        compare(
            f"{operation}, {name} jobs queued (baseline: {shallowest})",
            "/s",
            "higher",
            [figures[operation] for figures in taken[name]],
            [figures[operation] for figures in taken[shallowest]],
        )
        for operation in _OPERATIONS
        for name in deeper
    ]


def _prepare(parts: Parts, count: int) -> _Depth:
    engine = db.make_engine(parts.database(f"depth_{count}"))
    sessions = db.session_factory(engine)
    with sessions.begin() as session:
        gateway_id = backlog.open_books(session, [SUBMITTED])
    depth = _Depth(count, engine, sessions, gateway_id, random.Random(count))
    depth.fill()
    backlog.settle_down(engine)
    return depth


def _round(depth: _Depth) -> dict[str, float]:
    """Return how many of each operation one client gets done in a second, commits included."""
    figures = {name: _rate(depth, operation) for name, operation in _OPERATIONS.items()}
    depth.fill()
    return figures


def _rate(depth: _Depth, operation: Callable[[_Depth, Session, Job], None]) -> float:
    spent_s = 0.0
    for job in depth.pick(_REPEATS):
        began = time.perf_counter()
        with depth.sessions.begin() as session:
            operation(depth, session, job)
        spent_s += time.perf_counter() - began
    return _REPEATS / spent_s
