"""/v1/admin/orchestrators/<orchestrator>/offers: what an orchestrator serves, and at what price.

An offer is never edited, here or anywhere: a new one supersedes it.
"""

from __future__ import annotations

from collections.abc import Sequence

from flask import Blueprint, Response
from sqlalchemy.orm import Session

from api import parsing, render
from api.errors import OfferNotEditable
from api.openapi import Answer, Operation, operation
from api.routes.admin.owners import find_orchestrator
from api.routes.admin.schemas import NewOffer, OfferEdit
from api.routes.admin.views import OffersView, OfferView
from api.runtime import current
from ledger import offers
from ledger.errors import (
    CurrencyMismatch,
    InvalidAmount,
    InvalidName,
    UnknownOffer,
    UnknownOrchestrator,
)
from ledger.money import unit_price
from ledger.offers import Capability, LiveOffer
from ledger.tables import Offer
from tasks import workers
from tasks.errors import FieldError, InvalidParams, UnknownModel

bp = Blueprint("offers", __name__, url_prefix="/orchestrators/<orchestrator>/offers")


@bp.post("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewOffer},
        answers=[Answer(201, "The offer", OfferView)],
        errors=[UnknownOrchestrator, UnknownModel, InvalidAmount, InvalidName, CurrencyMismatch],
    )
)
def publish(orchestrator: str) -> Response:
    """Publish an orchestrator's price for a capability, from now or from a time on.

    It supersedes the orchestrator's earlier offer for the capability. Jobs that were submitted
    before keep their price.
    """
    asked = parsing.json_body(NewOffer)
    runtime = current()
    spec = runtime.catalog.get(asked.model_id)
    if asked.pipeline not in spec.pipelines:
        said = f"{spec.model_id} does {' or '.join(spec.pipelines)}"
        raise InvalidParams([FieldError("pipeline", said)])
    price = unit_price(
        asked.price_per_unit,
        asked.pixels_per_unit,
        runtime.settlement_currency if asked.currency is None else asked.currency,
    )
    with runtime.sessions.begin() as session:
        owner = find_orchestrator(session, orchestrator)
        row = offers.publish(
            session,
            owner.id,
            Capability(asked.pipeline, asked.model_id),
            price,
            runtime.settlement_currency,
            asked.valid_from,
            warm=asked.warm,
            capacity=asked.capacity,
        )
        [view] = _views(session, [offers.read(row, owner.name)])
    return render.answer(view, 201)


@bp.get("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The offers that hold now or later", OffersView)],
        errors=[UnknownOrchestrator],
    )
)
def index(orchestrator: str) -> Response:
    """List an orchestrator's offers: those that hold, then those that are planned.

    Those that hold are sorted by currency, the cheapest of each first; those that are planned, by
    when they begin. `live`: a worker that serves it is up.
    """
    with current().reads() as session:
        owner = find_orchestrator(session, orchestrator)
        data = _views(session, offers.known(session, Offer.orchestrator_id == owner.id))
    return render.answer(OffersView(data=data, next_cursor=None))


@bp.delete("/<int:offer_id>")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The offer, as it was", OfferView)],
        errors=[UnknownOrchestrator, UnknownOffer],
    )
)
def withdraw(orchestrator: str, offer_id: int) -> Response:
    """Stop offering, or do not begin to. Jobs that were submitted before keep their price.

    An offer that is planned is as if it had not been: what holds now goes on.
    """
    with current().sessions.begin() as session:
        found = _find(session, orchestrator, offer_id)
        offers.withdraw(session, found)
        [view] = _views(session, [found])
    return render.answer(view)


@bp.put("/<int:offer_id>", endpoint="replace")
@bp.patch("/<int:offer_id>", endpoint="edit")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: OfferEdit},
        answers=[],
        errors=[UnknownOrchestrator, UnknownOffer, OfferNotEditable],
    )
)
def edit(orchestrator: str, offer_id: int) -> Response:
    """Refuse to edit an offer: publish a new one, which supersedes it."""
    asked = parsing.json_body(OfferEdit)
    with current().reads() as session:
        found = _find(session, orchestrator, offer_id)
    raise OfferNotEditable(found.id, sorted(asked.__pydantic_extra__) or ["offer"])


def _find(session: Session, orchestrator: str, offer_id: int) -> LiveOffer:
    """Return an offer of an orchestrator that holds now, or is planned.

    Raises:
        UnknownOrchestrator: There is no such orchestrator.
        UnknownOffer: It has no such offer, or no more.
    """
    owner = find_orchestrator(session, orchestrator)
    for offer in offers.known(session, Offer.orchestrator_id == owner.id):
        if offer.id == offer_id:
            return offer
    raise UnknownOffer(owner.name, offer_id)


def _views(session: Session, found: Sequence[LiveOffer]) -> list[OfferView]:
    return [
        OfferView(
            id=one.offer.id,
            pipeline=one.offer.capability.pipeline,
            model_id=one.offer.capability.model_id,
            warm=one.offer.warm,
            capacity=one.offer.capacity,
            valid_from=one.offer.valid_from,
            live=one.live,
            **render.unit_price(one.offer.price).model_dump(),
        )
        for one in workers.candidates(session, found)
    ]
