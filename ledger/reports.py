"""The books as a finance person reads them: rows of the SQL views, narrowed and unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import Integer, RowMapping, bindparam, text
from sqlalchemy.orm import Session

from ledger import names
from ledger.errors import UnknownGateway


@dataclass(frozen=True)
class Report:
    """A view, the order of its rows, and the columns that narrow it: by value, and by day.

    `number` is the column of a number that falls from row to row, by which pages go on.
    """

    view: str
    order: str
    filters: tuple[str, ...] = ()
    day: str | None = None
    number: str | None = None


REPORTS: Mapping[str, Report] = {
    "balances": Report("ledger_balances", "account_id", ("owner", "account")),
    "trial-balance": Report("ledger_trial_balance", "account, currency"),
    "journal": Report("ledger_journal", "posting_id DESC", ("owner", "account", "reference")),
    "open-holds": Report("ledger_open_holds", "held_at, hold_id", ("gateway", "orchestrator")),
    "charges": Report(
        "billing_charges",
        "entry_id DESC",
        ("gateway", "orchestrator", "pipeline", "model_id", "job_id"),
        day="day",
    ),
    "budgets": Report("billing_budgets", "gateway, api_key_id NULLS FIRST, period", ("gateway",)),
    "payouts": Report("billing_payouts", "payout_id DESC", ("batch", "orchestrator", "state")),
    "refusals": Report(
        "billing_refusals",
        "refusal_id DESC",
        ("gateway", "reason", "model_id"),
        number="refusal_id",
    ),
    "rates": Report("billing_rates", "observed_at DESC, rate_id DESC"),
    "gateway-daily": Report(
        "billing_gateway_daily", "day, gateway, currency", ("gateway",), day="day"
    ),
    "orchestrator-daily": Report(
        "billing_orchestrator_daily", "day, orchestrator, currency", ("orchestrator",), day="day"
    ),
    "model-daily": Report(
        "billing_model_daily",
        "day, pipeline, model_id, currency",
        ("pipeline", "model_id"),
        day="day",
    ),
    "invoice-lines": Report(
        "billing_invoice_lines",
        "month, gateway, kind, pipeline, model_id, price_per_unit, pixels_per_unit",
        ("gateway", "month"),
        day="month",
    ),
}


def rows(
    session: Session,
    report: str,
    where: Mapping[str, object] | None = None,
    *,
    since: date | None = None,
    until: date | None = None,
    before: int | None = None,
    limit: int = 1000,
) -> Sequence[RowMapping]:
    """Return the rows of a report, one of `REPORTS`, that have the values of `where`.

    `since` and `until` (the first day, and the day after the last) narrow the reports by day;
    `before`, the number of a row, is where a page goes on.

    Raises:
        KeyError: There is no such report, or it is not narrowed by such a column.
        InvalidName: A value is a text that nothing can be called.
    """
    found = REPORTS[report]
    values = dict(where or {})
    unknown = sorted(values.keys() - set(found.filters))
    if unknown:
        raise KeyError(unknown[0])
    for narrowed, text_or_day in values.items():
        if isinstance(text_or_day, str):
            names.checked(narrowed, text_or_day)
    wanted = [f"{column} = :{column}" for column in values]
    for name, column, sign, value in (
        ("since", found.day, ">=", since),
        ("until", found.day, "<", until),
        ("before", found.number, "<", before),
    ):
        if value is not None:
            if column is None:
                raise KeyError(name)
            wanted.append(f"{column} {sign} :{name}")
            values[name] = value
    condition = f" WHERE {' AND '.join(wanted)}" if wanted else ""
    query = f"SELECT * FROM {found.view}{condition} ORDER BY {found.order} LIMIT :limit"  # noqa: S608  names of our own
    return session.execute(text(query), {**values, "limit": limit}).mappings().all()


def columns(session: Session, report: str) -> list[str]:
    """Return the columns of a report, one of `REPORTS`, in the order that its rows have them.

    Raises:
        KeyError: There is no such report.
    """
    none = text(f"SELECT * FROM {REPORTS[report].view} LIMIT 0")  # noqa: S608  names of our own
    return list(session.execute(none).keys())


_SPEND = text("""
SELECT day, model_id, sum(amount) AS amount
  FROM billing_charges
 WHERE currency = :currency AND day >= :since AND day < :until
   AND (CAST(:gateway AS varchar) IS NULL OR gateway = :gateway)
 GROUP BY day, model_id ORDER BY day, model_id
""")


def spend(
    session: Session, currency: str, since: date, until: date, gateway: str | None = None
) -> Sequence[RowMapping]:
    """Return what was charged for each model on each day: by one gateway, or by all.

    `until` is the day after the last. What was given back later is not taken off.
    """
    values = {"currency": currency, "since": since, "until": until, "gateway": gateway}
    return session.execute(_SPEND, values).mappings().all()


# The number of rows is written into the statement, and there is one statement for the newest page
# and one for others: so the database can plan each once for all, instead of at every call.
_LINES = """
SELECT p.id AS posting_id, e.created_at AS posted_at, e.kind,
       coalesce(substr(e.reference, strpos(e.reference, ':') + 1), h.reference) AS reference,
       e.currency, p.amount
  FROM postings p
  JOIN entries e ON e.id = p.entry_id
  LEFT JOIN holds h ON h.id = e.hold_id
 WHERE p.account_id = :account_id {older}
 ORDER BY p.xid DESC, p.id DESC LIMIT :limit
"""
_OLDER = "AND (p.xid, p.id) < (SELECT xid, id FROM postings WHERE id = :before)"
_LIMIT = bindparam("limit", type_=Integer, literal_execute=True)
_NEWEST_PAGE = text(_LINES.format(older="")).bindparams(_LIMIT)
_OLDER_PAGE = text(_LINES.format(older=_OLDER)).bindparams(_LIMIT)
_ACCOUNT = text("SELECT id FROM accounts WHERE gateway_id = :gateway_id AND kind = 'available'")


def statement(
    session: Session, gateway_id: UUID, *, before: int | None = None, limit: int = 50
) -> Sequence[RowMapping]:
    """Return a page of what moved a gateway's available balance, newest first.

    `before` is the `posting_id` to go on from. Above zero came in, below zero went out. References
    are as they were given: the books keep those of each kind apart by a prefix.

    Raises:
        UnknownGateway: There is no such gateway.
    """
    account_id = session.scalar(_ACCOUNT, {"gateway_id": gateway_id})
    if account_id is None:
        raise UnknownGateway(gateway_id)
    values = {"account_id": account_id, "limit": limit}
    if before is None:
        return session.execute(_NEWEST_PAGE, values).mappings().all()
    return session.execute(_OLDER_PAGE, {**values, "before": before}).mappings().all()
