"""What a hold is for, and what of it can be checked without asking the database. Pure.

Whether the funds are there, and whether the reference is new, is for `ledger.authorizing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ledger import names
from ledger.errors import InvalidAmount, OverPriceLimit
from ledger.limits import Limit
from ledger.offers import Quote


@dataclass(frozen=True)
class Terms:
    """What a hold is for: whose funds, which job, what it may cost at most, and until when.

    The offer's price, the limit and the platform's share are fixed with it, whatever changes later.
    `api_key_id` is who spends, where a budget may be for one API key.
    """

    gateway_id: UUID
    reference: str
    quote: Quote
    limit: Limit
    expires_at: datetime
    api_key_id: str | None = None


def checked(terms: Terms) -> dict[str, object]:
    """Return the columns of a hold, as parameters of a statement, if there may be such a hold.

    Raises:
        InvalidName: The reference is empty, too long or has unprintable characters.
        InvalidAmount: The quote is for no units.
        OverPriceLimit: The quote's price is above the limit.
        NoRate, StaleRate: The limit cannot be compared with the price.
    """
    quote, limit, offer = terms.quote, terms.limit, terms.quote.offer
    if quote.units < 1:
        raise InvalidAmount("units", "must be at least 1")
    if limit.price is not None and not limit.allows(offer.price, quote.rates):
        raise OverPriceLimit(limit.price, offer.price, offer.orchestrator)
    return facts(terms)


def facts(terms: Terms) -> dict[str, object]:
    """Return the columns of a hold, whoever has checked them.

    Raises:
        InvalidName: The reference is empty, too long or has unprintable characters.
    """
    quote, limit, offer = terms.quote, terms.limit, terms.quote.offer
    return {
        "gateway_id": terms.gateway_id,
        "reference": names.checked("reference", terms.reference),
        "orchestrator_id": offer.orchestrator_id,
        "offer_id": offer.id,
        "pipeline": offer.capability.pipeline,
        "model_id": offer.capability.model_id,
        "units": quote.units,
        "price_per_unit": offer.price.price_per_unit,
        "pixels_per_unit": offer.price.pixels_per_unit,
        "limit_price_per_unit": limit.price and limit.price.price_per_unit,
        "limit_pixels_per_unit": limit.price and limit.price.pixels_per_unit,
        "currency": quote.currency,
        "amount": quote.amount,
        "expires_at": terms.expires_at,
        **_exchange(quote, limit),
        "api_key_id": terms.api_key_id,
    }


def _exchange(quote: Quote, limit: Limit) -> dict[str, object]:
    """Return what currencies other than the amount's a hold has, and the rate between them."""
    price_currency, limit_currency = (
        price.currency if price is not None and price.currency != quote.currency else None
        for price in (quote.offer.price, limit.price)
    )
    foreign = price_currency or limit_currency
    rate = quote.rates.of(foreign) if foreign else None
    return {
        "price_currency": price_currency,
        "limit_currency": limit_currency,
        "rate": rate and rate.numerator,
        "rate_divisor": rate and rate.divisor,
        "rate_id": rate and rate.id,
    }
