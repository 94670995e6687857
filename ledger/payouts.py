"""Paying orchestrators: a batch of what is owed, marked paid when it is, reversed when it fails.

Creating a batch takes what is owed out of the orchestrators' accounts and into `payouts`, so that
no later batch pays it again; marking it paid moves it on to `funding`, where the money left. A line
that could not be paid, or came back, is reversed by a new entry, and is owed again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import reduce
from typing import Literal
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from ledger import names, sheets
from ledger.accounts import platform_account
from ledger.errors import NothingOwed, PayoutReversed, ReferenceReused, UnknownPayout
from ledger.money import EXACT, known_currency
from ledger.tables import Account, Payout, PayoutBatch

_OWED = text("""
SELECT o.id AS orchestrator_id, o.name AS orchestrator, v.currency, v.balance AS amount
  FROM ledger_balances v
  JOIN accounts a ON a.id = v.account_id
  JOIN orchestrators o ON o.id = a.orchestrator_id
 WHERE v.account = 'payable' AND v.balance > 0
   AND (CAST(:currency AS varchar) IS NULL OR v.currency = :currency)
   AND (CAST(:only AS uuid[]) IS NULL OR o.id = ANY(:only))
 ORDER BY o.name
""")

_CREATE = text("""
WITH batch AS (
    INSERT INTO payout_batches (reference, currency) VALUES (:reference, :currency)
    ON CONFLICT (reference) DO NOTHING
    RETURNING id
), payout AS (
    INSERT INTO payouts (batch_id, orchestrator_id, currency, amount)
    SELECT batch.id, line.orchestrator_id, :currency, line.amount
      FROM batch, unnest(CAST(:orchestrators AS uuid[]), CAST(:amounts AS numeric[]))
                  AS line (orchestrator_id, amount)
    RETURNING id, orchestrator_id, amount
), entry AS (
    INSERT INTO entries (kind, currency, payout_id) SELECT 'payout', :currency, id FROM payout
    RETURNING id, payout_id
), posting AS (
    INSERT INTO postings (entry_id, account_id, amount)
    SELECT entry.id, line.account_id, line.amount
      FROM entry
      JOIN payout ON payout.id = entry.payout_id
      JOIN accounts payable
        ON payable.orchestrator_id = payout.orchestrator_id AND payable.kind = 'payable',
           LATERAL (VALUES (payable.id, -payout.amount), (:payouts_account, payout.amount))
                   AS line (account_id, amount)
)
SELECT id FROM batch
""")

# Where the money goes to, and where it comes from, by the kind of entry and whether it was paid.
_DECIDE = text("""
WITH payout AS (
    SELECT y.id, y.currency, y.amount, payable.id AS payable, y.paid_at IS NOT NULL AS paid
      FROM payouts y
      JOIN accounts payable
        ON payable.orchestrator_id = y.orchestrator_id AND payable.kind = 'payable'
     WHERE y.id = ANY(:payouts)
), entry AS (
    INSERT INTO entries (kind, currency, payout_id) SELECT :kind, currency, id FROM payout
    RETURNING id, payout_id
)
INSERT INTO postings (entry_id, account_id, amount)
SELECT entry.id, line.account_id, line.amount
  FROM entry
  JOIN payout ON payout.id = entry.payout_id,
       LATERAL (VALUES
           (CASE WHEN payout.paid THEN :funding_account ELSE :payouts_account END, -payout.amount),
           (CASE WHEN :kind = 'payout_paid' THEN :funding_account ELSE payout.payable END,
            payout.amount)) AS line (account_id, amount)
""")

_LINES = text("""
SELECT payout_id, orchestrator, currency, amount, state, created_at, paid_at, reversed_at
  FROM billing_payouts WHERE batch = :reference ORDER BY orchestrator
""")

_COLUMNS = ("batch", "orchestrator", "currency", "amount", "state", "created_at", "paid_at")


@dataclass(frozen=True)
class Owed:
    """What an orchestrator has earned, less what was refunded and paid out."""

    orchestrator_id: UUID
    orchestrator: str
    currency: str
    amount: Decimal


@dataclass(frozen=True)
class Line:
    """One orchestrator's part of a batch."""

    payout_id: int
    orchestrator: str
    currency: str
    amount: Decimal
    state: str
    created_at: datetime
    paid_at: datetime | None
    reversed_at: datetime | None


@dataclass(frozen=True)
class Batch:
    """A payout: one line for each orchestrator."""

    id: int
    reference: str
    currency: str
    created_at: datetime
    lines: tuple[Line, ...]

    @property
    def total(self) -> Decimal:
        """The sum of the lines that are not reversed."""
        amounts = (line.amount for line in self.lines if line.state != "reversed")
        return reduce(EXACT.add, amounts, Decimal(0))


def owed(
    session: Session, currency: str | None = None, only: Collection[UUID] | None = None
) -> list[Owed]:
    """Return who is owed something, and how much, by name; `only` narrows the orchestrators.

    Raises:
        InvalidAmount: The currency is unknown.
    """
    if currency is not None:
        known_currency(currency)
    rows = session.execute(
        _OWED, {"currency": currency, "only": None if only is None else list(only)}
    )
    return [Owed(row.orchestrator_id, row.orchestrator, row.currency, row.amount) for row in rows]


def create(
    session: Session, reference: str, currency: str, only: Collection[UUID] | None = None
) -> Batch:
    """Pay all that is owed in a currency, or what is owed to some: one line for each orchestrator.

    The same reference again returns the batch that it made before.

    Raises:
        InvalidName: The reference is empty, too long or has unprintable characters.
        InvalidAmount: The currency is unknown.
        NothingOwed: There is nothing to pay.
        ReferenceReused: The reference was used with another currency, or for other orchestrators.
    """
    name = names.checked("reference", reference)
    known_currency(currency)
    # Two that pay the same orchestrators take turns, and the second sees what the first has paid.
    session.execute(
        select(Account.id)
        .where(Account.kind == "payable", Account.currency == currency)
        .where(Account.orchestrator_id.in_(only) if only is not None else Account.id > 0)
        .order_by(Account.id)
        .with_for_update(key_share=True)
    )
    earlier = _earlier(session, name, currency, only)
    if earlier is not None:
        return earlier
    due = owed(session, currency, only)
    if not due:
        raise NothingOwed(currency)
    made = session.scalar(
        _CREATE,
        {
            "reference": name,
            "currency": currency,
            "orchestrators": [one.orchestrator_id for one in due],
            "amounts": [one.amount for one in due],
            "payouts_account": platform_account(session, "payouts", currency),
        },
    )
    if made is None:
        # Somebody who pays other orchestrators has just taken the reference.
        earlier = _earlier(session, name, currency, only)
    return earlier or find(session, name)


def _earlier(
    session: Session, reference: str, currency: str, only: Collection[UUID] | None
) -> Batch | None:
    """Return the batch that a reference has made, if it has made one.

    Raises:
        ReferenceReused: It was made of another request: it is in another currency, pays an
            orchestrator that is none of `only`, or does not pay one of them that is owed something.
    """
    batch = session.scalar(select(PayoutBatch).where(PayoutBatch.reference == reference))
    if batch is None:
        return None
    if batch.currency != currency:
        raise ReferenceReused(reference)
    if only is not None:
        lines = select(Payout.orchestrator_id).where(Payout.batch_id == batch.id)
        paid, asked = set(session.scalars(lines)), set(only)
        # Who was owed nothing has no line, whoever has asked for one.
        if paid - asked or owed(session, currency, asked - paid):
            raise ReferenceReused(reference)
    return find(session, reference)


def find(session: Session, reference: str) -> Batch:
    """Return a batch by its reference, with its lines as they are now.

    Raises:
        UnknownPayout: There is none.
    """
    batch = None
    if reference.isprintable():
        batch = session.scalar(select(PayoutBatch).where(PayoutBatch.reference == reference))
    if batch is None:
        raise UnknownPayout(reference)
    rows = session.execute(_LINES, {"reference": reference}).mappings()
    return Batch(
        batch.id,
        batch.reference,
        batch.currency,
        batch.created_at,
        tuple(Line(**row) for row in rows),
    )


def list_batches(session: Session, limit: int = 100, before: int | None = None) -> list[Batch]:
    """Return the newest batches, or those older than `before`, the id of one."""
    newest = select(PayoutBatch.reference).order_by(PayoutBatch.id.desc()).limit(limit)
    if before is not None:
        newest = newest.where(PayoutBatch.id < before)
    return [find(session, reference) for reference in session.scalars(newest)]


def mark_paid(session: Session, reference: str) -> Batch:
    """Record that a batch was paid: all lines that are not reversed. Twice is as good as once.

    Raises:
        UnknownPayout: There is no such batch.
        PayoutReversed: All of its lines are reversed. Nothing is written.
    """
    return _decide(session, reference, "payout_paid", ("created",), None)


def reverse(session: Session, reference: str, orchestrator: str | None = None) -> Batch:
    """Take a batch back, or one orchestrator's line of it, paid or not: it is owed again.

    Twice is as good as once.

    Raises:
        UnknownPayout: There is no such batch, or it has no such line.
    """
    return _decide(session, reference, "payout_reversed", ("created", "paid"), orchestrator)


def _decide(
    session: Session,
    reference: str,
    kind: Literal["payout_paid", "payout_reversed"],
    states: Sequence[str],
    orchestrator: str | None,
) -> Batch:
    batch = find(session, reference)
    chosen = [line for line in batch.lines if orchestrator in (None, line.orchestrator)]
    if not chosen:
        raise UnknownPayout(f"{reference} to {orchestrator}")
    lock = text("SELECT id, state FROM payouts WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE")
    locked = session.execute(lock, {"ids": [line.payout_id for line in chosen]}).all()
    if kind == "payout_paid" and all(row.state == "reversed" for row in locked):
        raise PayoutReversed(reference)
    payouts = [row.id for row in locked if row.state in states]
    if payouts:
        session.execute(
            _DECIDE,
            {
                "payouts": payouts,
                "kind": kind,
                "payouts_account": platform_account(session, "payouts", batch.currency),
                "funding_account": platform_account(session, "funding", batch.currency),
            },
        )
    return find(session, reference)


def to_csv(batch: Batch) -> str:
    """Return a batch as CSV, for whoever makes the transfers: a line for each orchestrator."""
    return sheets.to_csv(
        _COLUMNS, ({"batch": batch.reference, **vars(line)} for line in batch.lines)
    )
