"""/v1/admin/orchestrators/<orchestrator>/offers: what an orchestrator serves, and at what price.

An offer is never edited, here or anywhere: a new one supersedes it.
"""

from __future__ import annotations

from flask import Blueprint, Response

from api import parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.admin.owners import find_orchestrator
from api.routes.admin.schemas import NewOffer
from api.routes.admin.views import OffersView, OfferView
from api.runtime import current
from ledger import offers
from ledger.errors import CurrencyMismatch, InvalidAmount, UnknownOrchestrator
from ledger.money import unit_price
from ledger.offers import Capability
from ledger.tables import Offer
from tasks.errors import FieldError, InvalidParams, UnknownModel

bp = Blueprint("offers", __name__, url_prefix="/orchestrators/<orchestrator>/offers")


@bp.post("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewOffer},
        answers=[Answer(201, "The offer", OfferView)],
        errors=[UnknownOrchestrator, UnknownModel, InvalidAmount, CurrencyMismatch],
    )
)
def publish(orchestrator: str) -> Response:
    """Publish an orchestrator's price for a capability, from now on."""
    asked = parsing.json_body(NewOffer)
    runtime = current()
    spec = runtime.catalog.get(asked.model_id)
    if asked.pipeline not in spec.pipelines:
        said = f"{spec.model_id} does {' or '.join(spec.pipelines)}"
        raise InvalidParams([FieldError("pipeline", said)])
    price = unit_price(
        asked.price_per_unit,
        asked.pixels_per_unit,
        asked.currency or runtime.settlement_currency,
    )
    with runtime.sessions.begin() as session:
        owner = find_orchestrator(session, orchestrator)
        capability = Capability(asked.pipeline, asked.model_id)
        row = offers.publish(session, owner.id, capability, price, runtime.settlement_currency)
        view = OfferView(
            id=row.id,
            pipeline=row.pipeline,
            model_id=row.model_id,
            **render.unit_price(price).model_dump(),
        )
    return render.answer(view, 201)


@bp.get("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The offers that hold now", OffersView)],
        errors=[UnknownOrchestrator],
    )
)
def index(orchestrator: str) -> Response:
    """List an orchestrator's offers that hold now."""
    with current().reads() as session:
        owner = find_orchestrator(session, orchestrator)
        found = offers.live(session, Offer.orchestrator_id == owner.id)
    data = [
        OfferView(
            id=offer.id,
            pipeline=offer.capability.pipeline,
            model_id=offer.capability.model_id,
            **render.unit_price(offer.price).model_dump(),
        )
        for offer in found
    ]
    return render.answer(OffersView(data=data, next_cursor=None))
