"""The commands that show what a gateway is shown of its own: its statement and its invoices."""

from __future__ import annotations

from typing import Annotated

import typer

from ledger import accounts, invoices, reports
from ledger.money import plain
from pixeltoll.commands.common import GatewayName, How, Output, books
from pixeltoll.console import STDOUT, Format, complain, deliver, say
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir, Limit

_STATEMENT = ("posting_id", "posted_at", "kind", "reference", "amount", "currency")
_INVOICE = (
    *("kind", "pipeline", "model_id", "price_per_unit", "pixels_per_unit", "price_currency"),
    *("items", "units", "amount", "currency"),
)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.command("statement")(statement)
    app.command("invoice")(invoice)


def statement(
    gateway: GatewayName,
    limit: Limit = 50,
    how: How = Format.TABLE,
    output: Output = STDOUT,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Show what moved a gateway's available balance, newest first: above zero came in."""
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        rows = [dict(row) for row in reports.statement(session, owner.id, limit=limit + 1)]
    deliver(_STATEMENT, rows[:limit], Format.JSON if as_json else how, output)
    if len(rows) > limit:
        complain(f"Only the newest {limit} rows are shown: ask for more with --limit.")


def invoice(
    gateway: GatewayName,
    month: Annotated[str, typer.Argument(metavar="MONTH", help="Such as 2026-11, of UTC.")],
    how: How = Format.TABLE,
    output: Output = STDOUT,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Show what a gateway owes for a month: a line for each price, refunds below zero."""
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        found = invoices.find(session, owner.id, month)
    how = Format.JSON if as_json else how
    rows = [{**vars(line), "currency": found.currency} for line in found.lines]
    deliver(_INVOICE, rows, how, output)
    if how is Format.TABLE and output == STDOUT:
        so_far = "" if found.closed else " so far"
        say(f"Total{so_far}: {plain(found.total)} {found.currency}")
