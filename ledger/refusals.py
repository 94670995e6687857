"""What was refused and why, so that finance sees what was not sold.

A refusal undoes the transaction that it ends, so the caller records it in one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from uuid import UUID

from sqlalchemy.orm import Session

from ledger.errors import InsufficientFunds, NoPriceLimit, OverBudget, OverPriceLimit, Refused
from ledger.money import UnitPrice
from ledger.offers import Capability
from ledger.tables import Refusal

_MAX_MESSAGE = 1000

REASONS: Mapping[type[Refused], str] = {
    NoPriceLimit: "no_limit",
    OverPriceLimit: "price",
    OverBudget: "budget",
    InsufficientFunds: "funds",
}


def record(
    session: Session,
    gateway_id: UUID,
    capability: Capability,
    units: int,
    error: Refused,
    api_key_id: str | None = None,
) -> None:
    """Record that a job was refused, in a transaction after the one that the refusal ended."""
    best, limit = _prices(error)
    needed, available, currency = _amounts(error)
    session.add(
        Refusal(
            gateway_id=gateway_id,
            api_key_id=api_key_id,
            reason=REASONS[type(error)],
            pipeline=capability.pipeline,
            model_id=capability.model_id,
            units=units,
            needed=needed,
            available=available,
            currency=currency,
            price_per_unit=best and best.price_per_unit,
            pixels_per_unit=best and best.pixels_per_unit,
            price_currency=best and best.currency,
            limit_price_per_unit=limit and limit.price_per_unit,
            limit_pixels_per_unit=limit and limit.pixels_per_unit,
            limit_currency=limit and limit.currency,
            message=str(error)[:_MAX_MESSAGE],
        )
    )
    session.flush()


def _prices(error: Refused) -> tuple[UnitPrice | None, UnitPrice | None]:
    """Return the best price there was, and the limit that stood against it."""
    if isinstance(error, OverPriceLimit):
        return error.best, error.limit
    return (error.best if isinstance(error, NoPriceLimit) else None), None


def _amounts(error: Refused) -> tuple[Decimal | None, Decimal | None, str | None]:
    """Return what was needed, what was there, and in which currency."""
    if isinstance(error, InsufficientFunds):
        return error.needed, error.available, error.currency
    if isinstance(error, OverBudget):
        return error.needed, error.remaining, error.currency
    return None, None, None
