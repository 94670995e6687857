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

from ledger.errors import CurrencyMismatch, InvalidName, UnknownGateway
from ledger.money import UnitPrice
from ledger.offers import Capability
from ledger.tables import Gateway, PriceLimit


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

    def allows(self, price: UnitPrice) -> bool:
        """Tell whether a price is within the limit; equal is within.

        Raises:
            CurrencyMismatch: The price is in another currency than the limit.
        """
        if self.price is None:
            return True
        if price.currency != self.price.currency:
            raise CurrencyMismatch(price.currency, self.price.currency)
        return price.fraction <= self.price.fraction


def list_limits(session: Session, gateway_id: UUID) -> list[Limit]:
    """Return a gateway's limits, the most exact first."""
    rows = session.scalars(
        select(PriceLimit)
        .where(PriceLimit.gateway_id == gateway_id)
        .order_by(PriceLimit.pipeline.nulls_last(), PriceLimit.model_id.nulls_last())
    )
    return [Limit(row.pipeline, row.model_id, _price(row)) for row in rows]


def _price(row: PriceLimit) -> UnitPrice | None:
    if row.price_per_unit is None or row.pixels_per_unit is None or row.currency is None:
        return None
    return UnitPrice(row.price_per_unit, row.pixels_per_unit, row.currency)


def replace_limits(
    session: Session, gateway_id: UUID, limits: Sequence[Limit], settlement_currency: str
) -> None:
    """Make these the gateway's limits, all at once.

    Raises:
        UnknownGateway: There is no such gateway.
        InvalidName: Two limits are for the same scope, or one names a model without a pipeline.
        CurrencyMismatch: A price is not in the settlement currency.
    """
    if len({(limit.pipeline, limit.model_id) for limit in limits}) < len(limits):
        raise InvalidName("limits: two of them are for the same pipeline and model_id.")
    _lock_gateway(session, gateway_id)
    session.execute(delete(PriceLimit).where(PriceLimit.gateway_id == gateway_id))
    for limit in limits:
        set_limit(session, gateway_id, limit, settlement_currency)


def set_limit(session: Session, gateway_id: UUID, limit: Limit, settlement_currency: str) -> None:
    """Set one limit, in place of the gateway's earlier one for the same scope.

    Raises:
        UnknownGateway: There is no such gateway.
        InvalidName: The limit names a model without a pipeline.
        CurrencyMismatch: The price is not in the settlement currency.
    """
    if limit.model_id is not None and limit.pipeline is None:
        raise InvalidName("pipeline: is needed where a model_id is given.")
    if limit.price is not None and limit.price.currency != settlement_currency:
        raise CurrencyMismatch(limit.price.currency, settlement_currency)
    _lock_gateway(session, gateway_id)
    price = {
        "price_per_unit": limit.price and limit.price.price_per_unit,
        "pixels_per_unit": limit.price and limit.price.pixels_per_unit,
        "currency": limit.price and limit.price.currency,
    }
    session.execute(
        insert(PriceLimit)
        .values(gateway_id=gateway_id, pipeline=limit.pipeline, model_id=limit.model_id, **price)
        .on_conflict_do_update(
            constraint="uq_price_limits_gateway_id_pipeline_model_id", set_=price
        )
    )


def _lock_gateway(session: Session, gateway_id: UUID) -> None:
    """Let writers of one gateway's limits take turns: two that replace them must not mix theirs."""
    found = select(Gateway.id).where(Gateway.id == gateway_id).with_for_update(key_share=True)
    if session.scalar(found) is None:
        raise UnknownGateway(gateway_id)


def effective(
    limits: Iterable[Limit], capability: Capability, max_price: UnitPrice | None = None
) -> Limit | None:
    """Return the limit for a capability: the most exact one, tightened by the request's own price.

    None means that the gateway has said nothing; a request's `max_price` alone is not consent,
    because a limit is the gateway owner's word, and a request only the caller's.

    Raises:
        CurrencyMismatch: The request's price is in another currency than the limit.
    """
    fitting = [limit for limit in limits if limit.applies_to(capability)]
    if not fitting:
        return None
    limit = max(fitting, key=lambda one: (one.pipeline is not None) + (one.model_id is not None))
    own = Limit(capability.pipeline, capability.model_id, max_price)
    if max_price is None or (limit.price is not None and own.allows(limit.price)):
        return limit
    return own
