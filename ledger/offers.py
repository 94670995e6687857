"""What orchestrators serve and at what price, and what a job would cost by it.

An offer is never edited: a later one of the same orchestrator and capability supersedes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from ledger.errors import CurrencyMismatch, UnknownOrchestrator
from ledger.money import UnitPrice, charge
from ledger.tables import Account, Offer, Orchestrator


@dataclass(frozen=True)
class Capability:
    """What is priced, limited and routed: a kind of work with a model."""

    pipeline: str
    model_id: str


@dataclass(frozen=True)
class LiveOffer:
    """An offer that holds now, with its orchestrator's name."""

    id: int
    orchestrator_id: UUID
    orchestrator: str
    capability: Capability
    price: UnitPrice


@dataclass(frozen=True)
class Quote:
    """What a job would cost and who would run it: a value, not yet a promise."""

    offer: LiveOffer
    units: int
    amount: Decimal

    @property
    def currency(self) -> str:
        """The currency of the amount."""
        return self.offer.price.currency


def publish(
    session: Session,
    orchestrator_id: UUID,
    capability: Capability,
    price: UnitPrice,
    settlement_currency: str,
    valid_from: datetime | None = None,
) -> Offer:
    """Offer a capability at a price, now or from a time on.

    Raises:
        UnknownOrchestrator: There is no such orchestrator.
        CurrencyMismatch: The price is not in the settlement currency, or not in the one that the
            orchestrator is paid in.
    """
    paid_in = session.scalar(
        select(Account.currency).where(
            Account.orchestrator_id == orchestrator_id, Account.kind == "payable"
        )
    )
    if paid_in is None:
        raise UnknownOrchestrator(orchestrator_id)
    for currency in (settlement_currency, paid_in):
        if price.currency != currency:
            raise CurrencyMismatch(price.currency, currency)
    return _add(session, orchestrator_id, capability, price, valid_from, withdrawn=False)


def withdraw(session: Session, offer: LiveOffer) -> Offer:
    """Stop offering: a row that says so supersedes the offer."""
    return _add(session, offer.orchestrator_id, offer.capability, offer.price, None, withdrawn=True)


def _add(
    session: Session,
    orchestrator_id: UUID,
    capability: Capability,
    price: UnitPrice,
    valid_from: datetime | None,
    *,
    withdrawn: bool,
) -> Offer:
    row = Offer(
        orchestrator_id=orchestrator_id,
        pipeline=capability.pipeline,
        model_id=capability.model_id,
        price_per_unit=price.price_per_unit,
        pixels_per_unit=price.pixels_per_unit,
        currency=price.currency,
        withdrawn=withdrawn,
    )
    if valid_from is not None:
        row.valid_from = valid_from
    session.add(row)
    session.flush()
    return row


def live(session: Session, *where: ColumnElement[bool]) -> list[LiveOffer]:
    """Return the offers that hold now, cheapest first; `where` narrows the offers looked at."""
    newest = (
        select(Offer, Orchestrator.name)
        .join(Orchestrator, Orchestrator.id == Offer.orchestrator_id)
        .where(Offer.valid_from <= func.now(), *where)
        .ext(distinct_on(Offer.pipeline, Offer.model_id, Offer.orchestrator_id))
        .order_by(
            Offer.pipeline,
            Offer.model_id,
            Offer.orchestrator_id,
            Offer.valid_from.desc(),
            Offer.id.desc(),
        )
    )
    offers = [
        LiveOffer(
            id=offer.id,
            orchestrator_id=offer.orchestrator_id,
            orchestrator=name,
            capability=Capability(offer.pipeline, offer.model_id),
            price=offer.price,
        )
        for offer, name in session.execute(newest)
        if not offer.withdrawn
    ]
    return sorted(offers, key=lambda offer: (offer.price.fraction, offer.orchestrator))


def live_for(session: Session, capability: Capability) -> list[LiveOffer]:
    """Return the offers for a capability that hold now, cheapest first."""
    return live(
        session, Offer.pipeline == capability.pipeline, Offer.model_id == capability.model_id
    )


def quote(offer: LiveOffer, units: int) -> Quote:
    """Price `units` by an offer: exact, rounded up once if at all.

    Raises:
        InvalidAmount: The units are negative, or units or amount are out of range.
    """
    return Quote(offer, units, charge(units, offer.price))
