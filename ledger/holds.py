"""Holds: funds reserved for a job (authorize), then charged (capture) or given back (void, expire).

Each is resolved once. The caller owns the transaction, so that a job's state and its money change
together. Holds are locked before accounts, and each in id order: a transaction that resolves holds
in several calls lets go of that order, so resolve what belongs together with one call of a kind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from ledger.accounts import platform_account
from ledger.authorizing import Companion, authorize, authorize_with
from ledger.errors import HoldAlreadyResolved, InvalidAmount, UnknownHold
from ledger.money import charge, split_fee
from ledger.tables import Charge, Hold
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

# A batch of captures in one statement; `unnest` pairs each hold with its part. An account that is
# missing makes the statement fail (a posting needs one), where a plain join would lose the capture.
_CAPTURE = text("""
WITH part AS (
    SELECT h.*, p.charged_units, p.charged, p.fee, p.payment, held.id AS held_account,
           available.id AS available_account, payable.id AS payable_account,
           revenue.id AS revenue_account
      FROM unnest(CAST(:hold_ids AS uuid[]), CAST(:units AS bigint[]),
                  CAST(:amounts AS numeric[]), CAST(:fees AS numeric[]),
                  CAST(:payments AS numeric[]))
           AS p (hold_id, charged_units, charged, fee, payment)
      JOIN holds h ON h.id = p.hold_id
      LEFT JOIN accounts held ON held.gateway_id = h.gateway_id AND held.kind = 'held'
      LEFT JOIN accounts available
             ON available.gateway_id = h.gateway_id AND available.kind = 'available'
      LEFT JOIN accounts payable
             ON payable.orchestrator_id = h.orchestrator_id AND payable.kind = 'payable'
      LEFT JOIN accounts revenue
             ON revenue.kind = 'revenue' AND revenue.currency = h.currency
            AND revenue.gateway_id IS NULL AND revenue.orchestrator_id IS NULL
), entry AS (
    INSERT INTO entries (kind, currency, hold_id) SELECT 'capture', currency, id FROM part
    RETURNING id, hold_id
), posting AS (
    INSERT INTO postings (entry_id, account_id, amount)
    SELECT entry.id, line.account_id, line.amount
      FROM entry JOIN part ON part.id = entry.hold_id,
           LATERAL (VALUES (held_account, -part.amount), (payable_account, payment),
                           (revenue_account, fee), (available_account, part.amount - charged))
                   AS line (account_id, amount)
     WHERE line.amount <> 0
)
INSERT INTO charges (hold_id, entry_id, reference, gateway_id, orchestrator_id, pipeline, model_id,
                     units, price_per_unit, pixels_per_unit, currency, amount, platform_fee,
                     orchestrator_payment, price_currency, rate, rate_divisor)
SELECT part.id, entry.id, reference, gateway_id, orchestrator_id, pipeline, model_id,
       charged_units, price_per_unit, pixels_per_unit, currency, charged, fee, payment,
       price_currency, CASE WHEN price_currency IS NOT NULL THEN rate END,
       CASE WHEN price_currency IS NOT NULL THEN rate_divisor END
  FROM part JOIN entry ON entry.hold_id = part.id
RETURNING *
""")

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


def capture(session: Session, units_by_hold: Mapping[UUID, int]) -> list[Charge]:
    """Charge the units that were delivered for each hold and give the rest back, in one statement.

    Returns the charges in no particular order.

    Raises:
        UnknownHold: A hold is not in the ledger.
        HoldAlreadyResolved: A hold was captured, voided or expired before. Nothing is written.
        InvalidAmount: No units, or more than were held.
    """
    if not units_by_hold:
        return []
    holds = lock_open(session, units_by_hold)
    parts = [_part(hold, units_by_hold[hold.id]) for hold in holds]
    for currency in sorted({hold.currency for hold in holds}):
        platform_account(session, "revenue", currency)
    rows = session.scalars(
        select(Charge).from_statement(_CAPTURE),
        {
            "hold_ids": [hold.id for hold in holds],
            "units": [units_by_hold[hold.id] for hold in holds],
            "amounts": [amount for amount, _, _ in parts],
            "fees": [fee for _, fee, _ in parts],
            "payments": [payment for _, _, payment in parts],
        },
    ).all()
    _resolved(holds, "captured", rows[0].created_at)
    return list(rows)


def _part(hold: Hold, units: int) -> tuple[Decimal, Decimal, Decimal]:
    """Return what units of a hold cost, the platform's fee, and the orchestrator's payment."""
    if not 0 < units <= hold.units:
        raise InvalidAmount("units", f"must be from 1 to the {hold.units} that are held")
    total = charge(units, hold.price, hold.exchange)
    return total, *split_fee(total, hold.fee_rate)


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
