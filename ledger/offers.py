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

from ledger.errors import CurrencyMismatch, InvalidAmount, UnknownOrchestrator
from ledger.money import UnitPrice, charge
from ledger.rates import Rates
from ledger.tables import Account, Offer, Orchestrator

# More workers than this on one offer is a typing error.
MAX_CAPACITY = 1_000_000


@dataclass(frozen=True)
class Capability:
    """What is priced, limited and routed: a kind of work with a model."""

    pipeline: str
    model_id: str


@dataclass(frozen=True)
class LiveOffer:
    """An offer that holds now, with its orchestrator's name.

    `warm` and `capacity` are what the orchestrator promises: that the model is kept in memory, and
    how many workers at once it serves the offer with. What its workers do is not the ledger's word.
    """

    id: int
    orchestrator_id: UUID
    orchestrator: str
    capability: Capability
    price: UnitPrice
    valid_from: datetime
    warm: bool = False
    capacity: int = 1


@dataclass(frozen=True)
class Quote:
    """What a job would cost and who would run it: a value, not yet a promise.

    The amount is in the settlement currency of the `rates` that made it of the offer's price.
    """

    offer: LiveOffer
    units: int
    amount: Decimal
    rates: Rates

    @property
    def currency(self) -> str:
        """The currency of the amount."""
        return self.rates.settlement


def publish(
    session: Session,
    orchestrator_id: UUID,
    capability: Capability,
    price: UnitPrice,
    settlement_currency: str,
    valid_from: datetime | None = None,
    *,
    warm: bool = False,
    capacity: int = 1,
) -> Offer:
    """Offer a capability at a price in any currency, now or from a time on.

    Raises:
        InvalidAmount: The capacity is not a number of workers.
        UnknownOrchestrator: There is no such orchestrator.
        CurrencyMismatch: The orchestrator is paid in another currency than the settlement currency.
    """
    if not 1 <= capacity <= MAX_CAPACITY:
        raise InvalidAmount("capacity", f"must be from 1 to {MAX_CAPACITY} workers")
    paid_in = session.scalar(
        select(Account.currency).where(
            Account.orchestrator_id == orchestrator_id, Account.kind == "payable"
        )
    )
    if paid_in is None:
        raise UnknownOrchestrator(orchestrator_id)
    if paid_in != settlement_currency:
        raise CurrencyMismatch(paid_in, settlement_currency)
    row = _row(orchestrator_id, capability, price, warm=warm, capacity=capacity)
    if valid_from is not None:
        row.valid_from = valid_from
    return _add(session, row)


def withdraw(session: Session, offer: LiveOffer) -> Offer:
    """Stop offering: a row that says so supersedes the offer."""
    row = _row(
        offer.orchestrator_id,
        offer.capability,
        offer.price,
        warm=offer.warm,
        capacity=offer.capacity,
    )
    row.withdrawn = True
    return _add(session, row)


def _row(
    orchestrator_id: UUID,
    capability: Capability,
    price: UnitPrice,
    *,
    warm: bool,
    capacity: int,
) -> Offer:
    return Offer(
        orchestrator_id=orchestrator_id,
        pipeline=capability.pipeline,
        model_id=capability.model_id,
        price_per_unit=price.price_per_unit,
        pixels_per_unit=price.pixels_per_unit,
        currency=price.currency,
        stated_price_per_unit=price.stated and price.stated.price_per_unit,
        stated_pixels_per_unit=price.stated and price.stated.pixels_per_unit,
        stated_currency=price.stated and price.stated.currency,
        warm=warm,
        capacity=capacity,
    )


def _add(session: Session, row: Offer) -> Offer:
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
            valid_from=offer.valid_from,
            warm=offer.warm,
            capacity=offer.capacity,
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


def quote(offer: LiveOffer, units: int, rates: Rates | None = None) -> Quote:
    """Price `units` by an offer: exact, rounded up once if at all.

    Without rates, the offer's own currency is settled in.

    Raises:
        InvalidAmount: The units are negative, or units or amount are out of range.
        NoRate, StaleRate: The offer's currency cannot be converted.
    """
    rates = rates or Rates(offer.price.currency)
    rate = rates.of(offer.price.currency)
    return Quote(offer, units, charge(units, offer.price, rate.fraction), rates)
