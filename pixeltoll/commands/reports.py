"""The commands that show the books: the SQL views, narrowed, as a table, CSV or JSON; and spend."""

from __future__ import annotations

import inspect
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from ledger import accounts, invoices, reports
from ledger.reports import Report
from pixeltoll import charts
from pixeltoll.commands.common import How, Output, books, day, settlement_currency
from pixeltoll.console import STDOUT, Format, complain, deliver
from pixeltoll.errors import BadArgument
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir, Limit

report_app = typer.Typer(no_args_is_help=True, help="The books, as the SQL views show them.")

Since = Annotated[str | None, typer.Option(help="From this day on, such as 2026-11-01.")]
Until = Annotated[str | None, typer.Option(help="Up to this day, and with it.")]
ROWS_MAX = 1000
_DAYS = 30  # of spend, where no first day is given

# What an option is called where it is not called as its column.
_SHORT = {"model_id": "model", "job_id": "job"}


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(report_app, name="report")


# --- the views --------------------------------------------------------------------------------


def _add_report(name: str, report: Report) -> None:
    """Add the command that shows one of the ledger's reports, with the options that narrow it."""

    def show_report(**given: Any) -> None:  # noqa: ANN401  what typer read, by the signature below
        where = {column: given[column] for column in report.filters if given[column] is not None}
        if "month" in where:
            where["month"] = invoices.first_day(where["month"])
        since, until = _days(given.get("since"), given.get("until"))
        limit = given["limit"]
        with books(given["data_dir"]) as session:
            columns = reports.columns(session, name)
            rows = reports.rows(session, name, where, since=since, until=until, limit=limit + 1)
        how = Format.JSON if given["as_json"] else given["how"]
        deliver(columns, [dict(row) for row in rows[:limit]], how, given["output"])
        if len(rows) > limit:
            complain(f"Only the first {limit} rows are shown: ask for more with --limit.")

    vars(show_report)["__signature__"] = inspect.Signature(_options(report))
    show_report.__annotations__ = {option.name: option.annotation for option in _options(report)}
    report_app.command(name, help=f"Show {report.view}.")(show_report)


def _options(report: Report) -> list[inspect.Parameter]:
    """Return the options of a report's command: those of every one, and what narrows its rows."""
    narrowing = [
        _option(column, Annotated[str | None, _narrows(column)], None) for column in report.filters
    ]
    if report.day:
        narrowing += [_option("since", Since, None), _option("until", Until, None)]
    return [
        *narrowing,
        _option("limit", Limit, ROWS_MAX),
        _option("how", How, Format.TABLE),
        _option("output", Output, STDOUT),
        _option("data_dir", DataDir, DEFAULT_DIR),
        _option("as_json", AsJson, default=False),
    ]


def _narrows(column: str) -> Any:  # noqa: ANN401  typer's own
    name = _SHORT.get(column, column)
    return typer.Option(f"--{name}", help=f"Only the rows of this {name}.")


def _option(name: str, kind: Any, default: object) -> inspect.Parameter:  # noqa: ANN401  a type
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _days(since: str | None, until: str | None) -> tuple[date | None, date | None]:
    """Return the first day and the one after the last, as the ledger counts."""
    first = day(since, "since") if since else None
    return first, day(until, "until") + timedelta(days=1) if until else None


for _name, _report in reports.REPORTS.items():
    _add_report(_name, _report)


# --- spend -----------------------------------------------------------------------------------


@report_app.command("spend")
def spend(
    gateway: Annotated[str | None, typer.Option(help="Only what this gateway spent.")] = None,
    since: Since = None,
    until: Until = None,
    png: Annotated[
        Path | None, typer.Option(help="Draw it as well, as a chart in this file.")
    ] = None,
    how: How = Format.TABLE,
    output: Output = STDOUT,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Show what was spent on each model by day: in the last 30 days, if no others are given."""
    today = datetime.now(UTC).date()
    last = day(until, "until") if until else today
    first = day(since, "since") if since else last - timedelta(days=_DAYS - 1)
    if first > last:
        message = f"since: {first} is after {last}, the last day."
        raise BadArgument(message)
    currency = settlement_currency()
    with books(data_dir) as session:
        if gateway is not None:
            accounts.find_gateway(session, gateway)
        rows = reports.spend(session, currency, first, last + timedelta(days=1), gateway)
    how = Format.JSON if as_json else how
    deliver(("day", "model_id", "amount"), [dict(row) for row in rows], how, output)
    if png is not None:
        charts.draw_spend(
            png,
            [charts.Spent(row["day"], row["model_id"], row["amount"]) for row in rows],
            # Days that are yet to come have no room in it.
            charts.Frame(first, max(first, min(last, today)), currency, gateway),
        )
        complain(f"The chart is {png}")
