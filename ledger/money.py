"""Exact money, pure: amounts, unit prices, and the one rounding rule.

Every currency has 18 decimals. Amounts are `Decimal` values that fit `NUMERIC(38,18)`; prices are exact fractions.
Nothing here uses the default decimal context, which would round at 28 digits without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow
from fractions import Fraction

from ledger.errors import InvalidAmount

CURRENCIES = ("USD", "ETH")
DECIMALS = 18
QUANTUM = Decimal(1).scaleb(-DECIMALS)
MAX_AMOUNT = Decimal(10) ** 20 - QUANTUM  # what NUMERIC(38,18) holds

# Enough digits for every sum of amounts, and an error instead of a silent rounding.
EXACT = Context(prec=80, traps=[Inexact, InvalidOperation, Overflow])


@dataclass(frozen=True)
class UnitPrice:
    """An exact price per unit: `price_per_unit / pixels_per_unit` of a currency."""

    price_per_unit: Decimal
    pixels_per_unit: int
    currency: str

    @property
    def fraction(self) -> Fraction:
        """The price of one unit."""
        return Fraction(self.price_per_unit) / self.pixels_per_unit

    def __str__(self) -> str:
        """Return the price as a person reads it: `0.0000000190734840 USD per pixel`."""
        per = "pixel" if self.pixels_per_unit == 1 else f"{self.pixels_per_unit} pixels"
        return f"{plain(self.price_per_unit)} {self.currency} per {per}"


def unit_price(
    price_per_unit: object, pixels_per_unit: object = 1, currency: object = "USD"
) -> UnitPrice:
    """Build a price from what a caller sent.

    Raises:
        InvalidAmount: The price is not above zero, not exact to 18 decimals, the pixels are not a
            whole number from 1 to 10**18, or the currency is unknown.
    """
    price = amount(price_per_unit, field="price_per_unit")
    if price <= 0:
        raise InvalidAmount("price_per_unit", "must be greater than zero")
    if (
        isinstance(pixels_per_unit, bool)
        or not isinstance(pixels_per_unit, int)
        or not 1 <= pixels_per_unit <= 10**18
    ):
        raise InvalidAmount("pixels_per_unit", "must be a whole number from 1 to 10**18")
    if currency not in CURRENCIES:
        raise InvalidAmount("currency", f"must be one of {', '.join(CURRENCIES)}")
    return UnitPrice(price, pixels_per_unit, str(currency))


def amount(value: object, *, field: str = "amount") -> Decimal:
    """Read an exact amount from a decimal string, an integer or a Decimal; never from a float.

    Raises:
        InvalidAmount: It is no finite number, or does not fit 20 digits before and 18 after the point.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise InvalidAmount(field, 'must be a decimal number, as a string such as "0.02"')
    try:
        number = Decimal(value.strip() if isinstance(value, str) else value)
        if not number.is_finite():
            raise InvalidAmount(field, "must be a finite number")
        exact = EXACT.quantize(number, QUANTUM)
    except Inexact:
        raise InvalidAmount(field, f"has more than {DECIMALS} decimals") from None
    except InvalidOperation:
        raise InvalidAmount(field, _why_not_a_number(value)) from None
    except DecimalException:
        raise InvalidAmount(field, "is out of range") from None
    if abs(exact) > MAX_AMOUNT:
        raise InvalidAmount(field, "is out of range")
    return exact


def _why_not_a_number(value: str | int | Decimal) -> str:
    """Tell a number too large to quantize from text that is no number."""
    try:
        Decimal(value)
    except InvalidOperation:
        return f"{value!r} is not a decimal number"
    return "is out of range"


def charge(units: int, price: UnitPrice) -> Decimal:
    """Return what `units` cost: the exact product, rounded up to 18 decimals.

    This is the only rounding of money, and it happens only when `pixels_per_unit` does not divide.

    Raises:
        InvalidAmount: The units are negative, or the amount is out of range.
    """
    if units < 0:
        raise InvalidAmount("units", "must not be negative")
    quanta = price.fraction * units * 10**DECIMALS
    rounded_up = -(-quanta.numerator // quanta.denominator)
    total = EXACT.scaleb(Decimal(rounded_up), -DECIMALS)
    if total > MAX_AMOUNT:
        raise InvalidAmount("amount", "is out of range")
    return EXACT.quantize(total, QUANTUM)


def split_fee(total: Decimal, fee_rate: Decimal) -> tuple[Decimal, Decimal]:
    """Split an amount into (platform fee, orchestrator payment), which add up to it exactly.

    The fee is rounded down, so what a division leaves over goes to the orchestrator.
    """
    quanta = Fraction(total) * Fraction(fee_rate) * 10**DECIMALS
    fee = EXACT.quantize(EXACT.scaleb(Decimal(quanta.numerator // quanta.denominator), -DECIMALS), QUANTUM)
    return fee, EXACT.subtract(total, fee)


def plain(value: Decimal) -> str:
    """Write an amount as a plain decimal string: no exponent, no trailing zeros."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
