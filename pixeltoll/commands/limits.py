"""The commands about limits: the most that a gateway pays."""

from __future__ import annotations

from pathlib import Path

import typer

from ledger import accounts, limits
from ledger.limits import Limit
from pixeltoll.commands.common import (
    PRICE_COLUMNS,
    SIGNED,
    GatewayName,
    Model,
    Pipeline,
    PixelsPerUnit,
    PriceCurrency,
    PricePerUnit,
    books,
    price,
    price_facts,
    settlement_currency,
)
from pixeltoll.commands.imports import import_limits
from pixeltoll.console import complain, show_all, tell
from pixeltoll.errors import BadArgument
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir

limit_app = typer.Typer(no_args_is_help=True, help="The most that a gateway pays.")
limit_app.command("import")(import_limits)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(limit_app, name="limit")


@limit_app.command("set", context_settings=SIGNED)
def set_limit(
    gateway: GatewayName,
    price_per_unit: PricePerUnit,
    pipeline: Pipeline = None,
    model: Model = None,
    pixels_per_unit: PixelsPerUnit = 1,
    currency: PriceCurrency = "",
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Set the most that a gateway pays: for a model, a pipeline, or everything."""
    limit = Limit(pipeline, model, price(price_per_unit, pixels_per_unit, currency))
    _set_limit(gateway, limit, data_dir, as_json=as_json)


@limit_app.command("any-price")
def accept_any_price(
    gateway: GatewayName,
    pipeline: Pipeline = None,
    model: Model = None,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Let a gateway pay any price: for a model, a pipeline, or everything."""
    _set_limit(gateway, Limit(pipeline, model, None), data_dir, as_json=as_json)


def _set_limit(gateway: str, limit: Limit, data_dir: Path, *, as_json: bool) -> None:
    if limit.model_id is not None and limit.pipeline is None:
        message = "--model needs --pipeline: what is priced is a pipeline with a model."
        raise BadArgument(message)
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        warning = limits.set_limit(session, owner.id, limit, settlement_currency())
        warned = warning and warning.message
    scope = limit.model_id or limit.pipeline or "everything"
    pays = "any price" if limit.price is None else f"at most {limit.price}"
    facts = {"gateway": gateway, **_facts(limit), "warning": warned}
    tell(f"{gateway} pays {pays} for {scope}.", facts, as_json=as_json)
    if warned and not as_json:
        complain(f"Warning: {warned}")


@limit_app.command("list")
def list_limits(
    gateway: GatewayName, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False
) -> None:
    """List a gateway's limits, the most exact first; no price means any price."""
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        rows = [_facts(limit) for limit in limits.list_limits(session, owner.id)]
    show_all(("pipeline", "model_id", *PRICE_COLUMNS), rows, as_json=as_json)


def _facts(limit: Limit) -> dict[str, object]:
    scope = {"pipeline": limit.pipeline, "model_id": limit.model_id}
    return {**scope, **price_facts(limit.price)}
