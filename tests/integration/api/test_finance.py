"""The admin's routes of money: rates, budgets, payouts, refunds, refusals, warnings, offers, keys.

All tests share a database, so each has its own parties where it counts.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest

from api import auth
from ledger import accounts, limits
from ledger.limits import Limit
from tests.integration.api.conformance import Answer, CheckedClient
from tests.integration.api.world import ADMIN_KEY, GOOD, MODEL, ORCHESTRATOR, World, problem

_numbers = itertools.count(1)
COST = Decimal("0.001249999847424")  # of GOOD, by hand: 256 * 256 pixels at the world's price
EARNED = "0.0011249998626816"  # nine tenths of it
ADMIN = "/v1/admin"


@pytest.fixture
def world(shared_world: World) -> World:
    return shared_world


@pytest.fixture
def admin(world: World) -> CheckedClient:
    return world.client(ADMIN_KEY)


@pytest.fixture
def gateway(world: World) -> tuple[str, CheckedClient]:
    """A gateway that pays any price: its name, and a client with its key."""
    name = f"studio-{next(_numbers)}"
    with world.sessions.begin() as session:
        row = accounts.create_gateway(session, name, "USD")
        accounts.top_up(session, row.id, Decimal(1), f"for {name}")
        limits.replace_limits(session, row.id, [Limit(None, None, None)], "USD")
        _, key = auth.create_key(session, row.id, "k")
    return name, world.client(key)


def run(world: World, client: CheckedClient) -> str:
    """Submit a job, and run it to its end; returns its id."""
    answer = client.post("/v1/jobs", json=GOOD)
    assert answer.status_code == 202, answer.text
    assert str(world.succeed().id) == answer.json["id"]
    return str(answer.json["id"])


def listed(client: CheckedClient, address: str, **query: object) -> list[Any]:
    """Return all of a list, which is read in pages of two."""
    found: list[Any] = []
    cursor = None
    while True:
        asked = {**query, "limit": 2, **({"cursor": cursor} if cursor else {})}
        answer: Answer = client.get(address, query_string=asked)
        assert answer.status_code == 200, answer.text
        found += answer.json["data"]
        cursor = answer.json["next_cursor"]
        if cursor is None:
            return found


# --- rates ------------------------------------------------------------------------------------


def test_rates_say_how_old_they_are_and_which_one_holds(admin: CheckedClient) -> None:
    now = datetime.now(UTC)
    body = {"base_currency": "ETH", "quote_currency": "USD", "source": "a test"}
    for rate, hours in (("3999", 50), ("4000.000000000000000001", 1), ("3998", 2)):
        seen = (now - timedelta(hours=hours)).isoformat()
        answer = admin.post(f"{ADMIN}/rates", json={**body, "rate": rate, "observed_at": seen})
        assert answer.status_code == 201, answer.text
        assert answer.json["newest"] == (rate != "3998")

    found = listed(admin, f"{ADMIN}/rates")
    assert [(one["rate"], one["too_old"], one["newest"]) for one in found] == [
        ("3998", False, False),
        ("4000.000000000000000001", False, True),
        ("3999", True, False),
    ]
    assert 3600 <= found[1]["age_s"] < 7200


# --- budgets ----------------------------------------------------------------------------------


def test_a_budget_of_a_gateway_and_one_of_its_key(
    world: World, admin: CheckedClient, gateway: tuple[str, CheckedClient]
) -> None:
    name, client = gateway
    address = f"{ADMIN}/gateways/{name}"
    [key] = admin.get(f"{address}/keys").json["data"]
    run(world, client)
    admin.put(f"{address}/budgets/month", json={"amount": "1"})
    shown = admin.put(f"{address}/keys/{key['id']}/budgets/day", json={"amount": "0.002"})

    assert [(one["period"], one["api_key_id"]) for one in shown.json["data"]] == [
        ("month", None),
        ("day", key["id"]),
    ]
    assert [one["used"] for one in shown.json["data"]] == [str(COST), str(COST)]
    assert shown.json["data"][1]["remaining"] == "0.000750000152576"
    assert admin.get(f"{address}/budgets").json == client.get("/v1/budgets").json == shown.json

    over = problem(client.post("/v1/jobs", json=GOOD), 402, "over_budget")
    facts = {name: over[name] for name in ("period", "api_key_id", "budget", "used", "needed")}
    assert facts == {
        "period": "day",
        "api_key_id": key["id"],
        "budget": "0.002",
        "used": str(COST),
        "needed": str(COST),
    }
    for _ in range(2):
        left = admin.delete(f"{address}/keys/{key['id']}/budgets/day")
        assert [one["period"] for one in left.json["data"]] == ["month"]
    assert client.post("/v1/jobs", json=GOOD).status_code == 202
    world.claim()
    assert admin.delete(f"{address}/budgets/month").json["data"] == []


def test_a_key_of_another_gateway_gets_no_budget(
    world: World, admin: CheckedClient, gateway: tuple[str, CheckedClient]
) -> None:
    other = world.key.split("_")[1]
    for key_id in (other, "nobody", "%00"):
        address = f"{ADMIN}/gateways/{gateway[0]}/keys/{key_id}/budgets/day"
        problem(admin.put(address, json={"amount": "1"}), 404, "unknown_key")
        problem(admin.delete(address), 404, "unknown_key")
    assert admin.get(f"{ADMIN}/gateways/{gateway[0]}/budgets").json["data"] == []


# --- payouts and refunds ----------------------------------------------------------------------


def test_what_is_owed_is_paid_out_once(
    world: World, admin: CheckedClient, gateway: tuple[str, CheckedClient]
) -> None:
    run(world, gateway[1])
    [owed] = admin.get(f"{ADMIN}/owed", query_string={"currency": "USD"}).json["data"]
    assert owed["orchestrator"] == ORCHESTRATOR
    body = {"reference": "2026/11", "orchestrators": [ORCHESTRATOR]}
    made = admin.post(f"{ADMIN}/payouts", json=body)
    assert made.status_code == 201, made.text
    assert (made.json["total"], made.json["currency"]) == (owed["amount"], "USD")
    assert admin.post(f"{ADMIN}/payouts", json=body).json == made.json
    problem(
        admin.post(f"{ADMIN}/payouts", json={**body, "currency": "ETH"}), 409, "reference_reused"
    )
    assert admin.get(f"{ADMIN}/owed").json["data"] == []

    address = f"{ADMIN}/payouts/2026/11"
    assert admin.get(address).json == made.json
    for _ in range(2):
        paid = admin.post(f"{address}/paid").json
        assert [(line["state"], line["orchestrator"]) for line in paid["lines"]] == [
            ("paid", ORCHESTRATOR)
        ]
    sheet = admin.get(address, headers={"Accept": "text/csv"})
    assert sheet.text == admin.get(address, query_string={"format": "csv"}).text
    heading, line = sheet.text.splitlines()
    assert heading == "batch,orchestrator,currency,amount,state,created_at,paid_at"
    assert line.startswith(f"2026/11,{ORCHESTRATOR},USD,{owed['amount']},paid,")

    problem(
        admin.post(f"{address}/reversal", json={"orchestrator": "south"}), 404, "unknown_payout"
    )
    back = admin.post(f"{address}/reversal", json={"orchestrator": ORCHESTRATOR}).json
    assert (back["total"], back["lines"][0]["state"]) == ("0", "reversed")
    assert admin.get(f"{ADMIN}/owed").json["data"] == [owed]
    problem(admin.post(f"{address}/paid"), 409, "payout_reversed")


def test_a_reference_with_slashes_is_no_other_payout(
    world: World, admin: CheckedClient, gateway: tuple[str, CheckedClient]
) -> None:
    references = ["lead", "//lead", "/", "lead/", "lead//paid"]
    for reference in references:
        run(world, gateway[1])
        assert admin.post(f"{ADMIN}/payouts", json={"reference": reference}).status_code == 201
    for decided, reference in enumerate(references):
        address = f"{ADMIN}/payouts/{quote(reference, safe='')}"
        assert admin.get(address).json["reference"] == reference
        paid = admin.post(f"{address}/paid", follow_redirects=True)
        assert paid.json["reference"] == reference
        states = {
            one["reference"]: one["lines"][0]["state"] for one in listed(admin, f"{ADMIN}/payouts")
        }
        assert [states[each] for each in references] == [
            "paid" if number <= decided else "created" for number in range(len(references))
        ]


@pytest.mark.parametrize("address", ["payouts/%2Flead", "orchestrators/%2Fnorth/offers"])
def test_an_address_leads_to_no_other(admin: CheckedClient, address: str) -> None:
    for asked in (f"{ADMIN}/{address}", f"/{ADMIN}/gateways", f"{ADMIN}//gateways"):
        assert admin.get(asked).status_code == 404


def test_payouts_are_listed_newest_first(
    world: World, admin: CheckedClient, gateway: tuple[str, CheckedClient]
) -> None:
    made = []
    for number in range(3):
        run(world, gateway[1])
        made.append(admin.post(f"{ADMIN}/payouts", json={"reference": f"p {number}"}).json)
    assert listed(admin, f"{ADMIN}/payouts")[:3] == made[::-1]
    assert made[-1]["total"] == EARNED


def test_refunds_add_up_to_the_charge_and_no_further(
    world: World, admin: CheckedClient, gateway: tuple[str, CheckedClient]
) -> None:
    job = run(world, gateway[1])
    address = f"{ADMIN}/jobs/{job}/refunds"
    nothing = admin.get(address).json
    assert (nothing["charged"], nothing["refunded"], nothing["data"]) == (str(COST), "0", [])
    first = {"amount": "0.001", "reference": f"first of {job}"}
    for _ in range(2):
        answer = admin.post(address, json=first)
        assert (answer.status_code, answer.json["refunded"]) == (201, "0.001")
    [refund] = answer.json["data"]
    assert (refund["reference"], refund["platform_fee"]) == (first["reference"], "0.0001")
    problem(admin.post(address, json={**first, "amount": "0.0001"}), 409, "reference_reused")

    above = {"amount": "0.00025", "reference": f"second of {job}"}
    said = problem(admin.post(address, json=above), 422, "invalid_amount")
    assert said["errors"] == [
        {"field": "amount", "message": "must be at most the 0.000249999847424 left of the charge"}
    ]
    rest = admin.post(address, json={**above, "amount": "0.000249999847424"}).json
    assert rest["refunded"] == rest["charged"] == str(COST)
    assert admin.get(address).json == rest
    assert gateway[1].get("/v1/balance").json["available"] == "1"


def test_only_a_charged_job_is_refunded(
    world: World, admin: CheckedClient, gateway: tuple[str, CheckedClient]
) -> None:
    job = gateway[1].post("/v1/jobs", json=GOOD).json["id"]
    for known, status, code in (
        (job, 404, "unknown_charge"),
        ("00000000-0000-0000-0000-000000000000", 404, "job_not_found"),
        ("a-job", 404, "job_not_found"),
    ):
        address = f"{ADMIN}/jobs/{known}/refunds"
        problem(admin.get(address), status, code)
        problem(admin.post(address, json={"amount": "1", "reference": "r"}), status, code)
    gateway[1].post(f"/v1/jobs/{job}/cancel")


# --- what was not sold ------------------------------------------------------------------------


def test_refusals_are_listed_by_gateway_reason_and_model(
    world: World, admin: CheckedClient, gateway: tuple[str, CheckedClient]
) -> None:
    name, client = gateway
    client.put("/v1/limits", json={"data": []})
    problem(client.post("/v1/jobs", json=GOOD), 402, "no_price_limit")
    client.put("/v1/limits", json={"data": [{"price_per_unit": "0.00000001"}]})
    said = [problem(client.post("/v1/jobs", json=GOOD), 402, "over_price_limit") for _ in "ab"]

    found = listed(admin, f"{ADMIN}/refusals", gateway=name)
    assert [one["reason"] for one in found] == ["price", "price", "no_limit"]
    assert [one["message"] for one in found[:2]] == [one["detail"] for one in said]
    assert found[0]["limit"] == said[0]["limit"]
    assert found[0]["best_price"] == said[0]["best_price"]
    assert (found[2]["limit"], found[0]["needed"]) == (None, None)
    narrow = {"gateway": name, "reason": "no_limit", "model_id": MODEL}
    assert listed(admin, f"{ADMIN}/refusals", **narrow) == found[2:]
    assert listed(admin, f"{ADMIN}/refusals", **{**narrow, "model_id": "no/such"}) == []


def test_a_limit_for_what_nobody_offers_is_set_and_warned_of(
    admin: CheckedClient, gateway: tuple[str, CheckedClient]
) -> None:
    name, client = gateway
    wanted = [
        {"pipeline": "text-to-image", "model_id": f"no/such-{n}", "price_per_unit": "1"}
        for n in range(3)
    ]
    answer = client.put("/v1/limits", json={"data": wanted}).json

    assert [one["model_id"] for one in answer["data"]] == [one["model_id"] for one in wanted]
    assert [one["model_id"] for one in answer["warnings"]] == [one["model_id"] for one in wanted]
    assert "no/such-0" in answer["warnings"][0]["message"]
    kept = listed(admin, f"{ADMIN}/gateways/{name}/limit-warnings")
    assert kept == answer["warnings"][::-1]
    again = admin.put(f"{ADMIN}/gateways/{name}/limits", json=answer).json
    assert len(again["warnings"]) == 3


# --- offers and keys of orchestrators ---------------------------------------------------------


def test_an_offer_promises_and_is_withdrawn(world: World, admin: CheckedClient) -> None:
    name = f"south-{next(_numbers)}"
    admin.post(f"{ADMIN}/orchestrators", json={"name": name})
    address = f"{ADMIN}/orchestrators/{name}/offers"
    offer = {"pipeline": "image-to-image", "model_id": MODEL, "price_per_unit": "7"}
    made = admin.post(address, json={**offer, "warm": True, "capacity": 3}).json
    assert (made["warm"], made["capacity"], made["live"]) == (True, 3, False)
    edited = {"price_per_unit": "8", "capacity": 4}
    for method in ("PUT", "PATCH"):
        answer = admin.open(f"{address}/{made['id']}", method=method, json=edited)
        said = problem(answer, 409, "offer_not_editable")
        assert "POST" in said["detail"]
        assert [one["field"] for one in said["errors"]] == ["capacity", "price_per_unit"]
    [named] = problem(admin.put(f"{address}/{made['id']}", json={}), 409, "offer_not_editable")[
        "errors"
    ]
    assert named["field"] == "offer"
    assert admin.get(address).json["data"] == [made]

    other = f"{ADMIN}/orchestrators/{ORCHESTRATOR}/offers/{made['id']}"
    problem(admin.delete(other), 404, "unknown_offer")
    assert admin.delete(f"{address}/{made['id']}").json == made
    assert admin.get(address).json["data"] == []
    problem(admin.delete(f"{address}/{made['id']}"), 404, "unknown_offer")


def test_a_planned_offer_is_listed_and_withdrawn_by_itself(
    world: World, admin: CheckedClient
) -> None:
    name = f"south-{next(_numbers)}"
    admin.post(f"{ADMIN}/orchestrators", json={"name": name})
    address = f"{ADMIN}/orchestrators/{name}/offers"
    offer = {"pipeline": "image-to-image", "model_id": MODEL, "price_per_unit": "7"}
    made = admin.post(address, json=offer).json
    later = "2100-01-01T00:00:00Z"
    planned = admin.post(address, json={**offer, "price_per_unit": "1", "valid_from": later}).json
    assert planned["valid_from"] == later
    assert admin.get(address).json["data"] == [made, planned]

    assert admin.delete(f"{address}/{planned['id']}").json == planned
    assert admin.get(address).json["data"] == [made], "what holds goes on"
    problem(admin.delete(f"{address}/{planned['id']}"), 404, "unknown_offer")


def test_an_offer_with_a_worker_is_live(world: World, admin: CheckedClient) -> None:
    world.wake()
    found = admin.get(f"{ADMIN}/orchestrators/{ORCHESTRATOR}/offers").json["data"]
    assert {one["pipeline"]: one["live"] for one in found} == {
        "text-to-image": True,
        "image-to-image": False,
    }


def test_an_orchestrators_keys_are_shown_once_and_revoked(admin: CheckedClient) -> None:
    address = f"{ADMIN}/orchestrators/{ORCHESTRATOR}/keys"
    made = admin.post(address, json={"name": "rack 1"}).json
    assert made["key"].startswith(f"po_{made['id']}_")
    [kept] = admin.get(address).json["data"]
    assert kept == {name: made[name] for name in kept}
    assert "key" not in kept
    revoked = [admin.delete(f"{address}/{made['id']}").json for _ in range(2)]
    assert revoked[0] == revoked[1]
    assert revoked[0]["revoked_at"]
    for key_id in ("nobody", "%00"):
        problem(admin.delete(f"{address}/{key_id}"), 404, "unknown_orchestrator_key")


# --- policies ---------------------------------------------------------------------------------


def test_a_gateways_safety_policy_is_shown_and_set(
    admin: CheckedClient, gateway: tuple[str, CheckedClient]
) -> None:
    address = f"{ADMIN}/gateways/{gateway[0]}/policy"
    assert admin.get(address).json == {"safety": "flag"}
    for safety in ("withhold", "blur"):
        assert admin.put(address, json={"safety": safety}).json == {"safety": safety}
    assert admin.get(address).json == {"safety": "blur"}


def test_a_safety_policy_that_is_none_changes_nothing(
    admin: CheckedClient, gateway: tuple[str, CheckedClient]
) -> None:
    address = f"{ADMIN}/gateways/{gateway[0]}/policy"
    problem(admin.put(address, json={"safety": "burn"}), 422, "invalid_params")
    assert admin.get(address).json == {"safety": "flag"}
    problem(admin.get(f"{ADMIN}/gateways/nobody/policy"), 404, "unknown_gateway")
    problem(gateway[1].put(address, json={"safety": "flag"}), 401, "not_authenticated")
