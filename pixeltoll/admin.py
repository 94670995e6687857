"""The commands about gateways, keys, orchestrators, offers, limits and money.

Each does what the admin route of the same name does, straight on the database.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from sqlalchemy import select
from sqlalchemy.orm import Session

from api import auth
from ledger import accounts, db, limits, money, offers, reports
from ledger.limits import Limit
from ledger.money import UnitPrice
from ledger.offers import Capability
from ledger.settings import LedgerSettings
from ledger.tables import Gateway, Orchestrator
from pixeltoll.console import say, show, show_all
from pixeltoll.errors import BadArgument
from pixeltoll.run import DEFAULT_DIR, DataDir
from pixeltoll.settings import UpSettings
from pixeltoll.state import Connection

gateway_app = typer.Typer(no_args_is_help=True, help="Who pays.")
key_app = typer.Typer(no_args_is_help=True, help="API keys of gateways.")
orchestrator_app = typer.Typer(no_args_is_help=True, help="Who runs GPUs and sets prices.")
offer_app = typer.Typer(no_args_is_help=True, help="What orchestrators serve, and at what price.")
limit_app = typer.Typer(no_args_is_help=True, help="The most that a gateway pays.")
report_app = typer.Typer(no_args_is_help=True, help="The books, as the SQL views show them.")

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
GatewayName = Annotated[str, typer.Argument(metavar="GATEWAY", help="The gateway's name.")]
PricePerUnit = Annotated[
    str, typer.Argument(metavar="PRICE", help="Price as a decimal, such as 0.000000019073484.")
]
PixelsPerUnit = Annotated[int, typer.Option(help="For how many pixels the price is.")]
Pipeline = Annotated[str | None, typer.Option(help="For this pipeline only.")]
Model = Annotated[str | None, typer.Option(help="For this model only; needs --pipeline.")]
_KEY_COLUMNS = ("id", "name", "created_at", "revoked_at")
_PRICE_COLUMNS = ("price_per_unit", "pixels_per_unit", "currency")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(gateway_app, name="gateway")
    app.add_typer(key_app, name="key")
    app.add_typer(orchestrator_app, name="orchestrator")
    app.add_typer(offer_app, name="offer")
    app.add_typer(limit_app, name="limit")
    app.add_typer(report_app, name="report")
    app.command("top-up")(top_up)
    app.command("balance")(balance)


def database_url(data_dir: Path) -> str:
    """Return the database to work on: the environment's, else the data folder's stack's.

    Raises:
        NotRunning: Neither is there.
    """
    return UpSettings().database_url or Connection.read(data_dir).database_url


@contextlib.contextmanager
def _session(data_dir: Path) -> Iterator[Session]:
    engine = db.make_engine(database_url(data_dir), pool_size=1)
    try:
        with db.session_factory(engine).begin() as session:
            yield session
    finally:
        engine.dispose()


def _currency() -> str:
    return LedgerSettings().settlement_currency


def _price(per_unit: str, pixels: int) -> UnitPrice:
    return money.unit_price(per_unit, pixels, _currency())


@gateway_app.command("create")
def create_gateway(
    name: GatewayName, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False
) -> None:
    """Open a gateway. It has no funds, no limits and no key yet."""
    with _session(data_dir) as session:
        row = accounts.create_gateway(session, name, _currency())
        show({"id": row.id, "name": row.name}, as_json=as_json)


@gateway_app.command("list")
def list_gateways(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """List the gateways and their balances."""
    with _session(data_dir) as session:
        rows = []
        for gateway in session.scalars(select(Gateway).order_by(Gateway.name)):
            has = accounts.balance(session, gateway.id)
            rows.append({"id": gateway.id, "name": gateway.name, **vars(has)})
    show_all(("id", "name", "available", "held", "currency"), rows, as_json=as_json)


@key_app.command("create")
def create_key(
    gateway: GatewayName,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "unnamed",
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Make an API key for a gateway. It is shown now and never again."""
    with _session(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        row, key = auth.create_key(session, owner.id, name)
        show({"id": row.id, "gateway": owner.name, "name": name, "key": key}, as_json=as_json)


@key_app.command("list")
def list_keys(
    gateway: GatewayName, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False
) -> None:
    """List a gateway's API keys, revoked ones too."""
    with _session(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        keys = auth.list_keys(session, owner.id)
        rows = [{column: getattr(key, column) for column in _KEY_COLUMNS} for key in keys]
    show_all(_KEY_COLUMNS, rows, as_json=as_json)


@key_app.command("revoke")
def revoke_key(
    gateway: GatewayName,
    key_id: Annotated[str, typer.Argument(help="The key's id, which is part of it.")],
    data_dir: DataDir = DEFAULT_DIR,
) -> None:
    """Revoke an API key: it opens nothing from now on."""
    with _session(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        auth.revoke_key(session, owner.id, key_id)
    say(f"Key {key_id} of {gateway} is revoked.")


@orchestrator_app.command("create")
def create_orchestrator(
    name: Annotated[str, typer.Argument(help="The orchestrator's name.")],
    fee_rate: Annotated[str, typer.Option(help="The platform's share, 0 to 1.")] = "0",
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Open an orchestrator. It has no offers yet."""
    rate = money.amount(fee_rate, field="fee_rate")
    with _session(data_dir) as session:
        row = accounts.create_orchestrator(session, name, _currency(), rate)
        show({"id": row.id, "name": row.name, "fee_rate": row.fee_rate}, as_json=as_json)


@orchestrator_app.command("list")
def list_orchestrators(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """List the orchestrators and what they are owed."""
    with _session(data_dir) as session:
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


@offer_app.command("add")
def add_offer(
    orchestrator: Annotated[str, typer.Argument(help="The orchestrator's name.")],
    pipeline: Annotated[str, typer.Argument(help="text-to-image or image-to-image.")],
    model_id: Annotated[str, typer.Argument(help="The model's id.")],
    price: PricePerUnit,
    pixels_per_unit: PixelsPerUnit = 1,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Offer a capability at a price from now on, in place of an earlier offer of it."""
    with _session(data_dir) as session:
        owner = accounts.find_orchestrator(session, orchestrator)
        capability = Capability(pipeline, model_id)
        asked = _price(price, pixels_per_unit)
        row = offers.publish(session, owner.id, capability, asked, _currency())
        facts = {"id": row.id, "orchestrator": owner.name, "pipeline": pipeline}
        show({**facts, "model_id": model_id, "price": str(row.price)}, as_json=as_json)


@offer_app.command("list")
def list_offers(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """List the offers that hold now, cheapest first."""
    with _session(data_dir) as session:
        rows = [
            {
                "id": offer.id,
                "orchestrator": offer.orchestrator,
                "pipeline": offer.capability.pipeline,
                "model_id": offer.capability.model_id,
                **_price_facts(offer.price),
            }
            for offer in offers.live(session)
        ]
    columns = ("id", "orchestrator", "pipeline", "model_id", *_PRICE_COLUMNS)
    show_all(columns, rows, as_json=as_json)


def _price_facts(price: UnitPrice | None) -> dict[str, object]:
    return {name: price and getattr(price, name) for name in _PRICE_COLUMNS}


@limit_app.command("set")
def set_limit(
    gateway: GatewayName,
    price: PricePerUnit,
    pipeline: Pipeline = None,
    model: Model = None,
    pixels_per_unit: PixelsPerUnit = 1,
    data_dir: DataDir = DEFAULT_DIR,
) -> None:
    """Set the most that a gateway pays: for a model, a pipeline, or everything."""
    limit = Limit(pipeline, model, _price(price, pixels_per_unit))
    _set_limit(gateway, limit, data_dir)


@limit_app.command("any-price")
def accept_any_price(
    gateway: GatewayName,
    pipeline: Pipeline = None,
    model: Model = None,
    data_dir: DataDir = DEFAULT_DIR,
) -> None:
    """Let a gateway pay any price: for a model, a pipeline, or everything."""
    _set_limit(gateway, Limit(pipeline, model, None), data_dir)


def _set_limit(gateway: str, limit: Limit, data_dir: Path) -> None:
    if limit.model_id is not None and limit.pipeline is None:
        message = "--model needs --pipeline: what is priced is a pipeline with a model."
        raise BadArgument(message)
    with _session(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        limits.set_limit(session, owner.id, limit, _currency())
    scope = limit.model_id or limit.pipeline or "everything"
    say(
        f"{gateway} pays {'any price' if limit.price is None else f'at most {limit.price}'} "
        f"for {scope}."
    )


@limit_app.command("list")
def list_limits(
    gateway: GatewayName, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False
) -> None:
    """List a gateway's limits, the most exact first; no price means any price."""
    with _session(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        rows = [
            {
                "pipeline": limit.pipeline,
                "model_id": limit.model_id,
                **_price_facts(limit.price),
            }
            for limit in limits.list_limits(session, owner.id)
        ]
    show_all(("pipeline", "model_id", *_PRICE_COLUMNS), rows, as_json=as_json)


def top_up(
    gateway: GatewayName,
    amount: Annotated[str, typer.Argument(help="How much, as a decimal.")],
    reference: Annotated[
        str, typer.Option(help="The payment's own number: the same one again adds nothing.")
    ] = "",
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Add funds to a gateway."""
    with _session(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        accounts.top_up(session, owner.id, money.amount(amount), reference or str(uuid4()))
        show(vars(accounts.balance(session, owner.id)), as_json=as_json)


def balance(gateway: GatewayName, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Show what a gateway can spend, and what is held for its open jobs."""
    with _session(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        show(vars(accounts.balance(session, owner.id)), as_json=as_json)


@report_app.command("trial-balance")
def trial_balance(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Show the sum of every kind of account, and that they add up to zero."""
    _report("trial-balance", data_dir, as_json=as_json)


@report_app.command("balances")
def balances(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Show every account's balance."""
    _report("balances", data_dir, as_json=as_json)


@report_app.command("charges")
def charges(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Show what each job cost, the newest first."""
    _report("charges", data_dir, as_json=as_json)


def _report(name: str, data_dir: Path, *, as_json: bool) -> None:
    with _session(data_dir) as session:
        rows = reports.rows(session, name)
    facts = [dict(row) for row in rows]
    show_all(list(facts[0]) if facts else [], facts, as_json=as_json)
