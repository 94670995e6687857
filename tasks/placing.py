"""The row of a new job, inserted in the statement that makes its hold: both come to be or neither.

Who may have a job, at what price and when it is the same as an earlier one is for `tasks.jobs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb
from sqlalchemy import CTE, bindparam, column, text
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from ledger import holds
from ledger.db import known
from ledger.holds import Companion, Terms
from tasks import waiting
from tasks.tables import Job

# What a job says itself, and what it has in common with its hold.
_OWN = (
    *("id", "idempotency_key", "request_hash", "queue", "batch_key", "params", "input_key"),
    *("num_images", "priority", "callback", "traceparent"),
)
_OF_HOLD = {
    **{name: name for name in ("gateway_id", "orchestrator_id", "pipeline", "model_id", "units")},
    "id": "hold_id",
    "expires_at": "deadline",
}
# What every job is when it comes to be, as the table has it by default.
_NEW: Mapping[str, Any] = {
    **{column.name: None for column in Job.__table__.columns if column.nullable},
    **dict.fromkeys(("attempt", "handed_back", "step", "steps"), 0),
    **dict.fromkeys(("swept", "kept"), True),
    "state": "queued",
}


def place(session: Session, terms: Terms, facts: Mapping[str, object]) -> tuple[Job, int]:
    """Hold the funds and queue a job of these `facts`.

    Returns it as `tasks.jobs.find` would, but of no session; and how many jobs come before it,
    counted as `tasks.waiting.look` does.

    Raises:
        LedgerError: As `ledger.holds.authorize_with`.
        sqlalchemy.exc.IntegrityError: The gateway has a job of this idempotency key.
    """
    values = {f"new_{name}": _as_sent(value) for name, value in facts.items()}
    held = holds.authorize_with(session, terms, _WITH_JOB, values)
    hold = held.hold
    [ahead] = held.beside
    shared = {ours: getattr(hold, name) for name, ours in _OF_HOLD.items()}
    dates = dict.fromkeys(("created_at", "available_at", "rung_at"), hold.created_at)
    job = known(Job, **{**_NEW, **facts, **shared, **dates})
    set_committed_value(job, "hold", hold)
    set_committed_value(job, "orchestrator", held.orchestrator)
    set_committed_value(job, "outputs", [])
    return job, ahead


def _as_sent(value: object) -> object:
    return Jsonb(value) if isinstance(value, Mapping) else value


def _insert(hold: CTE) -> Insert:
    columns = Job.__table__.columns
    own = [bindparam(f"new_{name}", type_=columns[name].type) for name in _OWN]
    values = ", ".join(
        [f":{bind.key}" for bind in own] + [f"{hold.name}.{name}" for name in _OF_HOLD]
    )
    selected = text(f"SELECT {values} FROM {hold.name}").bindparams(*own).columns()  # noqa: S608  names
    return insert(Job).from_select([*_OWN, *_OF_HOLD.values()], selected)


def _ahead() -> CTE:
    """Return the count of those who come first. The statement does not see what it inserts."""
    counted = waiting.ahead_of("new_queue", "new_priority", "new_id")
    return text(f"SELECT {counted} AS ahead").columns(column("ahead")).cte("place")


_WITH_JOB = Companion(_insert, _ahead())
