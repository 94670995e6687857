"""/v1/admin: gateways, their keys, funds and limits; orchestrators and their offers."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api import auth, parsing, render
from api.errors import UnknownKey
from api.openapi import Answer, Operation, operation
from api.routes.gateway import requested_limits
from api.runtime import Runtime, current
from api.schemas import (
    GatewaysView,
    GatewayView,
    KeysView,
    KeyView,
    LimitsRequest,
    LimitsView,
    NewGateway,
    NewKey,
    NewKeyView,
    NewOffer,
    NewOrchestrator,
    OffersView,
    OfferView,
    OrchestratorsView,
    OrchestratorView,
    TopUp,
    TopUpView,
)
from api.tables import ApiKey
from ledger import accounts, limits, offers
from ledger.errors import (
    CurrencyMismatch,
    InvalidAmount,
    InvalidName,
    NameTaken,
    ReferenceReused,
    UnknownGateway,
    UnknownOrchestrator,
)
from ledger.money import plain, unit_price
from ledger.offers import Capability
from ledger.tables import Gateway, Offer, Orchestrator
from tasks.errors import FieldError, InvalidParams, UnknownModel

bp = Blueprint("admin", __name__, url_prefix="/v1/admin")


# --- gateways ---------------------------------------------------------------------------------


@bp.post("/gateways")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewGateway},
        answers=[Answer(201, "The gateway", GatewayView)],
        errors=[InvalidName, NameTaken],
    )
)
def create_gateway() -> Response:
    """Create a gateway, with nothing on its account and no limits."""
    asked = parsing.json_body(NewGateway)
    runtime = current()
    with runtime.sessions.begin() as session:
        row = accounts.create_gateway(session, asked.name, runtime.settlement_currency)
        return render.answer(_gateway(session, row), 201)


@bp.get("/gateways")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The gateways", GatewaysView)],
    )
)
def list_gateways() -> Response:
    """List all gateways with their balances."""
    with current().reads() as session:
        rows = session.scalars(select(Gateway).order_by(Gateway.name)).all()
        data = [_gateway(session, row) for row in rows]
    return render.answer(GatewaysView(data=data, next_cursor=None))


def _gateway(session: Session, row: Gateway) -> GatewayView:
    return GatewayView(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        balance=render.balance(accounts.balance(session, row.id)),
    )


def _find_gateway(session: Session, name: str) -> Gateway:
    return accounts.find_gateway(session, _id_or_name(name, UnknownGateway(name)))


def _id_or_name(text: str, unknown: Exception) -> UUID | str:
    try:
        return UUID(text)
    except ValueError:
        if not text.isprintable():  # PostgreSQL would not even compare it
            raise unknown from None
        return text


# --- keys -------------------------------------------------------------------------------------


@bp.post("/gateways/<gateway>/keys")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewKey},
        answers=[Answer(201, "The key; it cannot be shown again", NewKeyView)],
        errors=[UnknownGateway],
    )
)
def create_key(gateway: str) -> Response:
    """Create an API key for a gateway."""
    asked = parsing.json_body(NewKey)
    with current().sessions.begin() as session:
        row, key = auth.create_key(session, _find_gateway(session, gateway).id, asked.name)
        view = NewKeyView(**_key(row).model_dump(), key=key)
    return render.answer(view, 201)


@bp.get("/gateways/<gateway>/keys")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The keys, without their secrets", KeysView)],
        errors=[UnknownGateway],
    )
)
def list_keys(gateway: str) -> Response:
    """List a gateway's API keys."""
    with current().reads() as session:
        rows = auth.list_keys(session, _find_gateway(session, gateway).id)
    return render.answer(KeysView(data=[_key(row) for row in rows], next_cursor=None))


@bp.delete("/gateways/<gateway>/keys/<key_id>")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The key, revoked", KeyView)],
        errors=[UnknownGateway, UnknownKey],
    )
)
def revoke_key(gateway: str, key_id: str) -> Response:
    """Revoke an API key at once. Twice is no error."""
    with current().sessions.begin() as session:
        owner = _find_gateway(session, gateway)
        if not key_id.isprintable():
            raise UnknownKey(key_id)
        view = _key(auth.revoke_key(session, owner.id, key_id))
    return render.answer(view)


def _key(row: ApiKey) -> KeyView:
    return KeyView(id=row.id, name=row.name, created_at=row.created_at, revoked_at=row.revoked_at)


# --- money and limits -------------------------------------------------------------------------


@bp.post("/gateways/<gateway>/top-ups")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: TopUp},
        answers=[Answer(201, "The funds are there", TopUpView)],
        errors=[UnknownGateway, InvalidAmount, ReferenceReused],
    )
)
def top_up(gateway: str) -> Response:
    """Add funds to a gateway, once for each reference."""
    asked = parsing.json_body(TopUp)
    with current().sessions.begin() as session:
        row = _find_gateway(session, gateway)
        entry = accounts.top_up(session, row.id, asked.amount, asked.reference)
        view = TopUpView(
            reference=asked.reference,
            amount=plain(asked.amount),
            currency=entry.currency,
            balance=render.balance(accounts.balance(session, row.id)),
        )
    return render.answer(view, 201)


@bp.get("/gateways/<gateway>/limits")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The limits", LimitsView)],
        errors=[UnknownGateway],
    )
)
def show_limits(gateway: str) -> Response:
    """Show a gateway's limits."""
    with current().reads() as session:
        found = limits.list_limits(session, _find_gateway(session, gateway).id)
    return render.answer(render.limits(found))


@bp.put("/gateways/<gateway>/limits")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: LimitsRequest},
        answers=[Answer(200, "The limits now", LimitsView)],
        errors=[UnknownGateway, InvalidAmount, CurrencyMismatch],
    )
)
def set_limits(gateway: str) -> Response:
    """Replace a gateway's limits, as the gateway itself can."""
    runtime = current()
    wanted = requested_limits(runtime.settlement_currency)
    with runtime.sessions.begin() as session:
        owner = _find_gateway(session, gateway)
        limits.replace_limits(session, owner.id, wanted, runtime.settlement_currency)
        found = limits.list_limits(session, owner.id)
    return render.answer(render.limits(found))


# --- orchestrators and offers -----------------------------------------------------------------


@bp.post("/orchestrators")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewOrchestrator},
        answers=[Answer(201, "The orchestrator", OrchestratorView)],
        errors=[InvalidName, InvalidAmount, NameTaken],
    )
)
def create_orchestrator() -> Response:
    """Create an orchestrator, with no offers."""
    asked = parsing.json_body(NewOrchestrator)
    runtime = current()
    with runtime.sessions.begin() as session:
        row = accounts.create_orchestrator(
            session, asked.name, runtime.settlement_currency, asked.fee_rate
        )
        return render.answer(_orchestrator(session, row, runtime), 201)


@bp.get("/orchestrators")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The orchestrators", OrchestratorsView)],
    )
)
def list_orchestrators() -> Response:
    """List all orchestrators, with what they have earned and were not paid yet."""
    runtime = current()
    with runtime.reads() as session:
        rows = session.scalars(select(Orchestrator).order_by(Orchestrator.name)).all()
        data = [_orchestrator(session, row, runtime) for row in rows]
    return render.answer(OrchestratorsView(data=data, next_cursor=None))


def _orchestrator(session: Session, row: Orchestrator, runtime: Runtime) -> OrchestratorView:
    return OrchestratorView(
        id=row.id,
        name=row.name,
        fee_rate=plain(row.fee_rate),
        owed=plain(accounts.owed(session, row.id)),
        currency=runtime.settlement_currency,
        created_at=row.created_at,
    )


def _find_orchestrator(session: Session, name: str) -> Orchestrator:
    return accounts.find_orchestrator(session, _id_or_name(name, UnknownOrchestrator(name)))


@bp.post("/orchestrators/<orchestrator>/offers")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewOffer},
        answers=[Answer(201, "The offer", OfferView)],
        errors=[UnknownOrchestrator, UnknownModel, InvalidAmount, CurrencyMismatch],
    )
)
def publish_offer(orchestrator: str) -> Response:
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
        owner = _find_orchestrator(session, orchestrator)
        capability = Capability(asked.pipeline, asked.model_id)
        row = offers.publish(session, owner.id, capability, price, runtime.settlement_currency)
        view = OfferView(
            id=row.id,
            pipeline=row.pipeline,
            model_id=row.model_id,
            **render.unit_price(price).model_dump(),
        )
    return render.answer(view, 201)


@bp.get("/orchestrators/<orchestrator>/offers")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The offers that hold now", OffersView)],
        errors=[UnknownOrchestrator],
    )
)
def list_offers(orchestrator: str) -> Response:
    """List an orchestrator's offers that hold now."""
    with current().reads() as session:
        owner = _find_orchestrator(session, orchestrator)
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
