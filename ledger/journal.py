"""The journal's general writer: one balanced entry with its postings.

Holds, captures and refunds write their entries in the statements that decide them (`ledger.holds`,
`ledger.refunds`); everything else comes through here. The database checks the entry, keeps the
gateways' balances, and refuses every later change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Literal, TypeAlias

from psycopg.errors import NumericValueOutOfRange
from sqlalchemy import select, text
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from ledger import names
from ledger.errors import InvalidAmount, ReferenceReused
from ledger.tables import Entry, Posting

# The kinds of entry that a caller names by a reference.
Named: TypeAlias = Literal["top_up", "refund"]

# The books keep the references of each kind apart, and nobody else sees how.
_PREFIXES: Mapping[str, str] = {"top_up": "top-up:", "refund": "refund:"}

# One statement, because the database looks at an entry and its lines when the statement ends.
_POST = text("""
WITH entry AS (
    INSERT INTO entries (kind, reference, currency) VALUES (:kind, :reference, :currency)
    ON CONFLICT (reference) DO NOTHING
    RETURNING *
), posting AS (
    INSERT INTO postings (entry_id, account_id, amount)
    SELECT entry.id, line.account_id, line.amount
      FROM entry, unnest(CAST(:accounts AS bigint[]), CAST(:amounts AS numeric[]))
                  AS line (account_id, amount)
)
SELECT * FROM entry
""")


def kept_reference(kind: Named, reference: str) -> str:
    """Return how the books keep a caller's reference of a kind of entry.

    Raises:
        InvalidName: It is not 1 to 200 printable characters.
    """
    return f"{_PREFIXES[kind]}{names.checked('reference', reference)}"


def given_reference(entry: Entry) -> str:
    """Return the reference of an entry as its caller gave it."""
    return (entry.reference or "").removeprefix(_PREFIXES.get(entry.kind, ""))


@contextlib.contextmanager
def within_range() -> Iterator[None]:
    """Name the amount where the database finds that a balance would outgrow its account.

    Raises:
        InvalidAmount: It would. The transaction cannot go on.
    """
    try:
        yield
    except DataError as error:
        if isinstance(error.orig, NumericValueOutOfRange):
            raise InvalidAmount("amount", "is more than the account can still take") from error
        raise


def post(
    session: Session, kind: Named, reference: str, currency: str, lines: Mapping[int, Decimal]
) -> Entry:
    """Write an entry with `lines` (account id to signed amount) that add up to zero.

    The same reference with the same facts returns the entry written before.

    Raises:
        InvalidName: The reference is not 1 to 200 printable characters.
        InvalidAmount: A balance would outgrow its account. The transaction cannot go on.
        ReferenceReused: The reference belongs to an entry with other facts.
        sqlalchemy.exc.IntegrityError: The lines do not balance, are not what the kind of entry
            posts, or would take a gateway's balance below zero.
    """
    kept = kept_reference(kind, reference)
    values = {
        "kind": kind,
        "reference": kept,
        "currency": currency,
        "accounts": list(lines.keys()),
        "amounts": list(lines.values()),
    }
    with within_range():
        entry: Entry | None = session.scalars(
            select(Entry).from_statement(_POST), values
        ).one_or_none()
    if entry is not None:
        return entry
    # The statement waited for whoever wrote the reference first, so the entry can be seen now.
    earlier = session.scalars(select(Entry).where(Entry.reference == kept)).one()
    posted = session.execute(
        select(Posting.account_id, Posting.amount).where(Posting.entry_id == earlier.id)
    )
    same = (earlier.kind, earlier.currency) == (kind, currency)
    if not same or {row.account_id: row.amount for row in posted} != dict(lines):
        raise ReferenceReused(reference)
    return earlier
