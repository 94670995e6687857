"""What a queue's depth costs: the same operations on queues from shallow to very deep.

Each depth has a database of its own, so that the depths take turns operation by operation. Claimed
and canceled jobs are replaced after each round, and the dead rows they leave stay, as they would.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from sqlalchemy import Engine, func, select, tablesample, update
from sqlalchemy.orm import Session, aliased, sessionmaker

from bench import backlog
from bench.engines import SUBMITTED
from bench.measure import Row, compare, interleave
from bench.parts import Parts
from ledger import db
from tasks import claims, jobs, waiting
from tasks.tables import Job

SHALLOWEST = 400  # Fewer jobs would run out within a round.
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
    assert waiting.look(session, job) is not None


def _list(depth: _Depth, session: Session, job: Job) -> None:
    jobs.list_jobs(session, depth.gateway_id, before=job.id, limit=_PAGE)


def _cancel(depth: _Depth, session: Session, job: Job) -> None:
    jobs.cancel(session, depth.gateway_id, job.id)


def _claim_odd(_: _Depth, session: Session, job: Job) -> None:
    claimed = claims.claim(session, job.queue, "bench", _CLAIM, lease_s=3600)
    assert [one.id for one in claimed] == [job.id], "claimed another job than the first"


def _make_odd(session: Session, job: Job) -> None:
    """Make a job the first of its queue, and the only one of its kind."""
    changes = {"priority": 1, "batch_key": str(job.id)}
    session.execute(update(Job).where(Job.id == job.id).values(changes))


@dataclass(frozen=True)
class _Operation:
    """What is done with a picked job, how often in a round, and before the clock runs."""

    run: Callable[[_Depth, Session, Job], None]
    repeats: int = 20
    prepare: Callable[[Session, Job], None] = lambda _session, _job: None


_OPERATIONS = {
    f"claims of {_CLAIM}": _Operation(_claim),
    "claims of one that nothing fits": _Operation(_claim_odd, 5, _make_odd),
    "queue positions": _Operation(_position),
    f"list pages of {_PAGE}": _Operation(_list),
    "cancels": _Operation(_cancel),
}


def rows(parts: Parts, rounds: int, depths: Sequence[int]) -> list[Row]:
    """Compare every deeper queue with the shallowest, operation by operation."""
    prepared = [_prepare(parts, count) for count in sorted(depths)]
    _round(prepared)  # Connections and caches are not what depth costs.
    taken = [_round(prepared) for _ in range(rounds)]
    for one in prepared:
        backlog.check_books(one.sessions)
        one.engine.dispose()
    shallowest, *deeper = (one.name for one in prepared)
    return [
        compare(
            f"{operation}, {name} jobs queued (baseline: {shallowest})",
            "/s",
            "higher",
            [rates[operation][name] for rates in taken],
            [rates[operation][shallowest] for rates in taken],
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


def _round(depths: Sequence[_Depth]) -> dict[str, dict[str, float]]:
    """Return how many of each operation one client gets done in a second at each depth."""
    rates = {name: _rates(operation, depths) for name, operation in _OPERATIONS.items()}
    for depth in depths:
        depth.fill()
    return rates


def _rates(operation: _Operation, depths: Sequence[_Depth]) -> dict[str, float]:
    repeats = operation.repeats
    arms = {
        depth.name: partial(_seconds, operation, depth, iter(depth.pick(repeats)))
        for depth in depths
    }
    return {depth: repeats / sum(spent_s) for depth, spent_s in interleave(repeats, arms).items()}


def _seconds(operation: _Operation, depth: _Depth, picked: Iterator[Job]) -> float:
    job = next(picked)
    with depth.sessions.begin() as session:
        operation.prepare(session, job)
    began = time.perf_counter()
    with depth.sessions.begin() as session:
        operation.run(depth, session, job)
    return time.perf_counter() - began
