"""The commands about offers: what orchestrators serve, and at what price."""

from __future__ import annotations

from typing import Annotated

import typer

from ledger import accounts, offers
from ledger.offers import Capability
from pixeltoll.commands.common import (
    PRICE_COLUMNS,
    AsJson,
    OrchestratorName,
    PixelsPerUnit,
    PriceCurrency,
    PricePerUnit,
    books,
    price,
    price_facts,
    settlement_currency,
)
from pixeltoll.console import show, show_all
from pixeltoll.run import DEFAULT_DIR, DataDir

offer_app = typer.Typer(no_args_is_help=True, help="What orchestrators serve, and at what price.")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(offer_app, name="offer")


@offer_app.command("add")
def add_offer(
    orchestrator: OrchestratorName,
    pipeline: Annotated[str, typer.Argument(help="text-to-image or image-to-image.")],
    model_id: Annotated[str, typer.Argument(help="The model's id.")],
    price_per_unit: PricePerUnit,
    pixels_per_unit: PixelsPerUnit = 1,
    currency: PriceCurrency = "",
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Offer a capability at a price from now on, in place of an earlier offer of it."""
    asked = price(price_per_unit, pixels_per_unit, currency)
    with books(data_dir) as session:
        owner = accounts.find_orchestrator(session, orchestrator)
        capability = Capability(pipeline, model_id)
        row = offers.publish(session, owner.id, capability, asked, settlement_currency())
        facts = {"id": row.id, "orchestrator": owner.name, "pipeline": pipeline}
        show({**facts, "model_id": model_id, "price": str(row.price)}, as_json=as_json)


@offer_app.command("list")
def list_offers(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """List the offers that hold now, cheapest first."""
    with books(data_dir) as session:
        rows = [
            {
                "id": offer.id,
                "orchestrator": offer.orchestrator,
                "pipeline": offer.capability.pipeline,
                "model_id": offer.capability.model_id,
                **price_facts(offer.price),
            }
            for offer in offers.live(session)
        ]
    columns = ("id", "orchestrator", "pipeline", "model_id", *PRICE_COLUMNS)
    show_all(columns, rows, as_json=as_json)
