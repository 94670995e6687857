"""Exact money, pure: amounts, unit prices, and the one rounding rule.

Every currency has 18 decimals. Amounts are `Decimal` values that fit `NUMERIC(38,18)`; prices are
exact fractions. Nothing here uses the default decimal context, which would round at 28 digits
without a word: not even for a minus sign.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from fractions import Fraction

from ledger.errors import InvalidAmount

CURRENCIES = ("USD", "ETH")  # what books are kept in
PRICE_CURRENCIES = (*CURRENCIES, "wei")  # what prices are stated in: a wei is 10**-18 ETH
DECIMALS = 18
MAX_UNITS = 2**63 - 1  # what BIGINT holds

# Enough digits for every sum of amounts, and an error instead of a silent rounding.
EXACT = Context(prec=80, traps=[Inexact, InvalidOperation, Overflow])

_ONE = Fraction(1)
QUANTUM = Decimal(1).scaleb(-DECIMALS)
_MAX_QUANTA = 10**38 - 1
_MAX_PIXELS = 10**18
_MAX_EXPONENT = 40  # beyond it, no price fits
MAX_AMOUNT = Decimal(_MAX_QUANTA).scaleb(-DECIMALS, EXACT)  # what NUMERIC(38,18) holds

# Decimal reads more than a person means: "1_000", "NaN", and the digits of every script.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SHOWN = 40  # characters of a bad number that an error repeats


@dataclass(frozen=True)
class StatedPrice:
    """A price in the words of whoever stated it."""

    price_per_unit: Decimal
    pixels_per_unit: int
    currency: str

    def __str__(self) -> str:
        """Return the price as a person reads it: `0.000000019073484 USD per pixel`."""
        per = "pixel" if self.pixels_per_unit == 1 else f"{self.pixels_per_unit} pixels"
        return f"{plain(self.price_per_unit)} {self.currency} per {per}"


@dataclass(frozen=True)
class UnitPrice:
    """An exact price per unit: `price_per_unit / pixels_per_unit` of a currency.

    `stated` are the operator's own words where they were others. They are not part of its value.
    """

    price_per_unit: Decimal
    pixels_per_unit: int
    currency: str
    stated: StatedPrice | None = field(default=None, compare=False)

    @functools.cached_property
    def fraction(self) -> Fraction:
        """The price of one unit."""
        return Fraction(self.price_per_unit) / self.pixels_per_unit

    @property
    def as_stated(self) -> StatedPrice:
        """The price as it was offered."""
        return self.stated or StatedPrice(self.price_per_unit, self.pixels_per_unit, self.currency)

    def __str__(self) -> str:
        """Return the price as it was offered, for a person to read."""
        return str(self.as_stated)


def unit_price(
    price_per_unit: object, pixels_per_unit: object = 1, currency: object = "USD"
) -> UnitPrice:
    """Build a price from what a caller sent. A price in wei becomes the same one in ETH.

    Raises:
        InvalidAmount: The price is not above zero or not exact to 18 decimals, the pixels are not a
            whole number from 1 to 10**18, or the currency is unknown.
    """
    pixels = _pixels(pixels_per_unit)
    if currency == "wei":
        return _from_wei(price_per_unit, pixels)
    price = amount(price_per_unit, field="price_per_unit")
    if price <= 0:
        raise InvalidAmount("price_per_unit", "must be greater than zero")
    if currency not in CURRENCIES:
        raise InvalidAmount("currency", f"must be one of {', '.join(PRICE_CURRENCIES)}")
    return UnitPrice(price, pixels, str(currency))


def _pixels(pixels_per_unit: object) -> int:
    if (
        isinstance(pixels_per_unit, bool)
        or not isinstance(pixels_per_unit, int)
        or not 1 <= pixels_per_unit <= _MAX_PIXELS
    ):
        raise InvalidAmount("pixels_per_unit", "must be a whole number from 1 to 10**18")
    return pixels_per_unit


def _from_wei(price_per_unit: object, pixels: int) -> UnitPrice:
    """Return a price in ETH for one in wei, for more pixels where 18 decimals do not hold it.

    Raises:
        InvalidAmount: The price is not above zero, or is out of range.
    """
    field_name = "price_per_unit"
    try:
        wei = _number(price_per_unit, field_name)
    except InvalidOperation:
        raise InvalidAmount(field_name, "is out of range") from None
    if wei <= 0:
        raise InvalidAmount(field_name, "must be greater than zero")
    if not -_MAX_EXPONENT <= wei.adjusted() <= _MAX_EXPONENT:
        raise InvalidAmount(field_name, "is out of range")
    scale = Fraction(wei).denominator
    scale = 10 ** next(power for power in range(_MAX_EXPONENT**2) if not 10**power % scale)
    quanta = int(Fraction(wei) * scale)
    if quanta > _MAX_QUANTA or pixels * scale > _MAX_PIXELS:
        raise InvalidAmount(field_name, "has too many digits for its pixels_per_unit")
    stated = StatedPrice(wei, pixels, "wei")
    return UnitPrice(_from_quanta(quanta), pixels * scale, "ETH", stated)


def known_currency(value: object) -> str:
    """Return a currency that books can be kept in.

    Raises:
        InvalidAmount: It is none of them.
    """
    if value not in CURRENCIES:
        raise InvalidAmount("currency", f"must be one of {', '.join(CURRENCIES)}")
    return str(value)


def amount(value: object, *, field: str = "amount") -> Decimal:
    """Read an exact amount from a decimal string, an integer or a Decimal; never from a float.

    Raises:
        InvalidAmount: It is no finite number, or does not fit 20 digits before and 18 after the
            point.
    """
    try:
        exact = EXACT.quantize(_number(value, field), QUANTUM)
    except Inexact:
        raise InvalidAmount(field, f"has more than {DECIMALS} decimals") from None
    except InvalidOperation:
        raise InvalidAmount(field, "is out of range") from None
    if exact.copy_abs() > MAX_AMOUNT:
        raise InvalidAmount(field, "is out of range")
    return exact


def _number(value: object, field: str) -> Decimal:
    """Return the number that a value is or says, whatever its size.

    Raises:
        InvalidAmount: It is no finite decimal number.
        decimal.InvalidOperation: Its exponent is beyond all bounds.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise InvalidAmount(field, 'must be a decimal number, as a string such as "0.02"')
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        raise InvalidAmount(field, f"{value[:_SHOWN]!r} is not a decimal number")
    number = Decimal(value)
    if not number.is_finite():
        raise InvalidAmount(field, "must be a finite number")
    return number


def charge(units: int, price: UnitPrice, rate: Fraction = _ONE) -> Decimal:
    """Return what `units` cost at a rate of exchange: the exact product, rounded up to 18 decimals.

    This is the only rounding of money, and it happens only when `pixels_per_unit`, or the rate,
    does not divide.

    Raises:
        InvalidAmount: The units are negative, or units or amount are out of range.
    """
    if not 0 <= units <= MAX_UNITS:
        raise InvalidAmount("units", f"must be a whole number from 0 to {MAX_UNITS}")
    quanta = price.fraction * rate * units * 10**DECIMALS
    rounded_up = -(-quanta.numerator // quanta.denominator)
    if rounded_up > _MAX_QUANTA:
        raise InvalidAmount("amount", "is out of range")
    return _from_quanta(rounded_up)


def split_refund(
    total: Decimal, fee: Decimal, refunded: Decimal, part: Decimal
) -> tuple[Decimal, Decimal]:
    """Split a part of a charge as the charge was split: (platform fee, orchestrator payment).

    The fee is the one on all that is `refunded` with this part, less the one on what was before.
    So refunds in any parts that add up to the total give back exactly the fee that was taken.
    """
    before = Fraction(refunded)
    share = Fraction(fee) / Fraction(total)
    fee_part = EXACT.subtract(
        _rounded_down(share * (before + Fraction(part))), _rounded_down(share * before)
    )
    return fee_part, EXACT.subtract(part, fee_part)


def _rounded_down(value: Fraction) -> Decimal:
    quanta = value * 10**DECIMALS
    return _from_quanta(quanta.numerator // quanta.denominator)


def _from_quanta(quanta: int) -> Decimal:
    return Decimal(quanta).scaleb(-DECIMALS, EXACT)


def plain(value: Decimal) -> str:
    """Write an amount as a plain decimal string: no exponent, no trailing zeros."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
