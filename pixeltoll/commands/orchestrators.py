"""The commands about orchestrators: opening them, their workers' keys, what they are owed."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy import select

from ledger import accounts, money
from ledger.tables import Orchestrator
from pixeltoll.commands.common import OrchestratorName, books, settlement_currency
from pixeltoll.console import show, show_all, tell
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir
from tasks import registration

orchestrator_app = typer.Typer(no_args_is_help=True, help="Who runs GPUs and sets prices.")
key_app = typer.Typer(no_args_is_help=True, help="Keys by which workers say whose they are.")
orchestrator_app.add_typer(key_app, name="key")

_KEY_COLUMNS = ("id", "name", "created_at", "revoked_at")


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


@key_app.command("create")
def create_key(
    orchestrator: OrchestratorName,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "unnamed",
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Make a key for an orchestrator's workers. It is shown now and never again."""
    with books(data_dir) as session:
        owner = accounts.find_orchestrator(session, orchestrator)
        row, key = registration.create_key(session, owner.id, name)
        show({"id": row.id, "orchestrator": owner.name, "name": name, "key": key}, as_json=as_json)


@key_app.command("list")
def list_keys(
    orchestrator: OrchestratorName, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False
) -> None:
    """List an orchestrator's keys, revoked ones too."""
    with books(data_dir) as session:
        owner = accounts.find_orchestrator(session, orchestrator)
        keys = registration.list_keys(session, owner.id)
        rows = [{column: getattr(key, column) for column in _KEY_COLUMNS} for key in keys]
    show_all(_KEY_COLUMNS, rows, as_json=as_json)


@key_app.command("revoke")
def revoke_key(
    orchestrator: OrchestratorName,
    key_id: Annotated[str, typer.Argument(help="The key's id, which is part of it.")],
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Revoke an orchestrator's key: workers that registered with it end."""
    with books(data_dir) as session:
        owner = accounts.find_orchestrator(session, orchestrator)
        row = registration.revoke_key(session, owner.id, key_id)
        facts = {column: getattr(row, column) for column in _KEY_COLUMNS}
    tell(f"Key {key_id} of {orchestrator} is revoked.", facts, as_json=as_json)
