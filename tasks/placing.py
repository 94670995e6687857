"""The row of a new job, inserted in the statement that makes its hold: both come to be or neither.

Who may have a job, at what price and when it is the same as an earlier one is for `tasks.jobs`.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import CTE, bindparam, text
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from ledger import holds
from ledger.holds import Companion, Terms
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


def place(session: Session, terms: Terms, facts: Mapping[str, object]) -> Job:
    """Hold the funds and queue a job of these `facts`; returns it as `tasks.jobs.find` would.

    Raises:
        LedgerError: As `ledger.holds.authorize_with`.
        sqlalchemy.exc.IntegrityError: The gateway has a job of this idempotency key.
    """
    values = {f"new_{name}": value for name, value in facts.items()}
    hold, orchestrator, job = holds.authorize_with(session, terms, _WITH_JOB, values)
    set_committed_value(job, "hold", hold)
    set_committed_value(job, "orchestrator", orchestrator)
    set_committed_value(job, "outputs", [])
    return job


def _insert(hold: CTE) -> Insert:
    columns = Job.__table__.columns
    own = [bindparam(f"new_{name}", type_=columns[name].type) for name in _OWN]
    values = ", ".join(
        [f":{bind.key}" for bind in own] + [f"{hold.name}.{name}" for name in _OF_HOLD]
    )
    selected = text(f"SELECT {values} FROM {hold.name}").bindparams(*own).columns()  # noqa: S608  names
    return insert(Job).from_select([*_OWN, *_OF_HOLD.values()], selected)


_WITH_JOB = Companion(Job, _insert)
