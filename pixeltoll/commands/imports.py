"""The commands that take over Livepeer's own files: offers and limits, all of a file or nothing.

They are commands of `offer` and of `limit`. What the files mean is `ledger.livepeer`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import accounts, limits, livepeer, offers
from ledger.livepeer import Defaults, Ignored, ModelPrice
from ledger.offers import LiveOffer
from ledger.tables import Gateway, Offer
from pixeltoll.commands.common import (
    PRICE_COLUMNS,
    GatewayName,
    OrchestratorName,
    books,
    price_facts,
    settlement_currency,
)
from pixeltoll.console import complain, say, show, show_all
from pixeltoll.errors import NotRead
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir
from tasks.catalog import Pipeline

File = Annotated[Path, typer.Argument(metavar="FILE", help="The file, as Livepeer has it.")]
PriceDefault = Annotated[
    str | None,
    typer.Option(
        "--price-per-unit", help="The price of entries that have none: in wei, or as 0.02USD."
    ),
]
PixelsDefault = Annotated[
    int, typer.Option("--pixels-per-unit", help="For how many pixels prices are that do not say.")
]
_OFFER_COLUMNS = ("offer", "pipeline", "model_id", *PRICE_COLUMNS, "warm", "capacity")
_LIMIT_COLUMNS = ("pipeline", "model_id", *PRICE_COLUMNS)


def import_offers(
    orchestrator: OrchestratorName,
    file: File,
    price_per_unit: PriceDefault = None,
    pixels_per_unit: PixelsDefault = 1,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Offer what an aiModels.json offers. What is offered like that already stays as it is.

    Offers that the file does not name are kept: one orchestrator may have many such files.
    """
    read = livepeer.read_ai_models(
        _text_of(file), str(file), get_args(Pipeline), Defaults(price_per_unit, pixels_per_unit)
    )
    with books(data_dir) as session:
        owner = accounts.find_orchestrator(session, orchestrator)
        live = {
            offer.capability: offer
            for offer in offers.live(session, Offer.orchestrator_id == owner.id)
        }
        rows = []
        for model in read.models:
            same = _is_same(model, live.get(model.capability))
            if not same:
                offers.publish(
                    session,
                    owner.id,
                    model.capability,
                    model.price,
                    settlement_currency(),
                    warm=model.warm,
                    capacity=model.capacity,
                )
            rows.append(_offer_facts(model, "unchanged" if same else "added"))
    if as_json:
        show({"offers": rows, "ignored": _ignored(read.ignored)}, as_json=True)
        return
    show_all(_OFFER_COLUMNS, rows, as_json=False)
    _tell(file, read.ignored)


def _is_same(model: ModelPrice, offer: LiveOffer | None) -> bool:
    said = (model.price, model.warm, model.capacity)
    return offer is not None and said == (offer.price, offer.warm, offer.capacity)


def _offer_facts(model: ModelPrice, what: str) -> dict[str, object]:
    return {
        "offer": what,
        **vars(model.capability),
        **price_facts(model.price),
        "warm": model.warm,
        "capacity": model.capacity,
    }


def import_limits(
    gateway: GatewayName,
    file: File,
    price_per_unit: PriceDefault = None,
    pixels_per_unit: PixelsDefault = 1,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Make a capabilities_prices file a gateway's limits, in place of all for pipelines and models.

    As in Livepeer, the file is the whole of them, and the limit for everything is no part of it:
    that one stays.
    """
    read = livepeer.read_capabilities_prices(
        _text_of(file), str(file), Defaults(price_per_unit, pixels_per_unit)
    )
    with books(data_dir) as session:
        owner = _locked(session, gateway)
        kept = [limit for limit in limits.list_limits(session, owner.id) if limit.pipeline is None]
        found = limits.replace_limits(
            session, owner.id, [*read.limits, *kept], settlement_currency()
        )
        warnings = [warning.message for warning in found]
        rows = [
            {"pipeline": limit.pipeline, "model_id": limit.model_id, **price_facts(limit.price)}
            for limit in limits.list_limits(session, owner.id)
        ]
    if as_json:
        ignored = _ignored(read.ignored)
        show({"limits": rows, "warnings": warnings, "ignored": ignored}, as_json=True)
        return
    show_all(_LIMIT_COLUMNS, rows, as_json=False)
    for warning in warnings:
        complain(f"Warning: {warning}")
    _tell(file, read.ignored)


def _locked(session: Session, gateway: str) -> Gateway:
    """Return a gateway, held against other writers of its limits: the one that is kept is read."""
    owner = accounts.find_gateway(session, gateway)
    mine = select(Gateway).where(Gateway.id == owner.id)
    return session.scalars(mine.with_for_update(key_share=True)).one()


def _text_of(file: Path) -> str:
    """Return what a file holds.

    Raises:
        NotRead: It cannot be read, or is no text.
    """
    try:
        return file.read_text("utf-8-sig")
    except OSError as error:
        raise NotRead(file, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise NotRead(file, "it is not UTF-8") from error


def _ignored(ignored: Sequence[Ignored]) -> list[dict[str, object]]:
    return [vars(one) for one in ignored]


def _tell(file: Path, ignored: Sequence[Ignored]) -> None:
    for one in ignored:
        say(f"Ignored: {file}, line {one.line}: {one.reason}.")
