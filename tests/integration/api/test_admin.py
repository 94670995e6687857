"""The admin routes: opening gateways and orchestrators, keys, funds, limits, offers."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.limits import Limit, replace_limits
from ledger.money import unit_price
from tests.integration.api.conformance import CheckedClient
from tests.integration.api.world import (
    ADMIN_KEY,
    EDITOR,
    GOOD,
    MODEL,
    ORCHESTRATOR,
    PRICE,
    World,
    problem,
)


@pytest.fixture
def admin(world: World) -> CheckedClient:
    return world.client(ADMIN_KEY)


def test_from_nothing_to_a_paid_job(world: World, admin: CheckedClient) -> None:
    made = admin.post("/v1/admin/gateways", json={"name": "fresh"})
    assert made.status_code == 201
    gateway = f"/v1/admin/gateways/{made.json['id']}"
    assert made.json["balance"] == {"available": "0", "held": "0", "currency": "USD"}
    key = admin.post(f"{gateway}/keys", json={"name": "laptop"}).json["key"]
    client = world.client(key)
    problem(client.post("/v1/jobs", json=GOOD), 402, "no_price_limit")
    limits = admin.put(f"{gateway}/limits", json={"data": [{"price_per_unit": None}]}).json
    assert limits.pop("warnings") == []
    assert admin.get(f"{gateway}/limits").json == client.get("/v1/limits").json == limits
    problem(client.post("/v1/jobs", json=GOOD), 402, "insufficient_funds")
    paid = admin.post(f"{gateway}/top-ups", json={"amount": "0.00125", "reference": "invoice 1"})
    assert paid.status_code == 201
    assert paid.json["balance"]["available"] == "0.00125"

    assert client.post("/v1/jobs", json=GOOD).status_code == 202
    assert client.get("/v1/balance").json["available"] == "0.000000000152576"


def test_an_orchestrator_sells_and_a_later_offer_supersedes(
    world: World, admin: CheckedClient
) -> None:
    made = admin.post("/v1/admin/orchestrators", json={"name": "south", "fee_rate": "0.05"})
    assert (made.status_code, made.json["fee_rate"], made.json["owed"]) == (201, "0.05", "0")
    offer = {"pipeline": "text-to-image", "model_id": MODEL, "price_per_unit": "1"}
    for price in ({"pixels_per_unit": 10**9}, {"pixels_per_unit": 10**8}):
        response = admin.post("/v1/admin/orchestrators/south/offers", json={**offer, **price})
        assert response.status_code == 201, response.text

    [live] = admin.get("/v1/admin/orchestrators/south/offers").json["data"]
    assert (live["price_per_unit"], live["pixels_per_unit"]) == ("1", 10**8)
    job = world.submit()
    assert (job["orchestrator"], job["pixels_per_unit"]) == ("south", 10**8)
    assert job["amount"] == "0.00065536"


def test_prices_are_read_exactly_as_numbers_and_as_text(world: World, admin: CheckedClient) -> None:
    for price in ("1.9073484e-08", '"0.000000019073484"'):
        body = f'{{"data": [{{"price_per_unit": {price}}}]}}'
        response = world.client().put("/v1/limits", data=body, content_type="application/json")
        assert response.json["data"][0]["price_per_unit"] == PRICE


def test_a_top_up_is_paid_once_for_each_reference(world: World, admin: CheckedClient) -> None:
    address, body = "/v1/admin/gateways/first/top-ups", {"amount": "5", "reference": "r"}
    for _ in range(2):
        assert admin.post(address, json=body).json["balance"]["available"] == "15"
    problem(admin.post(address, json={**body, "amount": "6"}), 409, "reference_reused")


def test_keys_are_listed_without_their_secrets(world: World, admin: CheckedClient) -> None:
    made = admin.post("/v1/admin/gateways/first/keys", json={"name": "laptop"}).json
    listed = admin.get("/v1/admin/gateways/first/keys").json["data"]

    assert listed[0] == {name: made[name] for name in listed[0]}
    assert made["key"].startswith(f"px_{made['id']}_")
    assert "key" not in listed[0]
    assert any(key["revoked_at"] for key in listed)
    other = admin.delete(f"/v1/admin/gateways/second/keys/{made['id']}")
    problem(other, 404, "unknown_key")


def test_lists_name_everybody(world: World, admin: CheckedClient) -> None:
    gateways = admin.get("/v1/admin/gateways").json["data"]
    assert [gateway["name"] for gateway in gateways] == ["first", "second", "third"]
    world.submit()
    world.succeed()
    [orchestrator] = admin.get("/v1/admin/orchestrators").json["data"]
    assert orchestrator["name"] == ORCHESTRATOR
    assert orchestrator["owed"] == "0.001124999862681600".rstrip("0")


WRONG: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("POST", "gateways", {"name": "first"}, 409, "name_taken"),
    ("POST", "gateways", {"name": "No Such Name"}, 422, "invalid_name"),
    ("POST", "gateways", {"name": "a\x00"}, 422, "invalid_name"),
    ("POST", "gateways", {"name": "x" * 64}, 422, "invalid_name"),
    ("POST", "gateways", {}, 422, "invalid_params"),
    ("POST", "gateways", {"name": "n", "balance": "1"}, 422, "invalid_params"),
    ("POST", "gateways/nobody/keys", {"name": "k"}, 404, "unknown_gateway"),
    ("POST", "gateways/%00/keys", {"name": "k"}, 404, "unknown_gateway"),
    ("POST", "gateways/first/keys", {"name": ""}, 422, "invalid_params"),
    ("POST", "gateways/first/keys", {"name": "a\x00b"}, 422, "invalid_params"),
    ("GET", "gateways/nobody/keys", {}, 404, "unknown_gateway"),
    ("DELETE", "gateways/first/keys/none", {}, 404, "unknown_key"),
    ("DELETE", "gateways/first/keys/%00", {}, 404, "unknown_key"),
    ("POST", "gateways/first/top-ups", {"amount": "0", "reference": "r"}, 422, "invalid_amount"),
    ("POST", "gateways/first/top-ups", {"amount": "-1", "reference": "r"}, 422, "invalid_amount"),
    ("POST", "gateways/first/top-ups", {"amount": "x", "reference": "r"}, 422, "invalid_params"),
    ("POST", "gateways/first/top-ups", {"amount": "1e30", "reference": "r"}, 422, "invalid_params"),
    ("POST", "gateways/first/top-ups", {"amount": True, "reference": "r"}, 422, "invalid_params"),
    ("POST", "gateways/first/top-ups", {"amount": 1, "reference": ""}, 422, "invalid_params"),
    ("POST", "gateways/first/top-ups", {"amount": 1, "reference": "a\u200b"}, 422, "invalid_name"),
    ("POST", "gateways/nobody/top-ups", {"amount": 1, "reference": "r"}, 404, "unknown_gateway"),
    ("GET", "gateways/nobody/limits", {}, 404, "unknown_gateway"),
    ("PUT", "gateways/nobody/limits", {"data": []}, 404, "unknown_gateway"),
    ("POST", "orchestrators", {"name": ORCHESTRATOR}, 409, "name_taken"),
    ("POST", "orchestrators", {"name": "o", "fee_rate": "1.1"}, 422, "invalid_amount"),
    ("POST", "orchestrators", {"name": "o", "fee_rate": "0.0000001"}, 422, "invalid_amount"),
    ("GET", "orchestrators/nobody/offers", {}, 404, "unknown_orchestrator"),
]
OFFER = {"pipeline": "text-to-image", "model_id": MODEL, "price_per_unit": "1"}
WRONG += [
    ("POST", f"orchestrators/{owner}/offers", {**OFFER, **changes}, status, code)
    for owner, changes, status, code in (
        ("nobody", {}, 404, "unknown_orchestrator"),
        (ORCHESTRATOR, {"model_id": "no/such"}, 404, "unknown_model"),
        (ORCHESTRATOR, {"pipeline": "image-to-video"}, 422, "invalid_params"),
        (ORCHESTRATOR, {"model_id": EDITOR}, 422, "invalid_params"),
        (ORCHESTRATOR, {"price_per_unit": "0"}, 422, "invalid_amount"),
        (ORCHESTRATOR, {"pixels_per_unit": 0}, 422, "invalid_amount"),
        (ORCHESTRATOR, {"pixels_per_unit": "1"}, 422, "invalid_params"),
        (ORCHESTRATOR, {"currency": "dollars"}, 422, "invalid_amount"),
    )
]


def test_wrong_requests_are_refused(
    world: World, admin: CheckedClient, subtests: pytest.Subtests
) -> None:
    before = world.traces()
    for method, path, body, status, code in WRONG:
        with subtests.test(f"{method} {path} {body}"):
            response = admin.open(f"/v1/admin/{path}", method=method, json=body)
            problem(response, status, code)
    assert world.traces() == before


# --- a gateway's own limits -------------------------------------------------------------------


def test_the_most_exact_limit_holds(world: World) -> None:
    low, enough = "0.000000000000000001", "0.1"
    limits = [
        {"price_per_unit": low},
        {"pipeline": "text-to-image", "price_per_unit": low},
        {"pipeline": "text-to-image", "model_id": MODEL, "price_per_unit": enough},
    ]
    answer = world.client().put("/v1/limits", json={"data": limits})

    assert [item["model_id"] for item in answer.json["data"]] == [MODEL, None, None]
    assert world.client().post("/v1/quotes", json=GOOD).json["limit"]["price_per_unit"] == enough


def test_what_is_shown_can_be_sent_back(world: World) -> None:
    client = world.client()
    limits = [{"pipeline": "text-to-image", "price_per_unit": None}, {"price_per_unit": "0.5"}]
    answered = client.put("/v1/limits", json={"data": limits}).json
    shown = client.get("/v1/limits").json

    for body in (answered, shown):
        assert client.put("/v1/limits", json=body).json == {**shown, "warnings": []}


@pytest.mark.parametrize(
    ("item", "field", "code"),
    [
        ({}, "data.0.price_per_unit", "invalid_params"),
        ({"price_per_unit": "-1"}, "data.0.price_per_unit", "invalid_amount"),
        ({"price_per_unit": 1, "pixels_per_unit": 0}, "data.0.pixels_per_unit", "invalid_amount"),
        ({"price_per_unit": 1, "currency": "EUR"}, "data.0.currency", "invalid_amount"),
        ({"price_per_unit": 1, "pipeline": "a\x00"}, "data.0.pipeline", "invalid_params"),
        ({"price_per_unit": 1, "pipeline": "\u200b"}, "data.0.pipeline", "invalid_name"),
        ({"price_per_unit": 1, "model_id": "a\x00"}, "data.0.model_id", "invalid_params"),
        ({"price_per_unit": 1, "max": 2}, "data.0.max", "invalid_params"),
        ({"price_per_unit": 1, "model_id": MODEL}, "data.0.pipeline", "invalid_params"),
    ],
)
def test_a_wrong_limit_changes_nothing(
    world: World, item: dict[str, Any], field: str, code: str
) -> None:
    before = world.client().get("/v1/limits").json
    response = world.client().put("/v1/limits", json={"data": [item]})

    assert problem(response, 422, code)["errors"][0]["field"] == field
    assert world.client().get("/v1/limits").json == before


def test_limits_that_a_file_of_livepeers_set_can_be_sent_back(world: World) -> None:
    """They may be for pipelines that are not run here: they wait for an offer."""
    known = [Limit(name, None, unit_price("5", 1, "wei")) for name in ("image-to-video", "upscale")]
    with world.sessions.begin() as session:
        replace_limits(session, world.gateway_id, known, "USD")
    client = world.client()
    shown = client.get("/v1/limits").json

    answer = client.put("/v1/limits", json=shown).json

    assert answer["data"] == shown["data"]
    assert [one["pipeline"] for one in answer["warnings"]] == ["image-to-video", "upscale"]
    assert "Nobody offers image-to-video" in answer["warnings"][0]["message"]


def test_two_limits_for_one_scope_are_refused(world: World) -> None:
    limits = [{"price_per_unit": 1}, {"price_per_unit": 2}]
    response = world.client().put("/v1/limits", json={"data": limits})
    assert problem(response, 422, "invalid_params")["errors"][0]["field"] == "data.1"
