"""The commands about gateways: opening them, their API keys, their balance."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy import select

from api import auth
from ledger import accounts
from ledger.tables import Gateway
from pixeltoll.commands.common import GatewayName, books, settlement_currency
from pixeltoll.console import show, show_all, tell
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir
from tasks import policies
from tasks.policies import Safety

gateway_app = typer.Typer(no_args_is_help=True, help="Who pays.")
key_app = typer.Typer(no_args_is_help=True, help="API keys of gateways.")

_KEY_COLUMNS = ("id", "name", "created_at", "revoked_at")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(gateway_app, name="gateway")
    app.add_typer(key_app, name="key")
    app.command("balance")(balance)


@gateway_app.command("create")
def create_gateway(
    name: GatewayName, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False
) -> None:
    """Open a gateway. It has no funds, no limits and no key yet."""
    with books(data_dir) as session:
        row = accounts.create_gateway(session, name, settlement_currency())
        show({"id": row.id, "name": row.name}, as_json=as_json)


@gateway_app.command("list")
def list_gateways(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """List the gateways and their balances."""
    with books(data_dir) as session:
        rows = []
        for gateway in session.scalars(select(Gateway).order_by(Gateway.name)):
            has = accounts.balance(session, gateway.id)
            rows.append({"id": gateway.id, "name": gateway.name, **vars(has)})
    show_all(("id", "name", "available", "held", "currency"), rows, as_json=as_json)


@gateway_app.command("policy")
def policy(
    gateway: GatewayName,
    safety: Annotated[
        Safety | None,
        typer.Option(
            help="Deliver flagged pictures as they are, blurred, or not at all and uncharged."
        ),
    ] = None,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Show, or set, what becomes of pictures that the safety checker flags."""
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        if safety is not None:
            policies.set_safety(session, owner.id, safety)
        found = policies.safety(session, [owner.id])[owner.id]
        show({"gateway": owner.name, "safety": found}, as_json=as_json)


@key_app.command("create")
def create_key(
    gateway: GatewayName,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "unnamed",
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Make an API key for a gateway. It is shown now and never again."""
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        row, key = auth.create_key(session, owner.id, name)
        show({"id": row.id, "gateway": owner.name, "name": name, "key": key}, as_json=as_json)


@key_app.command("list")
def list_keys(
    gateway: GatewayName, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False
) -> None:
    """List a gateway's API keys, revoked ones too."""
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        keys = auth.list_keys(session, owner.id)
        rows = [{column: getattr(key, column) for column in _KEY_COLUMNS} for key in keys]
    show_all(_KEY_COLUMNS, rows, as_json=as_json)


@key_app.command("revoke")
def revoke_key(
    gateway: GatewayName,
    key_id: Annotated[str, typer.Argument(help="The key's id, which is part of it.")],
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Revoke an API key: it opens nothing from now on."""
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        row = auth.revoke_key(session, owner.id, key_id)
        facts = {column: getattr(row, column) for column in _KEY_COLUMNS}
    tell(f"Key {key_id} of {gateway} is revoked.", facts, as_json=as_json)


def balance(gateway: GatewayName, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Show what a gateway can spend, and what is held for its open jobs."""
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        show(vars(accounts.balance(session, owner.id)), as_json=as_json)
