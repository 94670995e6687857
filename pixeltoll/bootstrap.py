"""The rows of a new stack: a gateway that can pay, an orchestrator that offers, and a key.

Every function may be called again at each start: it adds what is missing, and changes nothing that
an operator has changed since.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from api import auth
from ledger import accounts, limits, offers
from ledger.errors import UnknownGateway, UnknownOrchestrator
from ledger.money import unit_price
from ledger.offers import Capability
from ledger.tables import Gateway, Offer, Orchestrator
from tasks import catalog, registration
from tasks.errors import NotRegistered

DEMO = "demo"
_FUNDS = Decimal(10)
_FEE_RATE = Decimal("0.10")
# The price that Livepeer's documents use as their example, per pixel.
_PRICE = "0.000000019073484"
# A little above it, so that the demo is accepted and a dearer offer would be refused.
_LIMIT = "0.00000002"


def capabilities(catalog_path: Path) -> list[Capability]:
    """Return what the models of a catalog file can do, and those that need no weights.

    The others of the built-in catalog are left out.

    Raises:
        CatalogError: The file cannot be used.
    """
    models = catalog.load(catalog_path)
    ids = [row["model_id"] for row in tomllib.loads(catalog_path.read_text("utf-8"))["model"]]
    weightless = [one.model_id for one in models.models() if one.layout == "resampling"]
    return [
        Capability(pipeline, model_id)
        for model_id in dict.fromkeys([*ids, *weightless])
        for pipeline in models.get(model_id).pipelines
    ]


def demo_gateway(session: Session, currency: str) -> Gateway:
    """Return the demo gateway; a new one gets funds and a price limit for everything."""
    try:
        return accounts.find_gateway(session, DEMO)
    except UnknownGateway:
        gateway = accounts.create_gateway(session, DEMO, currency)
    accounts.top_up(session, gateway.id, _FUNDS, reference=f"{DEMO}-funds")
    limit = limits.Limit(None, None, unit_price(_LIMIT, 1, currency))
    limits.set_limit(session, gateway.id, limit, currency)
    return gateway


def demo_orchestrator(
    session: Session, currency: str, served: Iterable[Capability]
) -> Orchestrator:
    """Return the demo orchestrator; it offers each capability that it has never offered before."""
    try:
        orchestrator = accounts.find_orchestrator(session, DEMO)
    except UnknownOrchestrator:
        orchestrator = accounts.create_orchestrator(session, DEMO, currency, _FEE_RATE)
    rows = session.execute(
        select(Offer.pipeline, Offer.model_id).where(Offer.orchestrator_id == orchestrator.id)
    )
    known = {Capability(pipeline, model_id) for pipeline, model_id in rows}
    price = unit_price(_PRICE, 1, currency)
    for capability in served:
        if capability not in known:
            offers.publish(session, orchestrator.id, capability, price, currency)
    return orchestrator


def worker_key(session: Session, orchestrator: Orchestrator, known: str) -> str:
    """Return the `known` key if the orchestrator's workers can register with it, else a new one."""
    try:
        registration.authenticate(session, known)
    except NotRegistered:
        return registration.create_key(session, orchestrator.id, DEMO)[1]
    return known


def demo_key(session: Session, gateway: Gateway, known: str) -> str:
    """Return the `known` key if it still opens the gateway, else a new one."""
    valid = {key.id for key in auth.list_keys(session, gateway.id) if key.revoked_at is None}
    if any(known.startswith(f"px_{key_id}_") for key_id in valid):
        return known
    return auth.create_key(session, gateway.id, DEMO)[1]
