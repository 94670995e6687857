"""What orchestrators serve and at what price, and what a job would cost by it.

An offer is never edited. It holds from when it begins until a later one of the same orchestrator
and capability begins, or until it is withdrawn. One that has not begun yet is planned, and until
then what held before goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session, aliased

from ledger import names
from ledger.errors import CurrencyMismatch, InvalidAmount, UnknownOffer, UnknownOrchestrator
from ledger.money import UnitPrice, charge
from ledger.rates import Rates
from ledger.tables import Account, Offer, Orchestrator

# More workers than this on one offer is a typing error.
MAX_CAPACITY = 1_000_000
# What a caller's clock calls now may be a little while ago by the database's.
_CLOCKS_DIFFER = timedelta(minutes=1)


@dataclass(frozen=True)
class Capability:
    """What is priced, limited and routed: a kind of work with a model."""

    pipeline: str
    model_id: str


@dataclass(frozen=True)
class LiveOffer:
    """An offer that holds now, or is planned, with its orchestrator's name.

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

    It supersedes what is offered then. Offers that are planned for later stay planned.

    Raises:
        InvalidName: Pipeline or model_id is empty, too long or has unprintable characters.
        InvalidAmount: The capacity is not a number of workers, or the offer would begin in the
            past.
        UnknownOrchestrator: There is no such orchestrator.
        CurrencyMismatch: The orchestrator is paid in another currency than the settlement currency.
    """
    for field, name in vars(capability).items():
        names.checked(field, name)
    if not 1 <= capacity <= MAX_CAPACITY:
        raise InvalidAmount("capacity", f"must be from 1 to {MAX_CAPACITY} workers")
    paid_in, now = _lock(session, orchestrator_id)
    if paid_in != settlement_currency:
        raise CurrencyMismatch(paid_in, settlement_currency)
    if valid_from is not None and valid_from < now - _CLOCKS_DIFFER:
        raise InvalidAmount("valid_from", "must not be in the past; leave it out to begin now")
    row = _row(orchestrator_id, capability, price, warm=warm, capacity=capacity)
    if valid_from is not None and valid_from > now:
        row.valid_from = valid_from
    return _add(session, row)


def withdraw(session: Session, offer: LiveOffer) -> Offer:
    """Stop offering, or do not begin to; returns the row that says so.

    After an offer that holds, nothing is offered, until one that is planned begins. One that is
    planned itself is as if it had not been.

    Raises:
        UnknownOrchestrator: There is no such orchestrator.
        UnknownOffer: The offer neither holds nor is planned: it was superseded, or withdrawn.
    """
    _lock(session, offer.orchestrator_id)
    # By the time after the lock: what was published while we waited for it has begun.
    now = func.statement_timestamp()
    where = _same(offer.orchestrator_id, offer.capability)
    row = _row(
        offer.orchestrator_id,
        offer.capability,
        offer.price,
        warm=offer.warm,
        capacity=offer.capacity,
    )
    row.withdrawn = True
    if any(one.id == offer.id for one in _planned(session, now, *where)):
        row.withdraws = offer.id
    elif not any(one.id == offer.id for one in _holding(session, now, *where)):
        raise UnknownOffer(offer.orchestrator, offer.id)
    return _add(session, row)


def _lock(session: Session, orchestrator_id: UUID) -> tuple[str, datetime]:
    """Let the writers of an orchestrator's offers take turns.

    Returns what it is paid in, and the time.

    Raises:
        UnknownOrchestrator: There is no such orchestrator.
    """
    row = session.execute(
        select(Account.currency, func.now())
        .join(Orchestrator, Orchestrator.id == Account.orchestrator_id)
        .where(Orchestrator.id == orchestrator_id, Account.kind == "payable")
        .with_for_update(key_share=True, of=Orchestrator)
    ).one_or_none()
    if row is None:
        raise UnknownOrchestrator(orchestrator_id)
    currency, now = row
    return currency, now


def _same(orchestrator_id: UUID, capability: Capability) -> tuple[ColumnElement[bool], ...]:
    return (
        Offer.orchestrator_id == orchestrator_id,
        Offer.pipeline == capability.pipeline,
        Offer.model_id == capability.model_id,
    )


def _row(
    orchestrator_id: UUID,
    capability: Capability,
    price: UnitPrice,
    *,
    warm: bool,
    capacity: int,
) -> Offer:
    # From now on, and not before what has begun already: a transaction may begin before another one
    # and take its turn after it. Of two that begin at once, the one that was written later holds.
    begun = select(func.max(Offer.valid_from)).where(
        Offer.valid_from <= func.statement_timestamp(), *_same(orchestrator_id, capability)
    )
    return Offer(
        valid_from=func.greatest(func.now(), begun.scalar_subquery()),
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
    """Return the offers that hold now, by currency, the cheapest of each first.

    `where` narrows the offers looked at.
    """
    return _holding(session, func.now(), *where)


def planned(session: Session, *where: ColumnElement[bool]) -> list[LiveOffer]:
    """Return the offers that begin later, the next one first; `where` narrows them."""
    return _planned(session, func.now(), *where)


def known(session: Session, *where: ColumnElement[bool]) -> list[LiveOffer]:
    """Return the offers that hold now, as `live` does, and then those that are planned."""
    return [*live(session, *where), *planned(session, *where)]


def _holding(
    session: Session, now: ColumnElement[datetime], *where: ColumnElement[bool]
) -> list[LiveOffer]:
    newest = (
        _standing()
        .where(Offer.valid_from <= now, *where)
        .ext(distinct_on(Offer.pipeline, Offer.model_id, Offer.orchestrator_id))
        .order_by(
            Offer.pipeline,
            Offer.model_id,
            Offer.orchestrator_id,
            Offer.valid_from.desc(),
            Offer.id.desc(),
        )
    )
    offers = [read(offer, name) for offer, name in session.execute(newest) if not offer.withdrawn]
    return sorted(offers, key=_by_price)


def _by_price(offer: LiveOffer) -> tuple[str, Fraction, str]:
    # Prices in two currencies are not compared: that takes a rate, of which there may be none.
    return offer.price.currency, offer.price.fraction, offer.orchestrator


def _planned(
    session: Session, now: ColumnElement[datetime], *where: ColumnElement[bool]
) -> list[LiveOffer]:
    later = _standing().where(Offer.valid_from > now, *where)
    rows = session.execute(later.order_by(Offer.valid_from, Offer.id))
    return [read(offer, name) for offer, name in rows]


def _standing() -> Select[Offer, str]:
    """Return a query for offers and whose they are, less those withdrawn before they began."""
    before_it_began = aliased(Offer)
    gone = select(before_it_began.id).where(before_it_began.withdraws == Offer.id)
    return (
        select(Offer, Orchestrator.name)
        .join(Orchestrator, Orchestrator.id == Offer.orchestrator_id)
        .where(Offer.withdraws.is_(None), ~gone.exists())
    )


def read(offer: Offer, orchestrator: str) -> LiveOffer:
    """Return a row of offers with its orchestrator's name."""
    return LiveOffer(
        id=offer.id,
        orchestrator_id=offer.orchestrator_id,
        orchestrator=orchestrator,
        capability=Capability(offer.pipeline, offer.model_id),
        price=offer.price,
        valid_from=offer.valid_from,
        warm=offer.warm,
        capacity=offer.capacity,
    )


def live_for(session: Session, capability: Capability) -> list[LiveOffer]:
    """Return the offers for a capability that hold now, as `live` does."""
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
