"""Refunds: a part of a charge, or all of it, given back to the gateway.

A refund is a new entry; the charge stays as it was, with what is refunded of it beside it. The
orchestrator and the platform give back their parts as they took them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from ledger.errors import InvalidAmount, ReferenceReused, UnknownCharge
from ledger.journal import given_reference, kept_reference, within_range
from ledger.money import EXACT, plain, split_refund
from ledger.money import amount as exact_amount
from ledger.tables import Account, Charge, Entry, Refund

_REFUND = text("""
WITH entry AS (
    INSERT INTO entries (kind, reference, currency) VALUES ('refund', :reference, :currency)
    ON CONFLICT (reference) DO NOTHING
    RETURNING *
), refund AS (
    INSERT INTO refunds (entry_id, hold_id, amount, platform_fee, orchestrator_payment)
    SELECT entry.id, :hold_id, :amount, :fee, :payment FROM entry
), posting AS (
    INSERT INTO postings (entry_id, account_id, amount)
    SELECT entry.id, line.account_id, line.amount
      FROM entry, LATERAL (VALUES
           ((SELECT id FROM accounts WHERE gateway_id = :gateway_id AND kind = 'available'),
            CAST(:amount AS numeric)),
           ((SELECT id FROM accounts WHERE orchestrator_id = :orchestrator_id
                                       AND kind = 'payable'), -CAST(:payment AS numeric)),
           ((SELECT id FROM accounts WHERE kind = 'revenue' AND currency = :currency
                AND gateway_id IS NULL AND orchestrator_id IS NULL), -CAST(:fee AS numeric)))
           AS line (account_id, amount)
     WHERE line.amount <> 0
)
SELECT * FROM entry
""")


@dataclass(frozen=True)
class GivenBack:
    """One refund of a charge, split as the charge was."""

    reference: str
    amount: Decimal
    platform_fee: Decimal
    orchestrator_payment: Decimal
    created_at: datetime


@dataclass(frozen=True)
class History:
    """What was charged for a hold, and all that was given back of it, the oldest first."""

    charged: Decimal
    refunded: Decimal
    currency: str
    refunds: tuple[GivenBack, ...]


def refund(session: Session, hold_id: UUID, amount: Decimal, reference: str) -> Entry:
    """Give back an amount of what was charged for a hold.

    The same reference again returns the entry it made before.

    Raises:
        InvalidAmount: The amount is not above zero, not exact to 18 decimals, or above what is left
            of the charge, or than the gateway's account can take.
        InvalidName: The reference is empty, too long or has unprintable characters.
        UnknownCharge: Nothing was charged for the hold.
        ReferenceReused: The reference was used with another amount or charge.
    """
    exact = exact_amount(amount)
    if exact <= 0:
        raise InvalidAmount("amount", "must be greater than zero")
    name = kept_reference("refund", reference)
    charge = _lock_charge(session, hold_id)
    earlier = _earlier(session, name, hold_id, exact)
    if earlier is not None:
        return earlier
    left = EXACT.subtract(charge.amount, charge.refunded)
    if exact > left:
        raise InvalidAmount("amount", f"must be at most the {plain(left)} left of the charge")
    _hold_off_payouts(session, charge.orchestrator_id)
    fee, payment = split_refund(charge.amount, charge.platform_fee, charge.refunded, exact)
    values = {
        "reference": name,
        "currency": charge.currency,
        "hold_id": hold_id,
        "gateway_id": charge.gateway_id,
        "orchestrator_id": charge.orchestrator_id,
        "amount": exact,
        "fee": fee,
        "payment": payment,
    }
    with within_range():
        entry: Entry | None = session.scalars(
            select(Entry).from_statement(_REFUND), values
        ).one_or_none()
    if entry is None:
        # Whoever wrote it in between refunded another charge: this one is locked.
        raise ReferenceReused(reference)
    set_committed_value(charge, "refunded", EXACT.add(charge.refunded, exact))
    return entry


def history(session: Session, hold_id: UUID) -> History:
    """Return what was charged for a hold, with its refunds.

    Raises:
        UnknownCharge: Nothing was charged for the hold.
    """
    charge = session.scalar(select(Charge).where(Charge.hold_id == hold_id))
    if charge is None:
        raise UnknownCharge(hold_id)
    rows = session.execute(
        select(Refund, Entry)
        .join(Entry, Entry.id == Refund.entry_id)
        .where(Refund.hold_id == hold_id)
        .order_by(Refund.entry_id)
    )
    given = tuple(
        GivenBack(
            given_reference(entry),
            row.amount,
            row.platform_fee,
            row.orchestrator_payment,
            row.created_at,
        )
        for row, entry in rows
    )
    # Summed here: in between the two reads, another refund may have come.
    refunded = Decimal(0)
    for one in given:
        refunded = EXACT.add(refunded, one.amount)
    return History(charge.amount, refunded, charge.currency, given)


def _lock_charge(session: Session, hold_id: UUID) -> Charge:
    """Lock a charge, so that its refunds take turns."""
    charge = session.scalar(
        select(Charge)
        .where(Charge.hold_id == hold_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if charge is None:
        raise UnknownCharge(hold_id)
    return charge


def _hold_off_payouts(session: Session, orchestrator_id: UUID) -> None:
    """Let a payout see all of this refund or nothing of it; refunds share the lock."""
    payable = select(Account.id).where(
        Account.orchestrator_id == orchestrator_id, Account.kind == "payable"
    )
    session.execute(payable.with_for_update(read=True))


def _earlier(session: Session, reference: str, hold_id: UUID, amount: Decimal) -> Entry | None:
    row = session.execute(
        select(Entry, Refund.hold_id, Refund.amount)
        .join(Refund, Refund.entry_id == Entry.id)
        .where(Entry.reference == reference)
    ).one_or_none()
    if row is None:
        return None
    entry, refunded_hold, refunded = row
    if (refunded_hold, refunded) != (hold_id, amount):
        raise ReferenceReused(given_reference(entry))
    return entry
