"""The books as a finance person reads them: rows of the SQL views, unchanged."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

_REPORTS = {
    "balances": "SELECT * FROM ledger_balances ORDER BY account_id",
    "trial-balance": "SELECT * FROM ledger_trial_balance ORDER BY account, currency",
    "charges": "SELECT * FROM billing_charges ORDER BY charged_at DESC, job_id LIMIT 1000",
}
REPORTS = tuple(_REPORTS)


def rows(session: Session, report: str) -> Sequence[RowMapping]:
    """Return the rows of a report by its name, one of `REPORTS`.

    Raises:
        KeyError: There is no such report.
    """
    return session.execute(text(_REPORTS[report])).mappings().all()
