"""Moving a job to another orchestrator within what is held for it.

The old hold is voided and a new one takes its place: for the same job, of the same gateway, by the
same key, under the limit and until the time that the old one recorded, and for no more. The chain
of holds of a job is a line, of which the database lets only the last one be open or captured.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from ledger import budgets
from ledger.errors import CurrencyMismatch, InvalidAmount, OverPriceLimit
from ledger.holds import lock_open
from ledger.limits import Limit
from ledger.offers import Quote
from ledger.tables import Hold
from ledger.terms import Terms, facts

# One statement, so that a budget sees what is given back and what is taken as one difference.
_REASSIGN = text("""
WITH old AS (
    SELECT h.id, h.amount, available.id AS available_id, held.id AS held_id
      FROM holds h
      LEFT JOIN accounts available
             ON available.gateway_id = h.gateway_id AND available.kind = 'available'
      LEFT JOIN accounts held ON held.gateway_id = h.gateway_id AND held.kind = 'held'
     WHERE h.id = :supersedes
), hold AS (
    INSERT INTO holds (id, supersedes, reference, gateway_id, orchestrator_id, offer_id, pipeline,
                       model_id, units, price_per_unit, pixels_per_unit, limit_price_per_unit,
                       limit_pixels_per_unit, fee_rate, currency, amount, expires_at,
                       price_currency, limit_currency, rate, rate_divisor, rate_id, api_key_id)
    VALUES (:id, :supersedes, :reference, :gateway_id, :orchestrator_id, :offer_id, :pipeline,
            :model_id, :units, :price_per_unit, :pixels_per_unit, :limit_price_per_unit,
            :limit_pixels_per_unit,
            (SELECT fee_rate FROM orchestrators WHERE id = :orchestrator_id),
            :currency, :amount, :expires_at, :price_currency, :limit_currency, :rate,
            :rate_divisor, :rate_id, :api_key_id)
    RETURNING id, amount
), entry AS (
    INSERT INTO entries (kind, currency, hold_id)
    SELECT 'void', :currency, old.id FROM old
     UNION ALL
    SELECT 'hold', :currency, hold.id FROM hold
    RETURNING id, kind
), posting AS (
    INSERT INTO postings (entry_id, account_id, amount)
    SELECT entry.id, line.account_id, line.amount
      FROM old, hold, entry,
           LATERAL (SELECT CASE entry.kind WHEN 'void' THEN old.amount ELSE -hold.amount END)
                   AS back (amount),
           LATERAL (VALUES (old.available_id, back.amount), (old.held_id, -back.amount))
                   AS line (account_id, amount)
)
SELECT FROM hold
""")


def reassign(session: Session, hold_id: UUID, quote: Quote) -> UUID:
    """Void an open hold and authorize a quote in its place, both or neither; returns the new id.

    The caller owns the transaction, and has locked what the hold is for.

    Raises:
        UnknownHold: The hold is not in the ledger.
        HoldAlreadyResolved: It was captured, voided or expired before. Nothing is written.
        CurrencyMismatch: The quote is in another currency than the hold. Nothing is written.
        InvalidAmount: The quote is for other units than the hold, or for more money. Nothing is
            written.
        OverPriceLimit: Its price is above the limit that the hold recorded. Nothing is written.
        OverBudget: The new hold counts in another day or month than the old one, whose budget does
            not cover it. The transaction cannot go on.
        NoRate, StaleRate: The limit cannot be compared with the price.
    """
    [old] = lock_open(session, [hold_id])
    limit = Limit(old.pipeline, old.model_id, old.limit_price)
    _check(old, quote, limit)
    terms = Terms(old.gateway_id, old.reference, quote, limit, old.expires_at, old.api_key_id)
    new_id: UUID = uuid7()
    try:
        session.execute(_REASSIGN, {**facts(terms), "id": new_id, "supersedes": hold_id})
    except IntegrityError as error:
        over = budgets.refusal(error, quote.currency)
        if over is None:
            raise
        raise over from error
    session.expire(old)
    return new_id


def _check(old: Hold, quote: Quote, limit: Limit) -> None:
    if quote.currency != old.currency:
        raise CurrencyMismatch(quote.currency, old.currency)
    if quote.units != old.units:
        raise InvalidAmount("units", f"must be the {old.units} that are held")
    if limit.price is not None and not limit.allows(quote.offer.price, quote.rates):
        raise OverPriceLimit(limit.price, quote.offer.price, quote.offer.orchestrator)
    if quote.amount > old.amount:
        raise InvalidAmount("amount", f"must not be above the {old.amount} that is held")
