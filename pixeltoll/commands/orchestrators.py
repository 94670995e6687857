"""The commands about orchestrators: opening them, and what they are owed."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy import select

from ledger import accounts, money
from ledger.tables import Orchestrator
from pixeltoll.commands.common import AsJson, OrchestratorName, books, settlement_currency
from pixeltoll.console import show, show_all
from pixeltoll.run import DEFAULT_DIR, DataDir

orchestrator_app = typer.Typer(no_args_is_help=True, help="Who runs GPUs and sets prices.")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(orchestrator_app, name="orchestrator")


@orchestrator_app.command("create")
def create_orchestrator(
    name: OrchestratorName,
    fee_rate: Annotated[str, typer.Option(help="The platform's share, 0 to 1.")] = "0",
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Open an orchestrator. It has no offers yet."""
    rate = money.amount(fee_rate, field="fee_rate")
    with books(data_dir) as session:
        row = accounts.create_orchestrator(session, name, settlement_currency(), rate)
        show({"id": row.id, "name": row.name, "fee_rate": row.fee_rate}, as_json=as_json)


@orchestrator_app.command("list")
def list_orchestrators(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """List the orchestrators and what they are owed."""
    with books(data_dir) as session:
        rows = [
            {
                "id": row.id,
                "name": row.name,
                "fee_rate": row.fee_rate,
                "owed": accounts.owed(session, row.id),
            }
            for row in session.scalars(select(Orchestrator).order_by(Orchestrator.name))
        ]
    show_all(("id", "name", "fee_rate", "owed"), rows, as_json=as_json)
