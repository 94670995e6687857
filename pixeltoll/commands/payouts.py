"""The commands about payouts: what orchestrators are owed, and paying it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID, uuid4

import typer
from sqlalchemy.orm import Session

from ledger import accounts, payouts
from ledger.payouts import Batch
from pixeltoll.commands.common import books, settlement_currency
from pixeltoll.console import say, show, show_all, write
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir, Limit

payout_app = typer.Typer(no_args_is_help=True, help="Paying orchestrators what they are owed.")

Reference = Annotated[str, typer.Argument(metavar="REFERENCE", help="The payout's own number.")]
_OWED = ("orchestrator", "currency", "amount")
_LINES = ("orchestrator", "currency", "amount", "state", "created_at", "paid_at", "reversed_at")
_BATCHES = ("reference", "created_at", "orchestrators", "amount", "currency", "states")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(payout_app, name="payout")


@payout_app.command("owed")
def list_owed(
    currency: Annotated[str | None, typer.Option(help="In this currency only.")] = None,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """List who is owed something, and how much, by name."""
    with books(data_dir) as session:
        rows = [
            {name: getattr(due, name) for name in _OWED}
            for due in payouts.owed(session, currency or None)
        ]
    show_all(_OWED, rows, as_json=as_json)


@payout_app.command("create")
def create_payout(
    reference: Annotated[
        str, typer.Option(help="The payout's own number: the same one again pays nothing more.")
    ] = "",
    currency: Annotated[str, typer.Option(help="The settlement currency if not given.")] = "",
    orchestrator: Annotated[
        list[str] | None, typer.Option(help="Pay this one only; may be given again.")
    ] = None,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Take all that is owed out of the orchestrators' accounts: a line for each, to be paid."""
    name = reference or str(uuid4())
    with books(data_dir) as session:
        only = _ids(session, orchestrator)
        batch = payouts.create(session, name, currency or settlement_currency(), only)
    _show(batch, as_json=as_json)


def _ids(session: Session, orchestrators: Sequence[str] | None) -> list[UUID] | None:
    if not orchestrators:
        return None
    return [accounts.find_orchestrator(session, name).id for name in orchestrators]


@payout_app.command("list")
def list_payouts(
    limit: Limit = 100,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """List the payouts, newest first: the amount is of all lines that are not reversed."""
    with books(data_dir) as session:
        rows = [_summary(batch) for batch in payouts.list_batches(session, limit)]
    show_all(_BATCHES, rows, as_json=as_json)


def _summary(batch: Batch) -> dict[str, object]:
    return {
        "reference": batch.reference,
        "created_at": batch.created_at,
        "orchestrators": len(batch.lines),
        "amount": batch.total,
        "currency": batch.currency,
        "states": ", ".join(sorted({line.state for line in batch.lines})),
    }


@payout_app.command("show")
def show_payout(
    reference: Reference,
    csv: Annotated[
        Path | None, typer.Option(help="Write it as CSV to this file; - for standard output.")
    ] = None,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Show a payout, with a line for each orchestrator."""
    with books(data_dir) as session:
        batch = payouts.find(session, reference)
    if csv is None:
        _show(batch, as_json=as_json)
    else:
        write(payouts.to_csv(batch), csv)


@payout_app.command("paid")
def mark_paid(
    reference: Reference, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False
) -> None:
    """Record that a payout was paid: all lines that are not reversed."""
    with books(data_dir) as session:
        batch = payouts.mark_paid(session, reference)
    _show(batch, as_json=as_json)


@payout_app.command("reverse")
def reverse_payout(
    reference: Reference,
    orchestrator: Annotated[
        str | None, typer.Option(help="Take back this one's line only.")
    ] = None,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Take a payout back, paid or not, by new entries: it is owed again."""
    with books(data_dir) as session:
        batch = payouts.reverse(session, reference, orchestrator)
    _show(batch, as_json=as_json)


def _show(batch: Batch, *, as_json: bool) -> None:
    lines = [{name: getattr(line, name) for name in _LINES} for line in batch.lines]
    if as_json:
        show({**_summary(batch), "lines": lines}, as_json=True)
    else:
        say(f"Payout {batch.reference}")
        show_all(_LINES, lines, as_json=False)
