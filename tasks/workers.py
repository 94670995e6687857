"""Which workers are alive, which queues they serve, and which models they have in memory.

A worker's row is its heartbeat; only the database's clock tells whether it is silent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from ledger.offers import LiveOffer
from tasks import routing
from tasks.tables import Worker

# A worker that has not been heard of for this long is not counted as live.
SILENCE_S = 15
HEARTBEAT_S = 5.0
# For so long, it is known when a queue was served last.
REMEMBERED_S = 3_600
# What is queued is summed up over this many jobs of a queue, so that a deep one costs no more.
BACKLOG_JOBS = 100


def heartbeat(
    session: Session,
    worker_id: str,
    orchestrator_id: UUID,
    queues: Sequence[str],
    loaded: Sequence[str],
    speeds: Mapping[str, float] | None = None,
    memory_bytes: Mapping[str, int] | None = None,
) -> bool:
    """Say that an orchestrator's worker is alive, what it serves, has loaded, and how fast it is.

    A queue without a speed has not been measured; an engine may not know its memory. Returns
    whether somebody asked it to leave.
    """
    facts = {
        "queues": list(queues),
        "loaded": list(loaded),
        "speeds": dict(speeds or {}),
        "memory": dict(memory_bytes or {}),
        "heartbeat_at": func.now(),
    }
    asked_at = session.scalar(
        insert(Worker)
        .values(id=worker_id, orchestrator_id=orchestrator_id, **facts)
        .on_conflict_do_update(index_elements=["id"], set_=facts)
        .returning(Worker.draining_at)
    )
    return asked_at is not None


def leave(session: Session, worker_id: str, *, is_done: bool) -> None:
    """Say that a worker takes no more jobs: silent from now on. `is_done`: it has none any more.

    Its row stays for a while, and says when its queues were served last.
    """
    silent = func.now() - _seconds(SILENCE_S)
    session.execute(
        update(Worker)
        .where(Worker.id == worker_id)
        .values(
            heartbeat_at=func.least(Worker.heartbeat_at, silent),
            draining_at=func.coalesce(Worker.draining_at, func.now()),
            left_at=func.coalesce(Worker.left_at, func.now()) if is_done else Worker.left_at,
        )
    )


def forget_silent(session: Session) -> None:
    """Drop the rows of workers that were heard of last long ago.

    Earlier, where another one has served the same queues since: of a worker that crashes and is
    restarted again and again, there are not more and more rows.
    """
    later = aliased(Worker)
    served_since = (
        select(later.id)
        .where(later.orchestrator_id == Worker.orchestrator_id)
        .where(later.queues.contains(Worker.queues), later.heartbeat_at > Worker.heartbeat_at)
        .exists()
    )
    silent = Worker.heartbeat_at < func.now() - _seconds(20 * SILENCE_S)
    long_ago = Worker.heartbeat_at < func.now() - _seconds(REMEMBERED_S)
    session.execute(delete(Worker).where(long_ago | (silent & served_since)))


def memory_bytes(session: Session) -> dict[str, int]:
    """Return the bytes of models in each memory of the live workers, and the budgets, in all."""
    found: Counter[str] = Counter()
    for memory in session.scalars(select(Worker.memory).where(_heard_of())):
        found.update(memory)
    return dict(found)


# Written out, because every submission asks it: building a statement costs more than running it.
_IS_SERVED = text("""
SELECT EXISTS (SELECT 1 FROM workers
                WHERE queues @> ARRAY[CAST(:queue AS varchar)]
                  AND heartbeat_at > now() - make_interval(secs => :silence_s))
""")


def has_live_worker(session: Session, queue: str) -> bool:
    """Tell whether any live worker serves a queue."""
    return bool(session.scalar(_IS_SERVED, {"queue": queue, "silence_s": SILENCE_S}))


_BACKLOGS = text("""
SELECT asked.queue, backlog.queued_units, backlog.is_deep
  FROM unnest(CAST(:queues AS varchar[])) AS asked (queue), LATERAL (
    SELECT coalesce(sum(units), 0)::bigint AS queued_units, count(*) = :most AS is_deep FROM (
        SELECT units FROM jobs WHERE queue = asked.queue AND state = 'queued'
         ORDER BY priority DESC, id LIMIT :most) AS head
  ) AS backlog
""")


def candidates(session: Session, offers: Sequence[LiveOffer]) -> list[routing.Candidate]:
    """Join offers with what the live workers say of them, and with what waits in their queues."""
    queues = [routing.queue_name(offer.capability, offer.orchestrator) for offer in offers]
    rows = session.execute(_BACKLOGS, {"queues": queues, "most": BACKLOG_JOBS})
    waiting = {row.queue: (row.queued_units, row.is_deep) for row in rows}
    alive = session.scalars(select(Worker).where(_heard_of())).all()
    found = []
    for offer, queue in zip(offers, queues, strict=True):
        serving = [
            one
            for one in alive
            if one.orchestrator_id == offer.orchestrator_id and queue in one.queues
        ]
        warm = any(offer.capability.model_id in one.loaded for one in serving)
        speeds = tuple(one.speeds.get(queue) for one in serving)
        found.append(routing.Candidate(offer, speeds, warm, *waiting[queue]))
    return found


def _heard_of() -> ColumnElement[bool]:
    return Worker.heartbeat_at > func.now() - _seconds(SILENCE_S)


def _seconds(count: float) -> ColumnElement[Any]:
    return func.make_interval(0, 0, 0, 0, 0, 0, count)
