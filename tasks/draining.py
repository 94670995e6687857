"""Telling workers from outside to take no more jobs, and seeing how far they are with it.

What a worker then does is `keeper`'s and `generate`'s. It is told by its row and not by a Celery
broadcast: a worker answers none while it runs a batch, and the row is read at every heartbeat, with
or without a broker. The caller owns the transaction.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Row, func, text, update
from sqlalchemy.orm import Session

from tasks.tables import Worker
from tasks.workers import SILENCE_S

State = Literal["live", "draining", "drained", "silent"]


@dataclass(frozen=True)
class Standing:
    """A worker, what it has to do with jobs, and how many it is running."""

    id: str
    orchestrator: str
    state: State
    running: int
    loaded: tuple[str, ...]
    heartbeat_at: datetime

    @property
    def is_done(self) -> bool:
        """Tell whether nothing more is to be expected of it; a worker that died is so, too."""
        return self.state == "drained" or (self.state == "silent" and not self.running)


_LOOK = text("""
SELECT workers.id, orchestrators.name AS orchestrator, loaded, heartbeat_at, left_at, draining_at,
       heartbeat_at > now() - make_interval(secs => :silence_s) AS heard,
       heartbeat_at > now() - make_interval(secs => 2 * :silence_s) AS heard_lately,
       (SELECT count(*) FROM jobs WHERE state = 'running' AND worker_id = workers.id) AS running
  FROM workers JOIN orchestrators ON orchestrators.id = workers.orchestrator_id
 ORDER BY orchestrators.name, workers.id
""")


def look(session: Session) -> list[Standing]:
    """Return all workers that are known, those that left a while ago too."""
    return [
        Standing(
            id=row.id,
            orchestrator=row.orchestrator,
            state=_state(row),
            running=row.running,
            loaded=tuple(row.loaded),
            heartbeat_at=row.heartbeat_at,
        )
        for row in session.execute(_LOOK, {"silence_s": SILENCE_S})
    ]


def _state(row: Row[tuple[object, ...]]) -> State:
    if row.left_at is not None:
        return "drained"
    if row.draining_at is not None and (row.heard_lately or row.running):
        return "draining"
    return "live" if row.heard else "silent"


def ask(session: Session, worker_ids: Collection[str]) -> None:
    """Ask workers to leave: at their next heartbeat, they take no more jobs. Twice is no error."""
    session.execute(
        update(Worker)
        .where(Worker.id.in_(worker_ids))
        .values(draining_at=func.coalesce(Worker.draining_at, func.now()))
    )
