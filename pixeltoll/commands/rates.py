"""The commands about exchange rates: stating one, and what was stated."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from sqlalchemy import func, select

from ledger import rates, reports
from ledger.settings import LedgerSettings
from pixeltoll.commands.common import SIGNED, books, moment
from pixeltoll.console import show, show_all
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir

rates_app = typer.Typer(no_args_is_help=True, help="What currencies are worth in each other.")

_FACTS = ("base_currency", "quote_currency", "rate", "source", "observed_at")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(rates_app, name="rates")


@rates_app.command("set", context_settings=SIGNED)
def set_rate(
    base: Annotated[str, typer.Argument(metavar="BASE", help="One of this currency ...")],
    quote: Annotated[str, typer.Argument(metavar="QUOTE", help="... in this one ...")],
    rate: Annotated[str, typer.Argument(metavar="RATE", help="... is worth this, as a decimal.")],
    source: Annotated[str, typer.Option(help="Who says so.")] = "operator",
    observed_at: Annotated[
        str, typer.Option(help="As of when, such as 2026-11-30T12:00:00Z; now if not given.")
    ] = "",
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """State an exchange rate. It goes before those that were observed earlier."""
    seen = moment(observed_at, "observed_at") if observed_at else None
    with books(data_dir) as session:
        row = rates.set_rate(session, base, quote, rate, source, seen)
        show({"id": row.id, **{name: getattr(row, name) for name in _FACTS}}, as_json=as_json)


@rates_app.command("list")
def list_rates(
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 100,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """List the exchange rates, newest first, and which are too old to make a price with.

    The age that is allowed is PIXELTOLL_MAX_RATE_AGE_S.
    """
    oldest = timedelta(seconds=LedgerSettings().max_rate_age_s)
    with books(data_dir) as session:
        now = session.scalars(select(func.now())).one()
        rows = [
            {
                **{name: row[name] for name in _FACTS},
                "age": _whole_seconds(now - row["observed_at"]),
                "too_old": now - row["observed_at"] > oldest,
            }
            for row in reports.rows(session, "rates", limit=limit)
        ]
    show_all((*_FACTS, "age", "too_old"), rows, as_json=as_json)


def _whole_seconds(age: timedelta) -> str:
    return str(timedelta(seconds=int(age.total_seconds())))
