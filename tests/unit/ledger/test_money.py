"""Pins the one rounding rule, the exactness of every sum, and that each refusal names its field."""

from __future__ import annotations

import itertools
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidAmount
from ledger.money import (
    CURRENCIES,
    EXACT,
    MAX_AMOUNT,
    MAX_UNITS,
    QUANTUM,
    UnitPrice,
    amount,
    charge,
    known_currency,
    plain,
    split_refund,
    unit_price,
)

PIXEL = "1.9073484e-08"
LARGEST = "99999999999999999999.999999999999999999"

quanta = st.integers(0, 10**38 - 1)
prices = st.builds(
    lambda quanta, pixels: UnitPrice(Decimal(quanta).scaleb(-18, EXACT), pixels, "USD"),
    st.integers(1, 10**30),
    st.integers(1, 10**18),
)
rates = st.integers(0, 10**6).map(lambda millionths: Decimal(millionths).scaleb(-6))
charged = st.integers(1, 10**38 - 1).map(lambda quanta: Decimal(quanta).scaleb(-18, EXACT))


@pytest.mark.parametrize(
    ("units", "price", "per", "expected"),
    [
        pytest.param(131072, PIXEL, 1, "0.002499999694848", id="two images of 256 x 256"),
        pytest.param(1048576, PIXEL, 1, "0.019999997558784", id="one image of 1024 x 1024"),
        pytest.param(1, PIXEL, 1, "0.000000019073484", id="one pixel"),
        pytest.param(0, PIXEL, 1, "0", id="nothing"),
        pytest.param(262144, "0.02", 1048576, "0.005", id="two cents a megapixel"),
        pytest.param(1, "0.000000000000000001", 1, "0.000000000000000001", id="one quantum"),
        pytest.param(3, "1", 3, "1", id="thirds that add up"),
        pytest.param(1, "1", 3, "0.333333333333333334", id="a third goes up"),
        pytest.param(2, "1", 3, "0.666666666666666667", id="two thirds go up"),
        pytest.param(1, "0.000000000000000001", 10**18, "0.000000000000000001", id="never to zero"),
        pytest.param(1, LARGEST, 1, LARGEST, id="the largest amount"),
    ],
)
def test_worked_sums(units: int, price: str, per: int, expected: str) -> None:
    assert charge(units, unit_price(price, per)) == Decimal(expected)


@given(units=st.integers(0, 10**8), price=prices)
def test_a_charge_is_the_least_amount_that_covers_the_product(units: int, price: UnitPrice) -> None:
    exact = price.fraction * units
    if exact > Fraction(MAX_AMOUNT):
        return
    total = Fraction(charge(units, price))
    assert exact <= total < exact + Fraction(QUANTUM)


@given(units=st.integers(0, 10**12), price=st.integers(1, 10**24))
def test_nothing_is_rounded_when_the_price_is_per_pixel(units: int, price: int) -> None:
    per_pixel = UnitPrice(Decimal(price).scaleb(-18, EXACT), 1, "USD")
    assert Fraction(charge(units, per_pixel)) == Fraction(per_pixel.price_per_unit) * units


@given(units=st.integers(0, 10**8), more=st.integers(0, 10**8), price=prices)
def test_a_part_never_costs_more_than_the_whole(units: int, more: int, price: UnitPrice) -> None:
    if price.fraction * (units + more) > Fraction(MAX_AMOUNT):
        return
    assert charge(units, price) <= charge(units + more, price)


@given(
    total=charged,
    rate=rates,
    cuts=st.lists(st.fractions(0, 1), max_size=6),
)
def test_refunds_in_any_parts_give_back_exactly_the_split(
    total: Decimal, rate: Decimal, cuts: list[Fraction]
) -> None:
    whole = int(Fraction(total) * 10**18)
    fee = Decimal(int(whole * Fraction(rate))).scaleb(-18, EXACT)
    payment = EXACT.subtract(total, fee)
    marks = sorted({int(cut * whole) for cut in cuts} | {0, whole})
    fees, payments = Decimal(0), Decimal(0)
    for before, after in itertools.pairwise(marks):
        part = Decimal(after - before).scaleb(-18, EXACT)
        refunded = Decimal(before).scaleb(-18, EXACT)
        fee_part, payment_part = split_refund(total, fee, refunded, part)
        assert fee_part >= 0
        assert payment_part >= 0
        assert EXACT.add(fee_part, payment_part) == part
        fees = EXACT.add(fees, fee_part)
        payments = EXACT.add(payments, payment_part)
    assert (fees, payments) == (fee, payment)


@pytest.mark.parametrize("sign", ["", "-", "+"])
@pytest.mark.parametrize("text", ["0", "0.02", PIXEL, LARGEST, "1.", ".5", " 7 ", "1E3", "0e-999"])
def test_amounts_are_read_exactly(sign: str, text: str) -> None:
    said = sign + text.strip()
    assert amount(said) == Decimal(said)
    assert amount(Decimal(said)) == Decimal(said)


@given(quanta)
def test_an_amount_survives_being_written_and_read(quanta: int) -> None:
    value = Decimal(quanta).scaleb(-18, EXACT)
    assert amount(plain(value)) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(0.02, "as a string", id="float"),
        pytest.param(True, "as a string", id="bool"),
        pytest.param(None, "as a string", id="none"),
        pytest.param([], "as a string", id="list"),
        pytest.param("", "is not a decimal number", id="empty"),
        pytest.param("ten", "is not a decimal number", id="word"),
        pytest.param("1_000", "is not a decimal number", id="underscore"),
        pytest.param("1,5", "is not a decimal number", id="comma"),
        pytest.param("\u0661", "is not a decimal number", id="digit of another script"),
        pytest.param("NaN", "is not a decimal number", id="NaN"),
        pytest.param("-Infinity", "is not a decimal number", id="infinity"),
        pytest.param("0x10", "is not a decimal number", id="hexadecimal"),
        pytest.param(Decimal("NaN"), "must be a finite number", id="decimal NaN"),
        pytest.param(Decimal("sNaN"), "must be a finite number", id="signalling NaN"),
        pytest.param(Decimal("Infinity"), "must be a finite number", id="decimal infinity"),
        pytest.param("0.0000000000000000001", "has more than 18 decimals", id="19 decimals"),
        pytest.param("1e-999999", "has more than 18 decimals", id="tiny"),
        pytest.param("100000000000000000000", "is out of range", id="21 digits"),
        pytest.param(-(10**20), "is out of range", id="21 digits below zero"),
        pytest.param("1e999999", "is out of range", id="huge"),
        pytest.param("1e" + "9" * 30, "is out of range", id="an exponent beyond Decimal"),
        pytest.param("9" * 500, "is out of range", id="500 digits"),
    ],
)
def test_what_is_no_exact_amount_is_refused_by_field(value: object, reason: str) -> None:
    with pytest.raises(InvalidAmount, match=reason) as refused:
        amount(value, field="max_price")
    assert refused.value.field == "max_price"
    assert str(refused.value).startswith("max_price: ")


def test_a_refusal_repeats_only_the_beginning_of_a_long_text() -> None:
    with pytest.raises(InvalidAmount) as refused:
        amount("x" * 1_000_000)
    assert len(str(refused.value)) < 100


@pytest.mark.parametrize(
    ("price", "pixels", "currency", "field"),
    [
        pytest.param("0", 1, "USD", "price_per_unit", id="zero"),
        pytest.param("-1", 1, "USD", "price_per_unit", id="below zero"),
        pytest.param("free", 1, "USD", "price_per_unit", id="word"),
        pytest.param(1.5, 1, "USD", "price_per_unit", id="float"),
        pytest.param("1e-19", 1, "USD", "price_per_unit", id="over-precise"),
        pytest.param("1", 0, "USD", "pixels_per_unit", id="no pixels"),
        pytest.param("1", -1, "USD", "pixels_per_unit", id="pixels below zero"),
        pytest.param("1", 10**18 + 1, "USD", "pixels_per_unit", id="too many pixels"),
        pytest.param("1", "1", "USD", "pixels_per_unit", id="pixels as text"),
        pytest.param("1", True, "USD", "pixels_per_unit", id="pixels as bool"),
        pytest.param("1", 1, "EUR", "currency", id="unknown currency"),
        pytest.param("1", 1, ["USD"], "currency", id="a list of currencies"),
        pytest.param("1", 1, None, "currency", id="no currency"),
    ],
)
def test_what_is_no_price_is_refused_by_field(
    price: object, pixels: object, currency: object, field: str
) -> None:
    with pytest.raises(InvalidAmount) as refused:
        unit_price(price, pixels, currency)
    assert refused.value.field == field


@pytest.mark.parametrize("units", [-1, MAX_UNITS + 1])
def test_units_out_of_range_are_refused_by_field(units: int) -> None:
    with pytest.raises(InvalidAmount) as refused:
        charge(units, unit_price(PIXEL))
    assert refused.value.field == "units"


def test_a_charge_out_of_range_is_refused_by_field() -> None:
    with pytest.raises(InvalidAmount) as refused:
        charge(MAX_UNITS, unit_price(LARGEST))
    assert refused.value.field == "amount"


@pytest.mark.parametrize("currency", CURRENCIES)
def test_known_currencies(currency: str) -> None:
    assert known_currency(currency) == currency


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("0E-18", "0"),
        ("-0.000", "0"),
        ("1.500000000000000000", "1.5"),
        ("100", "100"),
        ("1E+3", "1000"),
        ("1.9073484E-8", "0.000000019073484"),
        ("-2.50", "-2.5"),
        (LARGEST, LARGEST),
    ],
)
def test_plain_numbers(value: str, text: str) -> None:
    assert plain(Decimal(value)) == text


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (1, "0.000000019073484 USD per pixel"),
        (1000000, "0.000000019073484 USD per 1000000 pixels"),
    ],
)
def test_a_price_reads_as_a_person_says_it(pixels: int, text: str) -> None:
    assert str(unit_price(PIXEL, pixels)) == text


@pytest.mark.parametrize(
    ("wei", "pixels", "price", "per"),
    [
        ("4768371", 1, "0.000000000004768371", 1),
        ("0.5", 1, "0.000000000000000005", 10),
        ("4768371.25", 4, "0.000000000476837125", 400),
        ("1e18", 1, "1", 1),
        (12882811, 1, "0.000000000012882811", 1),
    ],
)
def test_wei_are_the_same_price_in_eth(wei: object, pixels: int, price: str, per: int) -> None:
    found = unit_price(wei, pixels, "wei")
    assert found == UnitPrice(Decimal(price), per, "ETH")
    assert found.fraction == Fraction(str(wei)) / pixels / 10**18
    assert found.as_stated.currency == "wei"
    assert str(found).split()[1] == "wei"


@pytest.mark.parametrize(
    ("wei", "pixels", "field"),
    [
        ("0", 1, "price_per_unit"),
        ("-1", 1, "price_per_unit"),
        ("NaN", 1, "price_per_unit"),
        ("1e-19", 1, "price_per_unit"),
        ("1e-999999999", 1, "price_per_unit"),
        ("1e999999999", 1, "price_per_unit"),
        ("1e39", 1, "price_per_unit"),
        ("0.1", 10**18, "price_per_unit"),
        (0.5, 1, "price_per_unit"),
        ("1", 0, "pixels_per_unit"),
    ],
)
def test_bad_prices_in_wei_name_their_field(wei: object, pixels: object, field: str) -> None:
    with pytest.raises(InvalidAmount) as refused:
        unit_price(wei, pixels, "wei")
    assert refused.value.field == field


def test_a_conversion_is_rounded_up_once() -> None:
    third = charge(1, UnitPrice(Decimal("0.000000000000000001"), 1, "ETH"), Fraction(1, 3))
    assert third == QUANTUM
    assert charge(3, UnitPrice(Decimal(1), 1, "ETH"), Fraction(1, 3)) == 1
