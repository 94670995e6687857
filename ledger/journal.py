"""The journal's general writer: one balanced entry with its postings.

Holds, captures and refunds write their entries in the statements that decide them (`ledger.holds`,
`ledger.refunds`); everything else comes through here. The database checks the entry, keeps the
gateways' balances, and refuses every later change.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal, TypeAlias

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from ledger.errors import InvalidName, ReferenceReused
from ledger.tables import Entry, Posting

# The kinds of entry that a caller names by a reference.
Named: TypeAlias = Literal["top_up", "refund"]

_MAX_REFERENCE = 200
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


def checked_reference(reference: str) -> str:
    """Return a caller's reference when it can be kept.

    Raises:
        InvalidName: It is not 1 to 200 printable characters.
    """
    if not (1 <= len(reference) <= _MAX_REFERENCE and reference.isprintable()):
        raise InvalidName(f"reference: must be 1 to {_MAX_REFERENCE} printable characters.")
    return reference


def kept_reference(kind: Named, reference: str) -> str:
    """Return how the books keep a caller's reference of a kind of entry.

    Raises:
        InvalidName: It is not 1 to 200 printable characters.
    """
    return f"{_PREFIXES[kind]}{checked_reference(reference)}"


def given_reference(entry: Entry) -> str:
    """Return the reference of an entry as its caller gave it."""
    return (entry.reference or "").removeprefix(_PREFIXES.get(entry.kind, ""))


def post(
    session: Session, kind: Named, reference: str, currency: str, lines: Mapping[int, Decimal]
) -> Entry:
    """Write an entry with `lines` (account id to signed amount) that add up to zero.

    The same reference with the same facts returns the entry written before.

    Raises:
        InvalidName: The reference is not 1 to 200 printable characters.
        ReferenceReused: The reference belongs to an entry with other facts.
        sqlalchemy.exc.IntegrityError: The lines do not balance, are not what the kind of entry
            posts, or would take a gateway's balance below zero.
    """
    kept = kept_reference(kind, reference)
    entry: Entry | None = session.scalars(
        select(Entry).from_statement(_POST),
        {
            "kind": kind,
            "reference": kept,
            "currency": currency,
            "accounts": list(lines.keys()),
            "amounts": list(lines.values()),
        },
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
