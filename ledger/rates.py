"""Exchange rates: rows with a source and a time, and what they make of a price.

A rate that is missing, or older than its reader allows, is an error and never a guess. Rates are
written once; a newer one goes before an older one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from sqlalchemy import Interval, func, select, text, type_coerce
from sqlalchemy.orm import Session

from ledger import names
from ledger.errors import InvalidAmount, NoRate, RateError, StaleRate
from ledger.money import UnitPrice, known_currency
from ledger.money import amount as exact_amount
from ledger.tables import ExchangeRate

_CLOCKS_DIFFER = timedelta(minutes=1)
_ONE = Decimal(1)

# The newest in either direction, with the age that the database's clock gives it.
_NEWEST = text("""
SELECT DISTINCT ON (currency) currency, id, numerator, divisor, source, observed_at,
       now() - observed_at AS age
  FROM (
    SELECT base_currency AS currency, id, rate AS numerator, 1 AS divisor, source, observed_at
      FROM (SELECT DISTINCT ON (base_currency) * FROM exchange_rates
             WHERE quote_currency = :settlement
             ORDER BY base_currency, observed_at DESC, id DESC) AS direct
     UNION ALL
    SELECT quote_currency, id, 1, rate, source, observed_at
      FROM (SELECT DISTINCT ON (quote_currency) * FROM exchange_rates
             WHERE base_currency = :settlement
             ORDER BY quote_currency, observed_at DESC, id DESC) AS inverse
  ) AS newest
 ORDER BY currency, observed_at DESC, id DESC
""")


@dataclass(frozen=True)
class Rate:
    """What one `currency` is worth in `settlement`: exactly `numerator / divisor`.

    The rate of a currency to itself has no id: it is nobody's word.
    """

    currency: str
    settlement: str
    numerator: Decimal = _ONE
    divisor: Decimal = _ONE
    id: int | None = None
    source: str = ""
    observed_at: datetime | None = None
    age: timedelta = timedelta(0)

    @property
    def fraction(self) -> Fraction:
        """The exact rate."""
        return Fraction(self.numerator) / Fraction(self.divisor)


@dataclass(frozen=True)
class Rates:
    """The newest rates to a settlement currency, and how old they may be. Pure."""

    settlement: str
    known: Mapping[str, Rate] = field(default_factory=dict)
    max_age: timedelta = timedelta.max

    def of(self, currency: str) -> Rate:
        """Return the rate of a currency.

        Raises:
            NoRate: There is none.
            StaleRate: The newest is older than allowed.
        """
        if currency == self.settlement:
            return Rate(currency, currency)
        rate = self.known.get(currency)
        if rate is None:
            raise NoRate(currency, self.settlement)
        if rate.age > self.max_age:
            raise StaleRate(currency, self.settlement, rate.age, self.max_age)
        return rate

    def can_settle(self, price: UnitPrice) -> bool:
        """Tell whether a price can be converted."""
        try:
            self.of(price.currency)
        except RateError:
            return False
        return True

    def settled(self, price: UnitPrice) -> Fraction:
        """Return what a price per unit is in the settlement currency, exactly.

        Raises:
            NoRate, StaleRate: As `of`.
        """
        if price.currency == self.settlement:
            return price.fraction
        return price.fraction * self.of(price.currency).fraction


def set_rate(
    session: Session,
    base_currency: object,
    quote_currency: object,
    rate: object,
    source: str,
    observed_at: datetime | None = None,
) -> ExchangeRate:
    """Record that one of the base currency is worth `rate` of the quote currency, as seen now.

    Raises:
        InvalidAmount: A currency is unknown, or both are the same; the rate is not above zero, or
            not exact to 18 decimals; or it was observed in the future.
        InvalidName: The source is empty, too long or has unprintable characters.
    """
    base, quote, exact = checked(base_currency, quote_currency, rate, source)
    now = session.scalars(select(func.now())).one()
    seen = now if observed_at is None else observed_at
    if seen > now + _CLOCKS_DIFFER:
        raise InvalidAmount("observed_at", "must not be in the future")
    row = ExchangeRate(
        base_currency=base, quote_currency=quote, rate=exact, source=source, observed_at=seen
    )
    session.add(row)
    session.flush()
    return row


def checked(
    base_currency: object, quote_currency: object, rate: object, source: str
) -> tuple[str, str, Decimal]:
    """Return the currencies of a rate and the rate, if it can be recorded.

    Raises:
        InvalidAmount, InvalidName: As `set_rate`, but for when it was observed.
    """
    base = _currency(base_currency, "base_currency")
    quote = _currency(quote_currency, "quote_currency")
    if base == quote:
        raise InvalidAmount("quote_currency", "must be another currency than the base_currency")
    exact = exact_amount(rate, field="rate")
    if exact <= 0:
        raise InvalidAmount("rate", "must be greater than zero")
    names.checked("source", source)
    return base, quote, exact


def _currency(value: object, field_name: str) -> str:
    try:
        return known_currency(value)
    except InvalidAmount as error:
        raise InvalidAmount(field_name, error.reason) from None


def history(
    session: Session, *, before: int | None = None, limit: int = 100
) -> list[tuple[ExchangeRate, timedelta]]:
    """Return the rates that were recorded last, with the age that the database's clock gives them.

    `before` is the id of the one to go on from.
    """
    age = type_coerce(func.now() - ExchangeRate.observed_at, Interval())
    newest = select(ExchangeRate, age)
    if before is not None:
        newest = newest.where(ExchangeRate.id < before)
    rows = session.execute(newest.order_by(ExchangeRate.id.desc()).limit(limit))
    return [(row, old) for row, old in rows]


def load(session: Session, settlement: str, max_age: timedelta) -> Rates:
    """Return the newest rates to the settlement currency."""
    rows = session.execute(_NEWEST, {"settlement": settlement})
    known = {
        row.currency: Rate(
            row.currency,
            settlement,
            Decimal(row.numerator),
            Decimal(row.divisor),
            row.id,
            row.source,
            row.observed_at,
            row.age,
        )
        for row in rows
    }
    return Rates(settlement, known, max_age)


def current(session: Session, currency: str, settlement: str, max_age: timedelta) -> Rate:
    """Return what one `currency` is worth in the settlement currency.

    Raises:
        NoRate: Nobody has said.
        StaleRate: What was said last is older than `max_age`.
    """
    return load(session, settlement, max_age).of(currency)
