"""What a gateway is willing to pay per unit: exact model, then pipeline, everything, else refuse.

No limit means no: accepting any price is an explicit row. A request may bring a tighter limit of
its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger import names
from ledger.errors import CurrencyMismatch, InvalidName, UnknownGateway
from ledger.money import UnitPrice
from ledger.offers import Capability
from ledger.rates import Rates
from ledger.tables import Account, Gateway, LimitWarning, Offer, PriceLimit


@dataclass(frozen=True)
class Limit:
    """The most paid per unit for a model, a pipeline (no model) or everything (neither).

    A price of None means that any price is accepted.
    """

    pipeline: str | None
    model_id: str | None
    price: UnitPrice | None

    def applies_to(self, capability: Capability) -> bool:
        """Tell whether the limit speaks about a capability."""
        return self.pipeline in (None, capability.pipeline) and self.model_id in (
            None,
            capability.model_id,
        )

    def allows(self, price: UnitPrice, rates: Rates | None = None) -> bool:
        """Tell whether a price is within the limit; equal is within.

        Raises:
            CurrencyMismatch: The price is in another currency than the limit, and there are no
                rates to compare them by.
            NoRate, StaleRate: There are, but not for these.
        """
        if self.price is None:
            return True
        if price.currency == self.price.currency:
            return price.fraction <= self.price.fraction
        if rates is None:
            raise CurrencyMismatch(price.currency, self.price.currency)
        return rates.settled(price) <= rates.settled(self.price)


def list_limits(session: Session, gateway_id: UUID) -> list[Limit]:
    """Return a gateway's limits, the most exact first."""
    rows = session.scalars(
        select(PriceLimit)
        .where(PriceLimit.gateway_id == gateway_id)
        .order_by(PriceLimit.pipeline.nulls_last(), PriceLimit.model_id.nulls_last())
    )
    return [Limit(row.pipeline, row.model_id, row.price) for row in rows]


def replace_limits(
    session: Session, gateway_id: UUID, limits: Sequence[Limit], settlement_currency: str
) -> list[LimitWarning]:
    """Make these the gateway's limits, all at once; returns the warnings of `set_limit`.

    Raises:
        UnknownGateway: There is no such gateway.
        InvalidName: Two limits are for the same scope, or one names a model without a pipeline, or
            by a text that is no name.
        CurrencyMismatch: The gateway's accounts are not in the settlement currency.
    """
    if len({(limit.pipeline, limit.model_id) for limit in limits}) < len(limits):
        raise InvalidName("limits: two of them are for the same pipeline and model_id.")
    _lock_gateway(session, gateway_id, settlement_currency)
    session.execute(delete(PriceLimit).where(PriceLimit.gateway_id == gateway_id))
    warned = [set_limit(session, gateway_id, limit, settlement_currency) for limit in limits]
    return [warning for warning in warned if warning is not None]


def set_limit(
    session: Session, gateway_id: UUID, limit: Limit, settlement_currency: str
) -> LimitWarning | None:
    """Set one limit, in any currency, in place of the gateway's earlier one for the same scope.

    A limit for what nobody offers (yet) holds as any other, with a warning that is kept and
    returned.

    Raises:
        UnknownGateway: There is no such gateway.
        InvalidName: The limit names a model without a pipeline, or by a text that is no name.
        CurrencyMismatch: The gateway's accounts are not in the settlement currency.
    """
    if limit.model_id is not None and limit.pipeline is None:
        raise InvalidName("pipeline: is needed where a model_id is given.")
    for field, name in (("pipeline", limit.pipeline), ("model_id", limit.model_id)):
        if name is not None:
            names.checked(field, name)
    _lock_gateway(session, gateway_id, settlement_currency)
    stated = limit.price and limit.price.stated
    price = {
        "price_per_unit": limit.price and limit.price.price_per_unit,
        "pixels_per_unit": limit.price and limit.price.pixels_per_unit,
        "currency": limit.price and limit.price.currency,
        "stated_price_per_unit": stated and stated.price_per_unit,
        "stated_pixels_per_unit": stated and stated.pixels_per_unit,
        "stated_currency": stated and stated.currency,
    }
    session.execute(
        insert(PriceLimit)
        .values(gateway_id=gateway_id, pipeline=limit.pipeline, model_id=limit.model_id, **price)
        .on_conflict_do_update(
            constraint="uq_price_limits_gateway_id_pipeline_model_id", set_=price
        )
    )
    return _warning(session, gateway_id, limit)


def _warning(session: Session, gateway_id: UUID, limit: Limit) -> LimitWarning | None:
    """Record a warning when nobody has ever offered what a limit is for."""
    if limit.pipeline is None:
        return None
    offered = select(Offer.id).where(Offer.pipeline == limit.pipeline)
    if limit.model_id is not None:
        offered = offered.where(Offer.model_id == limit.model_id)
    if session.scalar(offered.limit(1)) is not None:
        return None
    what = f"{limit.pipeline} with {limit.model_id!r}" if limit.model_id else limit.pipeline
    warning = LimitWarning(
        gateway_id=gateway_id,
        pipeline=limit.pipeline,
        model_id=limit.model_id,
        message=f"Nobody offers {what}; the limit is set, and waits for an offer.",
    )
    session.add(warning)
    session.flush()
    return warning


def list_warnings(
    session: Session, gateway_id: UUID, limit: int = 100, before: int | None = None
) -> list[LimitWarning]:
    """Return a gateway's newest warnings, or those older than `before`, the id of one."""
    mine = select(LimitWarning).where(LimitWarning.gateway_id == gateway_id)
    if before is not None:
        mine = mine.where(LimitWarning.id < before)
    return list(session.scalars(mine.order_by(LimitWarning.id.desc()).limit(limit)))


def _lock_gateway(session: Session, gateway_id: UUID, settlement_currency: str) -> None:
    """Let writers of one gateway's limits take turns: two that replace them must not mix theirs."""
    currency = session.scalar(
        select(Account.currency)
        .join(Gateway, Gateway.id == Account.gateway_id)
        .where(Gateway.id == gateway_id, Account.kind == "available")
        .with_for_update(key_share=True, of=Gateway)
    )
    if currency is None:
        raise UnknownGateway(gateway_id)
    if currency != settlement_currency:
        raise CurrencyMismatch(currency, settlement_currency)


def effective(
    limits: Iterable[Limit],
    capability: Capability,
    max_price: UnitPrice | None = None,
    rates: Rates | None = None,
) -> Limit | None:
    """Return the limit for a capability: the most exact one, tightened by the request's own price.

    None means that the gateway has said nothing; a request's `max_price` alone is not consent,
    because a limit is the gateway owner's word, and a request only the caller's.

    Raises:
        CurrencyMismatch, NoRate, StaleRate: The request's price is in another currency than the
            limit, and cannot be compared.
    """
    fitting = [limit for limit in limits if limit.applies_to(capability)]
    if not fitting:
        return None
    limit = max(fitting, key=lambda one: (one.pipeline is not None) + (one.model_id is not None))
    own = Limit(capability.pipeline, capability.model_id, max_price)
    if max_price is None or (limit.price is not None and own.allows(limit.price, rates)):
        return limit
    return own
