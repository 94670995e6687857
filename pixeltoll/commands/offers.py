"""The commands about offers: what orchestrators serve, and at what price."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from ledger import accounts, offers
from ledger.offers import Capability
from ledger.tables import Offer
from pixeltoll.commands.common import (
    PRICE_COLUMNS,
    SIGNED,
    OrchestratorName,
    PixelsPerUnit,
    PriceCurrency,
    PricePerUnit,
    books,
    moment,
    price,
    price_facts,
    settlement_currency,
)
from pixeltoll.commands.imports import import_offers
from pixeltoll.console import show, show_all, tell
from pixeltoll.errors import BadArgument
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir
from tasks import workers
from tasks.catalog import Pipeline

offer_app = typer.Typer(no_args_is_help=True, help="What orchestrators serve, and at what price.")
offer_app.command("import")(import_offers)

PipelineName = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="text-to-image, image-to-image or upscale.")
]
ModelId = Annotated[str, typer.Argument(metavar="MODEL_ID", help="The model's id.")]
_PIPELINES = get_args(Pipeline)
_COLUMNS = (
    *("id", "orchestrator", "pipeline", "model_id"),
    *PRICE_COLUMNS,
    *("warm", "capacity", "valid_from", "live"),
)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(offer_app, name="offer")


@offer_app.command("add", context_settings=SIGNED)
def add_offer(  # noqa: PLR0913, PLR0917  an option each
    orchestrator: OrchestratorName,
    pipeline: PipelineName,
    model_id: ModelId,
    price_per_unit: PricePerUnit,
    pixels_per_unit: PixelsPerUnit = 1,
    currency: PriceCurrency = "",
    warm: Annotated[bool, typer.Option("--warm", help="The model is kept in memory.")] = False,
    capacity: Annotated[int, typer.Option(help="How many workers serve it at once.")] = 1,
    valid_from: Annotated[
        str, typer.Option(help="From this time on, such as 2026-11-30T12:00:00Z; else from now.")
    ] = "",
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Offer a capability at a price from a time on, in place of an earlier offer of it."""
    if pipeline not in _PIPELINES:
        message = f"pipeline: {pipeline!r} must be one of {', '.join(_PIPELINES)}."
        raise BadArgument(message)
    asked = price(price_per_unit, pixels_per_unit, currency)
    begins = moment(valid_from, "valid_from") if valid_from else None
    capability = Capability(pipeline, model_id)
    with books(data_dir) as session:
        owner = accounts.find_orchestrator(session, orchestrator)
        row = offers.publish(
            session,
            owner.id,
            capability,
            asked,
            settlement_currency(),
            begins,
            warm=warm,
            capacity=capacity,
        )
        facts = {"id": row.id, "orchestrator": owner.name, **vars(capability)}
        promised = {"warm": row.warm, "capacity": row.capacity, "valid_from": row.valid_from}
        show({**facts, "price": str(row.price), **promised}, as_json=as_json)


@offer_app.command("withdraw")
def withdraw_offer(
    orchestrator: OrchestratorName,
    pipeline: PipelineName,
    model_id: ModelId,
    offer: Annotated[
        int | None, typer.Option(help="Only the offer with this id, such as one that is planned.")
    ] = None,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Stop offering a capability, now and later. Jobs that are queued by an offer still run."""
    capability = Capability(pipeline, model_id)
    with books(data_dir) as session:
        owner = accounts.find_orchestrator(session, orchestrator)
        found = [
            one
            for one in offers.known(session, Offer.orchestrator_id == owner.id)
            if one.capability == capability and offer in {None, one.id}
        ]
        if not found:
            raise BadArgument(_not_offered(orchestrator, capability, offer))
        for one in found:
            offers.withdraw(session, one)
    facts = {"orchestrator": orchestrator, **vars(capability), "withdrawn": True}
    what = f"Offer {offer} of {orchestrator} for" if offer else f"What {orchestrator} offers of"
    tell(f"{what} {pipeline} with {model_id} is withdrawn.", facts, as_json=as_json)


def _not_offered(orchestrator: str, capability: Capability, offer: int | None) -> str:
    what = f"{capability.pipeline} with {capability.model_id!r}"
    said = (
        f"model_id: {orchestrator} does not offer {what}"
        if offer is None
        else f"offer: {orchestrator} has no offer {offer} of {what} that holds now or is planned"
    )
    return f"{said}; see `pixeltoll offer list`."


@offer_app.command("list")
def list_offers(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """List the offers that hold now, then those that are planned.

    Those that hold are sorted by currency, the cheapest of each first. An offer is live where a
    worker that is up serves it.
    """
    with books(data_dir) as session:
        rows = [
            {
                "id": found.offer.id,
                "orchestrator": found.offer.orchestrator,
                **vars(found.offer.capability),
                **price_facts(found.offer.price),
                "warm": found.offer.warm,
                "capacity": found.offer.capacity,
                "valid_from": found.offer.valid_from,
                "live": found.live,
            }
            for found in workers.candidates(session, offers.known(session))
        ]
    show_all(_COLUMNS, rows, as_json=as_json)
