"""Keeping the balances of busy accounts quick to read: a snapshot, and the postings after it.

Taken now and then by the scheduler. Without them every balance is right, too, only slower: what an
orchestrator is owed is read as its newest snapshot and the tail (`ledger.accounts.owed`).
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

# So many postings are summed up in well under a millisecond.
MIN_TAIL = 1000

_TAKE = text("SELECT ledger_take_snapshots(:min_tail)")

_ARE_UNREACHED = text("""
SELECT EXISTS (
    SELECT FROM balance_snapshots
     WHERE horizon > CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint))
""")


def take(session: Session, min_tail: int = MIN_TAIL) -> int:
    """Take snapshots of the accounts with `min_tail` postings or more since the last one.

    Returns how many accounts those were. Several at once do no harm, nor does any order of commits.
    """
    return int(session.scalars(_TAKE, {"min_tail": min_tail}).one())


def drop_unreached(session: Session) -> None:
    """Drop the snapshots that name transactions which this server has not had, if there are any.

    A dump that was restored elsewhere has such. Until the server's count of transactions passes
    what they name, readers pass over them; from then on they would be wrong.
    """
    if session.scalars(_ARE_UNREACHED).one():
        take(session)  # which drops them first
