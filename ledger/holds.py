"""Holds: funds reserved for a job (authorize), then charged (capture) or given back (void, expire). Each once.

The caller owns the transaction, so that a job's state and its money change together. Holds are locked before accounts
everywhere, and each in id order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from ledger.accounts import platform_account
from ledger.errors import (
    HoldAlreadyResolved,
    InsufficientFunds,
    InvalidAmount,
    OverPriceLimit,
    UnknownGateway,
    UnknownHold,
)
from ledger.limits import Limit
from ledger.money import EXACT, charge, split_fee
from ledger.offers import Quote
from ledger.tables import Charge, Hold, Orchestrator

# One round trip decides and writes: the balance is locked and compared, and only then do hold, entry and postings come to be.
_AUTHORIZE = text("""
WITH funds AS (
    SELECT available.id AS available_id, available.balance, held.id AS held_id
      FROM accounts available
      JOIN accounts held ON held.gateway_id = available.gateway_id AND held.kind = 'held'
     WHERE available.gateway_id = :gateway_id AND available.kind = 'available'
       FOR NO KEY UPDATE OF available
), hold AS (
    INSERT INTO holds (reference, gateway_id, orchestrator_id, offer_id, pipeline, model_id, units, price_per_unit,
                       pixels_per_unit, limit_price_per_unit, limit_pixels_per_unit, currency, amount, expires_at)
    SELECT :reference, :gateway_id, :orchestrator_id, :offer_id, :pipeline, :model_id, :units, :price_per_unit,
           :pixels_per_unit, :limit_price_per_unit, :limit_pixels_per_unit, :currency, :amount, :expires_at
      FROM funds WHERE funds.balance >= :amount
    RETURNING id
), entry AS (
    INSERT INTO entries (kind, currency, hold_id) SELECT 'hold', :currency, hold.id FROM hold RETURNING id
), posting AS (
    INSERT INTO postings (entry_id, account_id, amount)
    SELECT entry.id, line.account_id, line.amount FROM entry, funds,
           LATERAL (VALUES (funds.available_id, -CAST(:amount AS numeric)), (funds.held_id, :amount))
                   AS line (account_id, amount)
)
SELECT funds.balance, hold.id FROM funds LEFT JOIN hold ON true
""")

# A batch of captures in one statement; `unnest` pairs each hold with its part.
_CAPTURE = text("""
WITH part AS (
    SELECT h.*, p.charged_units, p.charged, p.fee, p.payment, held.id AS held_account,
           available.id AS available_account, payable.id AS payable_account
      FROM unnest(CAST(:hold_ids AS uuid[]), CAST(:units AS bigint[]), CAST(:amounts AS numeric[]),
                  CAST(:fees AS numeric[]), CAST(:payments AS numeric[]))
           AS p (hold_id, charged_units, charged, fee, payment)
      JOIN holds h ON h.id = p.hold_id
      JOIN accounts held ON held.gateway_id = h.gateway_id AND held.kind = 'held'
      JOIN accounts available ON available.gateway_id = h.gateway_id AND available.kind = 'available'
      JOIN accounts payable ON payable.orchestrator_id = h.orchestrator_id AND payable.kind = 'payable'
                           AND payable.currency = h.currency
), entry AS (
    INSERT INTO entries (kind, currency, hold_id) SELECT 'capture', currency, id FROM part RETURNING id, hold_id
), posting AS (
    INSERT INTO postings (entry_id, account_id, amount)
    SELECT entry.id, line.account_id, line.amount FROM entry JOIN part ON part.id = entry.hold_id,
           LATERAL (VALUES (held_account, -part.amount), (payable_account, payment), (:revenue, fee),
                           (available_account, part.amount - charged)) AS line (account_id, amount)
     WHERE line.amount <> 0
)
INSERT INTO charges (hold_id, entry_id, reference, gateway_id, orchestrator_id, pipeline, model_id, units,
                     price_per_unit, pixels_per_unit, currency, amount, platform_fee, orchestrator_payment)
SELECT part.id, entry.id, reference, gateway_id, orchestrator_id, pipeline, model_id, charged_units,
       price_per_unit, pixels_per_unit, currency, charged, fee, payment
  FROM part JOIN entry ON entry.hold_id = part.id
RETURNING *
""")

_RELEASE = text("""
WITH part AS (
    SELECT h.id, h.currency, h.amount, held.id AS held_account, available.id AS available_account
      FROM holds h
      JOIN accounts held ON held.gateway_id = h.gateway_id AND held.kind = 'held'
      JOIN accounts available ON available.gateway_id = h.gateway_id AND available.kind = 'available'
     WHERE h.id = ANY(:hold_ids)
), entry AS (
    INSERT INTO entries (kind, currency, hold_id) SELECT :kind, currency, id FROM part RETURNING id, hold_id
)
INSERT INTO postings (entry_id, account_id, amount)
SELECT entry.id, line.account_id, line.amount FROM entry JOIN part ON part.id = entry.hold_id,
       LATERAL (VALUES (held_account, -part.amount), (available_account, part.amount)) AS line (account_id, amount)
""")


def authorize(
    session: Session,
    gateway_id: UUID,
    reference: str,
    quote: Quote,
    limit: Limit,
    expires_at: datetime,
) -> UUID:
    """Reserve a quote's amount for the job that `reference` names; returns the hold's id.

    Raises:
        OverPriceLimit: The quote's price is above the limit.
        InsufficientFunds: Less than the amount is available. Nothing is written.
        UnknownGateway: There is no such gateway.
    """
    offer = quote.offer
    if not limit.allows(offer.price):
        assert limit.price is not None  # noqa: S101  a limit without a price allows everything
        raise OverPriceLimit(limit.price, offer.price, offer.orchestrator)
    row = session.execute(
        _AUTHORIZE,
        {
            "gateway_id": gateway_id,
            "reference": reference,
            "orchestrator_id": offer.orchestrator_id,
            "offer_id": offer.id,
            "pipeline": offer.capability.pipeline,
            "model_id": offer.capability.model_id,
            "units": quote.units,
            "price_per_unit": offer.price.price_per_unit,
            "pixels_per_unit": offer.price.pixels_per_unit,
            "limit_price_per_unit": limit.price and limit.price.price_per_unit,
            "limit_pixels_per_unit": limit.price and limit.price.pixels_per_unit,
            "currency": quote.currency,
            "amount": quote.amount,
            "expires_at": expires_at,
        },
    ).one_or_none()
    if row is None:
        raise UnknownGateway(gateway_id)
    if row.id is None:
        raise InsufficientFunds(quote.amount, row.balance, quote.currency)
    hold_id: UUID = row.id
    return hold_id


def capture(session: Session, units_by_hold: Mapping[UUID, int]) -> list[Charge]:
    """Charge the units that were delivered for each hold and give the rest back, all in one statement.

    Raises:
        UnknownHold: A hold is not in the ledger.
        HoldAlreadyResolved: A hold was captured, voided or expired before. Nothing is written.
        InvalidAmount: No units, or more than were held.
    """
    if not units_by_hold:
        return []
    holds = _lock_open(session, units_by_hold)
    parts = [_part(hold, units_by_hold[hold.id], fee_rate) for hold, fee_rate in holds]
    rows = session.scalars(
        select(Charge).from_statement(_CAPTURE),
        {
            "hold_ids": [hold.id for hold, _ in holds],
            "units": [units_by_hold[hold.id] for hold, _ in holds],
            "amounts": [amount for amount, _, _ in parts],
            "fees": [fee for _, fee, _ in parts],
            "payments": [payment for _, _, payment in parts],
            "revenue": platform_account(session, "revenue", holds[0][0].currency),
        },
    )
    return list(rows)


def _part(hold: Hold, units: int, fee_rate: Decimal) -> tuple[Decimal, Decimal, Decimal]:
    """Return what is charged for units of a hold, the platform's fee and the orchestrator's payment."""
    if not 0 < units <= hold.units:
        raise InvalidAmount("units", f"must be from 1 to the {hold.units} that are held")
    total = charge(units, hold.price)
    fee, payment = split_fee(total, fee_rate)
    assert EXACT.add(fee, payment) == total  # noqa: S101  money is never lost between two lines
    return total, fee, payment


def void(session: Session, hold_ids: Sequence[UUID]) -> None:
    """Give held funds back.

    Raises:
        UnknownHold: A hold is not in the ledger.
        HoldAlreadyResolved: A hold was captured, voided or expired before. Nothing is written.
    """
    _release(session, hold_ids, "void")


def expire(session: Session, hold_ids: Sequence[UUID]) -> None:
    """Give held funds back because their time is over.

    Raises:
        UnknownHold: A hold is not in the ledger.
        HoldAlreadyResolved: A hold was captured, voided or expired before. Nothing is written.
    """
    _release(session, hold_ids, "expire")


def _release(session: Session, hold_ids: Sequence[UUID], kind: Literal["void", "expire"]) -> None:
    if not hold_ids:
        return
    _lock_open(session, hold_ids)
    session.execute(_RELEASE, {"hold_ids": list(hold_ids), "kind": kind})


def _lock_open(
    session: Session, hold_ids: Mapping[UUID, int] | Sequence[UUID]
) -> list[tuple[Hold, Decimal]]:
    """Lock holds in id order and return each with its orchestrator's fee rate."""
    rows = session.execute(
        select(Hold, Orchestrator.fee_rate)
        .join(Orchestrator, Orchestrator.id == Hold.orchestrator_id)
        .where(Hold.id.in_(list(hold_ids)))
        .order_by(Hold.id)
        .with_for_update(of=Hold, key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    found = {hold.id: hold for hold, _ in rows}
    for hold_id in hold_ids:
        if hold_id not in found:
            raise UnknownHold(hold_id)
        if found[hold_id].state != "open":
            raise HoldAlreadyResolved(hold_id, found[hold_id].state)
    return [(hold, fee_rate) for hold, fee_rate in rows]
