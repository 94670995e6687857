"""/v1/models and /v1/quotes: what can be ordered, what it would cost, who would run it."""

from __future__ import annotations

import base64
import io

from ledger import accounts, offers
from ledger.money import unit_price
from ledger.offers import Capability
from tests.integration.api.world import (
    FROM_IMAGE,
    GOOD,
    LANCZOS,
    MODEL,
    ORCHESTRATOR,
    PRICE,
    UPSCALER,
    World,
    png,
)


def test_models_show_prices_bounds_and_defaults(world: World) -> None:
    found = world.client().get("/v1/models").json["data"]

    assert [(one["pipeline"], one["model_id"]) for one in found] == [
        ("image-to-image", MODEL),
        ("text-to-image", MODEL),
    ]
    one = found[1]
    assert one["offers"] == [
        {
            "orchestrator": ORCHESTRATOR,
            "price_per_unit": PRICE,
            "pixels_per_unit": 1,
            "currency": "USD",
            "live": False,
            "warm": False,
        }
    ]
    assert one["bounds"]["size"] == {"minimum": 64, "maximum": 512}
    assert one["bounds"]["num_images_per_prompt"] == {"minimum": 1, "maximum": 16}
    assert one["defaults"]["num_inference_steps"] == 8


def test_a_worker_that_is_up_makes_its_model_live_and_then_warm(world: World) -> None:
    for warm in (False, True):
        world.wake(warm=warm)
        from_image, from_text = world.client().get("/v1/models").json["data"]
        assert (from_text["live"], from_text["warm"]) == (True, warm)
        assert from_text["state"] == ("warm" if warm else "on_demand")
        assert from_text["reason"] is None
        assert (from_image["live"], from_image["warm"]) == (False, False)
        assert from_image["state"] == "unavailable"
        assert "No worker" in from_image["reason"]


def _second_offer(world: World, price: str) -> None:
    with world.sessions.begin() as session:
        owner = accounts.create_orchestrator(session, "south", "USD")
        capability = Capability("text-to-image", MODEL)
        offers.publish(session, owner.id, capability, unit_price(price), "USD")


def test_offers_in_one_currency_stand_cheapest_first(world: World) -> None:
    _second_offer(world, "0.000000000000000001")
    one = world.client().get("/v1/models").json["data"][1]
    assert [offer["orchestrator"] for offer in one["offers"]] == ["south", ORCHESTRATOR]


def test_an_offer_for_a_model_that_the_catalog_lost_is_not_shown(world: World) -> None:
    with world.sessions.begin() as session:
        owner = accounts.find_orchestrator(session, ORCHESTRATOR)
        gone = Capability("text-to-image", "gone/model")
        offers.publish(session, owner.id, gone, unit_price("1"), "USD")
    assert len(world.client().get("/v1/models").json["data"]) == 2


def test_a_quote_is_what_the_job_would_cost_and_holds_nothing(world: World) -> None:
    before = world.traces()
    body = {**GOOD, "num_images_per_prompt": 2, "seed": 1}
    quote = world.client().post("/v1/quotes", json=body).json

    assert world.traces() == before
    assert quote["amount"] == "0.002499999694848"
    assert (quote["orchestrator"], quote["live"], quote["warm"]) == (ORCHESTRATOR, False, False)
    assert ORCHESTRATOR in quote["notice"]
    assert quote["limit"] == {"price_per_unit": PRICE, "pixels_per_unit": 1, "currency": "USD"}
    job = world.client().post("/v1/jobs", json=body).json
    for name in ("units", "price_per_unit", "pixels_per_unit", "amount", "currency", "parameters"):
        assert job[name] == quote[name]


def test_a_quote_of_a_picture_is_by_the_pictures_size(world: World) -> None:
    as_json = {**FROM_IMAGE, "image": base64.b64encode(png(128, 64)).decode()}
    quote = world.client().post("/v1/quotes", json=as_json).json
    assert quote["units"] == 128 * 64

    as_form = {**FROM_IMAGE, "image": (io.BytesIO(png(128, 64)), "a.png")}
    assert world.client().post("/v1/quotes", data=as_form).json["units"] == 128 * 64
    assert world.traces()["objects"] == []


def test_a_live_orchestrator_is_preferred_to_a_cheaper_one_that_sleeps(world: World) -> None:
    _second_offer(world, "0.000000000000000001")
    assert world.client().post("/v1/quotes", json=GOOD).json["orchestrator"] == "south"
    world.wake()
    quote = world.client().post("/v1/quotes", json=GOOD).json
    assert (quote["orchestrator"], quote["notice"]) == (ORCHESTRATOR, None)


def test_the_requests_own_price_only_tightens(world: World) -> None:
    quote = world.client().post("/v1/quotes", json={**GOOD, "max_price": "1"}).json
    assert quote["limit"]["price_per_unit"] == PRICE
    world.set_limit(None)
    assert world.client().post("/v1/quotes", json=GOOD).json["limit"] is None
    quote = world.client().post("/v1/quotes", json={**GOOD, "max_price": 1}).json
    assert quote["limit"]["price_per_unit"] == "1"


def test_a_larger_picture_is_priced_by_what_it_becomes(world: World) -> None:
    world.sell_upscaling()
    picture = base64.b64encode(png(64, 32)).decode()
    asked = {"pipeline": "upscale", "model_id": UPSCALER, "image": picture}
    whole = world.client().post("/v1/quotes", json=asked).json
    assert (whole["parameters"]["width"], whole["parameters"]["height"]) == (256, 128)
    assert whole["units"] == 256 * 128
    less = world.client().post("/v1/quotes", json={**asked, "width": 100, "height": 50}).json
    assert less["units"] == 100 * 50
    job = world.client().post("/v1/jobs", json={**asked, "model_id": "Lanczos",
                                                "width": 96, "height": 48})  # fmt: skip
    assert job.status_code == 202
    assert (job.json["model_id"], job.json["units"]) == (LANCZOS, 96 * 48)
    for wrong in ({"width": 300}, {"image": None}, {"model_id": MODEL}, {"loras": '{"a/b": 1}'}):
        refused = world.client().post("/v1/jobs", json={**asked, **wrong})
        assert (refused.status_code, refused.json["code"]) == (422, "invalid_params")
    listed = world.client().get("/v1/models").json["data"]
    assert {one["model_id"] for one in listed if one["pipeline"] == "upscale"} == {
        UPSCALER,
        LANCZOS,
    }
