"""Holds: funds reserved for a job (authorize), then charged (capture) or given back (void, expire).

Each is resolved once. The caller owns the transaction, so that a job's state and its money change
together. Holds are locked before accounts, and each in id order: a transaction that resolves holds
in several calls lets go of that order, so resolve what belongs together with one call of a kind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Literal, NoReturn
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from ledger.authorizing import Companion, authorize, authorize_with
from ledger.direct import Direct
from ledger.errors import HoldAlreadyResolved, InvalidAmount, UnknownHold
from ledger.money import MAX_UNITS
from ledger.tables import Hold
from ledger.terms import Terms

__all__ = [
    "Companion",
    "Terms",
    "authorize",
    "authorize_with",
    "capture",
    "expire",
    "lock_open",
    "void",
]

# The database locks the holds, works out what is charged, and writes it; or it changes nothing.
_CAPTURE = Direct(
    text("SELECT ledger_capture(CAST(:hold_ids AS uuid[]), CAST(:units AS bigint[]))")
)

_RELEASE = text("""
WITH part AS (
    SELECT h.id, h.currency, h.amount, held.id AS held_account, available.id AS available_account
      FROM holds h
      LEFT JOIN accounts held ON held.gateway_id = h.gateway_id AND held.kind = 'held'
      LEFT JOIN accounts available
             ON available.gateway_id = h.gateway_id AND available.kind = 'available'
     WHERE h.id = ANY(:hold_ids)
), entry AS (
    INSERT INTO entries (kind, currency, hold_id) SELECT :kind, currency, id FROM part
    RETURNING id, hold_id
), posting AS (
    INSERT INTO postings (entry_id, account_id, amount)
    SELECT entry.id, line.account_id, line.amount
      FROM entry JOIN part ON part.id = entry.hold_id,
           LATERAL (VALUES (held_account, -part.amount), (available_account, part.amount))
                   AS line (account_id, amount)
)
SELECT now()
""")

_STATES = {"void": "voided", "expire": "expired"}


def capture(session: Session, units_by_hold: Mapping[UUID, int]) -> None:
    """Charge the units that were delivered for each hold and give the rest back, in one call.

    Raises:
        UnknownHold: A hold is not in the ledger.
        HoldAlreadyResolved: A hold was captured, voided or expired before. Nothing is written.
        InvalidAmount: No units, or more than were held.
    """
    if not units_by_hold:
        return
    values = {"hold_ids": list(units_by_hold), "units": list(units_by_hold.values())}
    sane = all(0 < units <= MAX_UNITS for units in units_by_hold.values())
    if not sane or _CAPTURE.rows(session, values) == [(0,)]:
        _say_why(session, units_by_hold)
    for hold_id in units_by_hold:
        if known := session.identity_map.get(session.identity_key(Hold, hold_id)):
            session.expire(known)


def _say_why(session: Session, units_by_hold: Mapping[UUID, int]) -> NoReturn:
    for hold in lock_open(session, units_by_hold):
        if not 0 < units_by_hold[hold.id] <= hold.units:
            raise InvalidAmount("units", f"must be from 1 to the {hold.units} that are held")
    raise AssertionError("All holds can be captured, and were not.")


def void(session: Session, hold_ids: Sequence[UUID]) -> None:
    """Give held funds back.

    Raises:
        UnknownHold: A hold is not in the ledger.
        HoldAlreadyResolved: A hold was captured, voided or expired before. Nothing is written.
    """
    _release(session, hold_ids, "void")


def expire(session: Session, hold_ids: Sequence[UUID]) -> None:
    """Give held funds back because their time is over, which is for the caller to know.

    Raises:
        UnknownHold: A hold is not in the ledger.
        HoldAlreadyResolved: A hold was captured, voided or expired before. Nothing is written.
    """
    _release(session, hold_ids, "expire")


def _release(session: Session, hold_ids: Sequence[UUID], kind: Literal["void", "expire"]) -> None:
    if not hold_ids:
        return
    holds = lock_open(session, hold_ids)
    now = session.scalars(_RELEASE, {"hold_ids": list(hold_ids), "kind": kind}).one()
    _resolved(holds, _STATES[kind], now)


def lock_open(session: Session, hold_ids: Collection[UUID]) -> Sequence[Hold]:
    """Lock holds in id order and return them, when all of them are open.

    Raises:
        UnknownHold: A hold is not in the ledger.
        HoldAlreadyResolved: A hold is not open.
    """
    holds = session.scalars(
        select(Hold)
        .where(Hold.id.in_(hold_ids))
        .order_by(Hold.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    found = {hold.id: hold for hold in holds}
    for hold_id in hold_ids:
        if hold_id not in found:
            raise UnknownHold(hold_id)
        if found[hold_id].state != "open":
            raise HoldAlreadyResolved(hold_id, found[hold_id].state)
    return holds


def _resolved(holds: Sequence[Hold], state: str, now: datetime) -> None:
    """Note in the session what the database has just written to the holds."""
    for hold in holds:
        set_committed_value(hold, "state", state)
        set_committed_value(hold, "resolved_at", now)
