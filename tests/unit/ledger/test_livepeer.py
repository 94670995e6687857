"""Pins that Livepeer's own files load unchanged and exactly, and that what is wrong in one is told
by line and field."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest

from ledger.errors import InvalidAmount, InvalidFile
from ledger.limits import Limit
from ledger.livepeer import Defaults, read_ai_models, read_capabilities_prices
from ledger.money import unit_price
from ledger.offers import Capability
from tests.documented import DOCUMENTED_MODELS, DOCUMENTED_PRICES

RUN_HERE = ("text-to-image", "image-to-image")


def models(*entries: str, defaults: Defaults | None = None) -> list[tuple[Capability, str]]:
    text = f"[{','.join(entries)}]"
    found = read_ai_models(text, "aiModels.json", RUN_HERE, defaults or Defaults())
    return [(model.capability, str(model.price)) for model in found.models]


def entry(**more: object) -> str:
    known = {"pipeline": "text-to-image", "model_id": "acme/turbo", "price_per_unit": 7}
    return json.dumps({**known, **more}, indent=1)


def test_the_documented_models_load() -> None:
    found = read_ai_models(DOCUMENTED_MODELS, "aiModels.json", RUN_HERE)

    (model,) = found.models
    assert model.capability == Capability("text-to-image", "SG161222/RealVisXL_V4.0_Lightning")
    assert str(model.price) == "4768371 wei per pixel"
    assert model.price.fraction == Fraction(4768371, 10**18)  # of an ETH
    assert (model.warm, model.capacity, model.line) == (False, 1, 2)
    assert [(ignored.line, ignored.reason.partition(":")[0]) for ignored in found.ignored] == [
        (7, "pipeline"),
        (12, "optimization_flags"),
        (17, "pipeline"),
        (23, "url"),
        (24, "token"),
    ]
    assert found.ignored[0].reason == "pipeline: upscale is not run here"


def test_the_documented_limits_load() -> None:
    found = read_capabilities_prices(DOCUMENTED_PRICES, "prices.json")

    assert [(limit.pipeline, limit.model_id, str(limit.price)) for limit in found.limits] == [
        ("image-to-image", "ByteDance/SDXL-Lightning", "1700000 wei per pixel"),
        (
            "text-to-image",
            "stabilityai/stable-diffusion-3-medium-diffusers",
            "4768371 wei per pixel",
        ),
        ("upscale", None, "4768371 wei per pixel"),
        ("image-to-video", None, "3390842 wei per pixel"),
        ("audio-to-text", None, "12882811 wei per pixel"),
    ]
    assert found.ignored == ()


@pytest.mark.parametrize(
    ("stated", "price"),
    [
        ({"price_per_unit": 1000, "pixels_per_unit": 3}, "1000 wei per 3 pixels"),
        ({"price_per_unit": "0.5e-2USD"}, "0.005 USD per pixel"),
        ({"price_per_unit": "0.50USD"}, "0.5 USD per pixel"),
        ({"price_per_unit": "123wei"}, "123 wei per pixel"),
        ({"price_per_unit": "123"}, "123 wei per pixel"),
        ({"price_per_unit": "1eth"}, "1 ETH per pixel"),
        ({"price_per_unit": "1e-3 usd", "currency": "USD"}, "0.001 USD per pixel"),
        ({"price_per_unit": 5, "currency": "WEI"}, "5 wei per pixel"),
        (
            {"price_per_unit": 5, "currency": "", "gateway": "default", "warm": None},
            "5 wei per pixel",
        ),
    ],
)
def test_every_documented_form_of_a_price_is_read(stated: dict[str, object], price: str) -> None:
    assert models(entry(**stated)) == [(Capability("text-to-image", "acme/turbo"), price)]


def test_no_digit_is_lost_to_a_float() -> None:
    text = (
        '[{"pipeline": "text-to-image", "model_id": "m", "price_per_unit": %s, "currency": "USD"}]'
    )

    found = read_ai_models(text % "0.123456789012345678", "f", RUN_HERE)

    assert found.models[0].price.price_per_unit == Decimal("0.123456789012345678")


def test_what_is_said_of_warmth_and_capacity_is_kept() -> None:
    found = read_ai_models(f"[{entry(warm=True, capacity=4)}]", "f", RUN_HERE)

    assert (found.models[0].warm, found.models[0].capacity) == (True, 4)


def test_livepeers_defaults_stand_in_for_what_is_not_said() -> None:
    defaults = Defaults("0.02USD", 1000000)

    assert models(entry(price_per_unit=None, currency="ETH"), defaults=defaults) == [
        (Capability("text-to-image", "acme/turbo"), "0.02 USD per 1000000 pixels")
    ]
    assert models(entry(), defaults=defaults)[0][1] == "7 wei per 1000000 pixels"


@pytest.mark.parametrize(
    ("price", "pixels", "field"),
    [
        ("cheap", 1, "price_per_unit"),
        ("0USD", 1, "price_per_unit"),
        ("1EUR", 1, "currency"),
        ("1", 0, "pixels_per_unit"),
        (None, 0, "pixels_per_unit"),
    ],
)
def test_defaults_that_are_no_price_are_refused_by_field(
    price: str | None, pixels: int, field: str
) -> None:
    with pytest.raises(InvalidAmount) as refused:
        Defaults(price, pixels)
    assert refused.value.field == field


def test_a_price_for_one_gateway_only_is_not_an_offer_to_all() -> None:
    found = read_ai_models(f"[{entry()},{entry(gateway='0xAb', price_per_unit=1)}]", "f", RUN_HERE)

    assert [str(model.price) for model in found.models] == ["7 wei per pixel"]
    assert "not only 0xAb" in found.ignored[0].reason


@pytest.mark.parametrize("price", [None, 0, -1, "0USD", "0e5"])
def test_a_limit_without_a_price_falls_back(price: object) -> None:
    text = f'{{"capabilities_prices": [{entry(price_per_unit=price, model_id="default")}]}}'

    assert read_capabilities_prices(text, "f").limits == ()
    assert "no price above zero" in read_capabilities_prices(text, "f").ignored[0].reason
    assert read_capabilities_prices(text, "f", Defaults("9")).limits == (
        Limit("text-to-image", None, unit_price("9", 1, "wei")),
    )


def test_fields_that_nobody_knows_are_told() -> None:
    text = f'{{"version": 2, "capabilities_prices": [{entry(warm=True)}]}}'

    found = read_capabilities_prices(text, "f")

    assert [ignored.reason for ignored in found.ignored] == [
        "version: is unknown",
        "warm: is unknown",
    ]


@pytest.mark.parametrize(
    ("stated", "line", "reason"),
    [
        ({"price_per_unit": "cheap"}, 4, "price_per_unit: must be a number"),
        ({"price_per_unit": True}, 4, "price_per_unit: must be a number"),
        ({"price_per_unit": -1}, 4, "price_per_unit: must be greater than zero"),
        ({"price_per_unit": 0}, 4, "price_per_unit: must be greater than zero"),
        ({"price_per_unit": float("nan")}, 4, "price_per_unit: must be a number"),
        ({"price_per_unit": "1e99999999999999999999"}, 4, "price_per_unit: is out of range"),
        ({"price_per_unit": "1e-19USD"}, 4, "price_per_unit: has more than 18 decimals"),
        ({"price_per_unit": "1EUR"}, 1, "currency: must be one of USD, ETH, wei"),
        ({"price_per_unit": "1ETH", "currency": "USD"}, 5, "currency: USD here, but ETH"),
        ({"price_per_unit": None}, 1, "price_per_unit: is missing"),
        ({"currency": "EUR"}, 5, "currency: must be one of USD, ETH, wei"),
        ({"currency": 5}, 5, "currency: must be a text"),
        ({"pixels_per_unit": 0}, 5, "pixels_per_unit: must be a whole number"),
        ({"pixels_per_unit": 1.5}, 5, "pixels_per_unit: must be a whole number"),
        ({"pixels_per_unit": "1"}, 5, "pixels_per_unit: must be a whole number"),
        ({"pixels_per_unit": 10**30}, 5, "pixels_per_unit: must be a whole number"),
        ({"capacity": 0}, 5, "capacity: must be a whole number"),
        ({"warm": "yes"}, 5, "warm: must be true or false"),
        ({"pipeline": ""}, 2, "pipeline: must be 1 to 200"),
        ({"model_id": None}, 1, "model_id: must be 1 to 200"),
        ({"model_id": "\ud800"}, 3, "model_id: must be 1 to 200"),
    ],
)
def test_what_cannot_be_is_told_by_line_and_field(
    stated: dict[str, object], line: int, reason: str
) -> None:
    with pytest.raises(InvalidFile, match="Nothing was changed") as refused:
        models(entry(**stated))
    assert (refused.value.line, refused.value.file) == (line, "aiModels.json")
    assert refused.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[\n  {"pipeline": "a",\n   "model_id": }]', 3, "is not JSON: Expecting value"),
        ("", 1, "is not JSON"),
        ("{}", 1, "must be a list"),
        ("\n[\n7]", 3, "must be an object"),
        ('[{"warm": true,\n "warm": true}]', 2, "warm: is said twice"),
        ("[" * 100_000, 1, "is nested too deeply"),
        (f"[{entry()},\n{entry()}]", 6, "model_id: the same pipeline and model_id as on line 1"),
    ],
)
def test_a_file_that_is_none_is_told_by_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(InvalidFile) as refused:
        read_ai_models(text, "f", RUN_HERE)
    assert (refused.value.line, refused.value.reason[: len(reason)]) == (line, reason)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[]", 1, "must be an object"),
        ("\n{}", 2, "capabilities_prices: is missing"),
        ('{"capabilities_prices":\n 1}', 2, "capabilities_prices: must be a list"),
        (
            f'{{"capabilities_prices": [{entry(model_id="")}, {entry(model_id="default")}]}}',
            5,
            "model_id: the same",
        ),
    ],
)
def test_limits_that_are_none_are_told_by_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(InvalidFile) as refused:
        read_capabilities_prices(text, "f")
    assert (refused.value.line, refused.value.reason[: len(reason)]) == (line, reason)
