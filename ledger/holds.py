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
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from ledger import budgets
from ledger.accounts import balance, platform_account
from ledger.errors import (
    CurrencyMismatch,
    HoldAlreadyResolved,
    InsufficientFunds,
    InvalidAmount,
    OverPriceLimit,
    ReferenceReused,
    UnknownHold,
)
from ledger.journal import checked_reference
from ledger.limits import Limit
from ledger.money import charge, split_fee
from ledger.offers import Quote
from ledger.tables import Charge, Hold

# One round trip decides and writes: the balance is locked and compared, and only then do hold,
# entry and postings come to be.
_AUTHORIZE = text("""
WITH funds AS (
    SELECT available.id AS available_id, available.balance, held.id AS held_id
      FROM accounts available
      JOIN accounts held ON held.gateway_id = available.gateway_id AND held.kind = 'held'
     WHERE available.gateway_id = :gateway_id AND available.kind = 'available'
       AND available.currency = :currency
       FOR NO KEY UPDATE OF available
), hold AS (
    INSERT INTO holds (reference, gateway_id, orchestrator_id, offer_id, pipeline, model_id, units,
                       price_per_unit, pixels_per_unit, limit_price_per_unit,
                       limit_pixels_per_unit, fee_rate, currency, amount, expires_at,
                       price_currency, limit_currency, rate, rate_divisor, rate_id, api_key_id)
    SELECT :reference, :gateway_id, :orchestrator_id, :offer_id, :pipeline, :model_id, :units,
           :price_per_unit, :pixels_per_unit, :limit_price_per_unit, :limit_pixels_per_unit,
           (SELECT fee_rate FROM orchestrators WHERE id = :orchestrator_id),
           :currency, :amount, :expires_at, :price_currency, :limit_currency,
           CAST(:rate AS numeric), CAST(:rate_divisor AS numeric), CAST(:rate_id AS bigint),
           :api_key_id
      FROM funds WHERE funds.balance >= :amount
    ON CONFLICT (reference) DO NOTHING
    RETURNING id
), entry AS (
    INSERT INTO entries (kind, currency, hold_id)
    SELECT 'hold', :currency, hold.id FROM hold
    RETURNING id
), posting AS (
    INSERT INTO postings (entry_id, account_id, amount)
    SELECT entry.id, line.account_id, line.amount FROM entry, funds,
           LATERAL (VALUES (funds.available_id, -CAST(:amount AS numeric)),
                           (funds.held_id, :amount)) AS line (account_id, amount)
)
SELECT funds.balance, hold.id FROM funds LEFT JOIN hold ON true
""")

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


def authorize(
    session: Session,
    gateway_id: UUID,
    reference: str,
    quote: Quote,
    limit: Limit,
    expires_at: datetime,
    *,
    api_key_id: str | None = None,
) -> UUID:
    """Reserve a quote's amount for the job that `reference` names; returns the hold's id.

    The offer's price, the limit and the platform's share are fixed here, whatever changes later.

    Raises:
        InvalidName: The reference is empty, too long or has unprintable characters.
        InvalidAmount: The quote is for no units.
        OverPriceLimit: The quote's price is above the limit.
        InsufficientFunds: Less than the amount is available. Nothing is written.
        OverBudget: A budget of the gateway, or of the API key, does not cover the amount. The
            transaction cannot go on.
        ReferenceReused: The reference has a hold already. Nothing is written.
        UnknownGateway: There is no such gateway.
        CurrencyMismatch: The gateway's balance is in another currency than the quote.
        NoRate, StaleRate: The limit cannot be compared with the price.
    """
    offer = quote.offer
    if quote.units < 1:
        raise InvalidAmount("units", "must be at least 1")
    if limit.price is not None and not limit.allows(offer.price, quote.rates):
        raise OverPriceLimit(limit.price, offer.price, offer.orchestrator)
    values = {
        "gateway_id": gateway_id,
        "reference": checked_reference(reference),
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
        **_exchange(quote, limit),
        "api_key_id": api_key_id,
    }
    try:
        row = session.execute(_AUTHORIZE, values).one_or_none()
    except IntegrityError as error:
        over = budgets.refusal(error, quote.currency)
        if over is None:
            raise
        raise over from error
    if row is None:
        raise CurrencyMismatch(quote.currency, balance(session, gateway_id).currency)
    if row.id is not None:
        hold_id: UUID = row.id
        return hold_id
    if row.balance < quote.amount:
        raise InsufficientFunds(quote.amount, row.balance, quote.currency)
    raise ReferenceReused(reference)


def _exchange(quote: Quote, limit: Limit) -> dict[str, object]:
    """Return what currencies other than the amount's a hold has, and the rate between them."""
    price_currency, limit_currency = (
        price.currency if price is not None and price.currency != quote.currency else None
        for price in (quote.offer.price, limit.price)
    )
    foreign = price_currency or limit_currency
    rate = quote.rates.of(foreign) if foreign else None
    return {
        "price_currency": price_currency,
        "limit_currency": limit_currency,
        "rate": rate and rate.numerator,
        "rate_divisor": rate and rate.divisor,
        "rate_id": rate and rate.id,
    }


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
    holds = _lock_open(session, units_by_hold)
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
    holds = _lock_open(session, hold_ids)
    now = session.scalars(_RELEASE, {"hold_ids": list(hold_ids), "kind": kind}).one()
    _resolved(holds, _STATES[kind], now)


def _lock_open(session: Session, hold_ids: Collection[UUID]) -> Sequence[Hold]:
    """Lock holds in id order and return them, when all of them are open."""
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
