"""Pins which limit speaks for a capability, and that silence is never consent."""

from __future__ import annotations

import pytest

from ledger.errors import CurrencyMismatch
from ledger.limits import Limit, effective
from ledger.money import UnitPrice, unit_price
from ledger.offers import Capability

TURBO = Capability("text-to-image", "acme/turbo")
SLOW = Capability("text-to-image", "acme/slow")
EDIT = Capability("image-to-image", "acme/turbo")


def price(text: str) -> UnitPrice:
    return unit_price(text)


EXACT = Limit("text-to-image", "acme/turbo", price("3"))
PIPELINE = Limit("text-to-image", None, price("2"))
GATEWAY = Limit(None, None, price("1"))
ANY_PRICE = Limit(None, None, None)


@pytest.mark.parametrize(
    ("capability", "limits", "expected"),
    [
        pytest.param(TURBO, [GATEWAY, PIPELINE, EXACT], EXACT, id="the model's own"),
        pytest.param(SLOW, [GATEWAY, PIPELINE, EXACT], PIPELINE, id="the pipeline's"),
        pytest.param(EDIT, [GATEWAY, PIPELINE, EXACT], GATEWAY, id="the gateway's"),
        pytest.param(EDIT, [PIPELINE, EXACT], None, id="silence"),
        pytest.param(EDIT, [], None, id="no limits at all"),
        pytest.param(TURBO, [ANY_PRICE, PIPELINE], PIPELINE, id="exact wins over any price"),
    ],
)
def test_the_most_exact_limit_speaks(
    capability: Capability, limits: list[Limit], expected: Limit | None
) -> None:
    assert effective(limits, capability) == expected


def test_a_request_tightens_the_limit() -> None:
    limit = effective([PIPELINE], TURBO, price("1.5"))
    assert limit == Limit("text-to-image", "acme/turbo", price("1.5"))


@pytest.mark.parametrize("max_price", ["2", "2.5"])
def test_a_request_cannot_loosen_the_limit(max_price: str) -> None:
    assert effective([PIPELINE], TURBO, price(max_price)) == PIPELINE


def test_a_request_bounds_a_gateway_that_accepts_any_price() -> None:
    limit = effective([ANY_PRICE], TURBO, price("5"))
    assert limit == Limit("text-to-image", "acme/turbo", price("5"))


def test_a_request_alone_is_not_consent() -> None:
    assert effective([], TURBO, price("5")) is None


@pytest.mark.parametrize(
    ("asked", "allowed"), [("1.999999999999999999", True), ("2", True), ("2.1", False)]
)
def test_a_price_at_the_limit_is_within_it(asked: str, allowed: bool) -> None:
    assert PIPELINE.allows(price(asked)) is allowed


def test_prices_are_compared_per_pixel() -> None:
    limit = Limit(None, None, unit_price("1", 3))
    assert limit.allows(unit_price("2", 6))
    assert not limit.allows(unit_price("0.333333333333333334"))


def test_any_price_allows_any_price() -> None:
    assert ANY_PRICE.allows(price("99999999999999999999"))


def test_currencies_are_not_compared() -> None:
    with pytest.raises(CurrencyMismatch):
        PIPELINE.allows(unit_price("0.001", 1, "ETH"))
    with pytest.raises(CurrencyMismatch):
        effective([PIPELINE], TURBO, unit_price("0.001", 1, "ETH"))
