"""The journal's general writer: one balanced entry with its postings.

Holds and captures write their entries in the statements that decide them (`ledger.holds`); everything else comes through here.
The database checks the balance, keeps the gateways' balances, and refuses every later change.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from sqlalchemy import insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from ledger.errors import ReferenceReused
from ledger.tables import Entry, Posting


def post(
    session: Session, kind: str, reference: str, currency: str, lines: Mapping[int, Decimal]
) -> Entry:
    """Write an entry whose `lines` (account id to signed amount) add up to zero, once per reference.

    The same reference with the same facts returns the entry written before.

    Raises:
        ReferenceReused: The reference belongs to an entry with other facts.
        sqlalchemy.exc.IntegrityError: The lines do not balance, or a gateway's balance would be below zero.
    """
    entry = session.scalar(
        upsert(Entry)
        .values(kind=kind, reference=reference, currency=currency)
        .on_conflict_do_nothing(index_elements=["reference"])
        .returning(Entry)
    )
    if entry is None:
        return _earlier(session, kind, reference, currency, lines)
    rows = [
        {"entry_id": entry.id, "account_id": account, "amount": amount}
        for account, amount in lines.items()
    ]
    # One statement for all lines: the database checks that each statement balances.
    session.execute(insert(Posting).values(rows))
    return entry


def _earlier(
    session: Session, kind: str, reference: str, currency: str, lines: Mapping[int, Decimal]
) -> Entry:
    entry = session.scalars(select(Entry).where(Entry.reference == reference)).one()
    posted = session.execute(
        select(Posting.account_id, Posting.amount).where(Posting.entry_id == entry.id)
    )
    same = (entry.kind, entry.currency) == (kind, currency)
    if not same or {account: amount for account, amount in posted} != dict(lines):
        raise ReferenceReused(reference)
    return entry
