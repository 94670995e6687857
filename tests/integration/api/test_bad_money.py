"""Bad amounts, currencies, months and references over HTTP: each names its field, changes nothing.

The command line and the database refuse the same, each in its own tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text

from tests.integration.api.conformance import CheckedClient
from tests.integration.api.world import ADMIN_KEY, GOOD, MODEL, ORCHESTRATOR, World, problem

ADMIN = "/v1/admin"
OFFERS = f"{ADMIN}/orchestrators/{ORCHESTRATOR}/offers"
LIMITS = f"{ADMIN}/gateways/first/limits"
TOP_UPS = f"{ADMIN}/gateways/first/top-ups"
BUDGET = f"{ADMIN}/gateways/first/budgets/day"
RATES = f"{ADMIN}/rates"
PAYOUTS = f"{ADMIN}/payouts"
REFUNDS = f"{ADMIN}/jobs/{{job}}/refunds"

OFFER = {"pipeline": "text-to-image", "model_id": MODEL, "price_per_unit": "1"}
TOP_UP = {"amount": "1", "reference": "r"}
RATE = {"base_currency": "ETH", "quote_currency": "USD", "rate": "4000", "source": "s"}
# Every table that a request about money could write.
TABLES = (
    *("accounts", "entries", "postings", "holds", "charges", "refunds", "offers", "price_limits"),
    *("exchange_rates", "budgets", "payout_batches", "payouts", "limit_warnings"),
)
# What is no price: negative, zero, not finite, too precise, too large, no number.
BAD_PRICES: list[tuple[object, str]] = [
    ("-1", "invalid_amount"),
    ("0", "invalid_amount"),
    ("NaN", "invalid_params"),
    ("Infinity", "invalid_params"),
    ("0.0000000000000000001", "invalid_params"),
    ("1e30", "invalid_params"),
    ("a dollar", "invalid_params"),
    (True, "invalid_params"),
    (None, "invalid_params"),
]


@dataclass(frozen=True)
class Bad:
    """A request, and the field that its refusal names."""

    method: str
    address: str
    body: dict[str, Any]
    field: str
    code: str = "invalid_amount"
    status: int = 422

    def __str__(self) -> str:
        return f"{self.method} {self.address} {self.body}"


BAD = [
    *(
        Bad("POST", OFFERS, {**OFFER, "price_per_unit": p}, "price_per_unit", c)
        for p, c in BAD_PRICES
    ),
    *(
        Bad("PUT", LIMITS, {"data": [{"price_per_unit": p}]}, "data.0.price_per_unit", c)
        for p, c in BAD_PRICES
        if p is not None  # any price
    ),
    *(Bad("POST", TOP_UPS, {**TOP_UP, "amount": p}, "amount", c) for p, c in BAD_PRICES),
    *(Bad("POST", RATES, {**RATE, "rate": p}, "rate", c) for p, c in BAD_PRICES),
    *(Bad("PUT", BUDGET, {"amount": p}, "amount", c) for p, c in BAD_PRICES if p != "0"),
    *(Bad("POST", REFUNDS, {**TOP_UP, "amount": p}, "amount", c) for p, c in BAD_PRICES),
    *(
        Bad("POST", "/v1/jobs", {**GOOD, "max_price": p}, "max_price", c)
        for p, c in BAD_PRICES[2:-1]
    ),
    Bad("POST", OFFERS, {**OFFER, "pixels_per_unit": 0}, "pixels_per_unit"),
    Bad("POST", OFFERS, {**OFFER, "pixels_per_unit": -1}, "pixels_per_unit"),
    Bad("POST", OFFERS, {**OFFER, "pixels_per_unit": 1.5}, "pixels_per_unit", "invalid_params"),
    Bad("POST", OFFERS, {**OFFER, "capacity": 0}, "capacity"),
    Bad("POST", OFFERS, {**OFFER, "valid_from": "tomorrow"}, "valid_from", "invalid_params"),
    Bad("POST", OFFERS, {**OFFER, "valid_from": "2020-01-01T00:00:00Z"}, "valid_from"),
    *(
        bad
        for unknown in ("EUR", "")
        for bad in (
            Bad("POST", OFFERS, {**OFFER, "currency": unknown}, "currency"),
            Bad(
                "PUT",
                LIMITS,
                {"data": [{"price_per_unit": 1, "currency": unknown}]},
                "data.0.currency",
            ),
            Bad("POST", PAYOUTS, {"reference": "p", "currency": unknown}, "currency"),
        )
    ),
    Bad(
        "PUT",
        LIMITS,
        {"data": [{"price_per_unit": 1, "pixels_per_unit": 0}]},
        "data.0.pixels_per_unit",
    ),
    Bad(
        "PUT",
        LIMITS,
        {"data": [{"price_per_unit": 1, "pipeline": "text-to-image", "model_id": "\u200b"}]},
        "data.0.model_id",
        "invalid_name",
    ),
    Bad("POST", f"{ADMIN}/gateways/first/keys", {"name": "\u200b"}, "name", "invalid_name"),
    Bad(
        "POST",
        f"{ADMIN}/orchestrators/{ORCHESTRATOR}/keys",
        {"name": "\u200b"},
        "name",
        "invalid_name",
    ),
    Bad("POST", TOP_UPS, {"amount": "99999999999999999999", "reference": "all of it"}, "amount"),
    Bad("POST", RATES, {**RATE, "base_currency": "EUR"}, "base_currency"),
    Bad("POST", RATES, {**RATE, "quote_currency": "wei"}, "quote_currency"),
    Bad("POST", RATES, {**RATE, "quote_currency": "ETH"}, "quote_currency"),
    Bad("POST", RATES, {**RATE, "observed_at": "2100-01-01T00:00:00Z"}, "observed_at"),
    Bad("POST", RATES, {**RATE, "source": "\u200b"}, "source", "invalid_name"),
    Bad("PUT", f"{ADMIN}/gateways/first/budgets/week", {"amount": "1"}, "period", "invalid_name"),
    Bad("DELETE", f"{ADMIN}/gateways/first/budgets/week", {}, "period", "invalid_name"),
    Bad("POST", TOP_UPS, {**TOP_UP, "reference": "\u200b"}, "reference", "invalid_name"),
    Bad("POST", REFUNDS, {"amount": "0.0012", "reference": "a"}, "amount"),
    Bad("POST", PAYOUTS, {"reference": "p", "currency": "ETH"}, "amount", "nothing_owed", 409),
    Bad("POST", PAYOUTS, {"reference": "p", "currency": "wei"}, "currency"),
    Bad("POST", PAYOUTS, {"reference": "\u200b"}, "reference", "invalid_name"),
    Bad(
        "POST", PAYOUTS, {"reference": "p", "orchestrators": []}, "orchestrators", "invalid_params"
    ),
    Bad("PUT", f"{OFFERS}/1", {"price_per_unit": "1"}, "price_per_unit", "offer_not_editable", 409),
    Bad("PATCH", f"{OFFERS}/1", {"currency": "EUR"}, "currency", "offer_not_editable", 409),
]


@pytest.fixture(scope="module")
def job(shared_world: World) -> str:
    """A job that was charged, of which half was given back."""
    found = shared_world.submit()["id"]
    shared_world.succeed()
    address = REFUNDS.format(job=found)
    refunded = shared_world.client(ADMIN_KEY).post(
        address, json={"amount": "0.0006", "reference": "half"}
    )
    assert refunded.status_code == 201
    return str(found)


@pytest.fixture
def admin(shared_world: World) -> CheckedClient:
    return shared_world.client(ADMIN_KEY)


def rows(world: World) -> dict[str, list[str]]:
    with world.sessions() as session:
        return {
            table: list(session.scalars(text(f"SELECT t::text FROM {table} t ORDER BY 1")))
            for table in TABLES
        }


def test_bad_money_is_refused_by_its_field_and_changes_nothing(
    shared_world: World, job: str, admin: CheckedClient, subtests: pytest.Subtests
) -> None:
    before = rows(shared_world)
    for bad in BAD:
        client = admin if bad.address.startswith(ADMIN) else shared_world.client()
        with subtests.test(str(bad)):
            address = bad.address.format(job=job)
            response = client.open(address, method=bad.method, json=bad.body)
            said = problem(response, bad.status, bad.code)
            assert [one["field"] for one in said["errors"]] == [bad.field]
    assert rows(shared_world) == before


@pytest.mark.parametrize(
    ("address", "query", "field", "code"),
    [
        (f"{RATES}", {"cursor": "x"}, "cursor", "invalid_params"),
        (f"{RATES}", {"limit": "0"}, "limit", "invalid_params"),
        (f"{ADMIN}/refusals", {"reason": "mood"}, "reason", "invalid_params"),
        (f"{PAYOUTS}/p", {"format": "html"}, "format", "invalid_params"),
        ("/v1/statement", {"cursor": "!"}, "cursor", "invalid_params"),
        ("/v1/statement", {"format": "pdf"}, "format", "invalid_params"),
        ("/v1/statement", {"limit": "1001"}, "limit", "invalid_params"),
        ("/v1/invoices/2026-11", {"format": "pdf"}, "format", "invalid_params"),
        ("/v1/invoices/2026-13", {}, "month", "invalid_month"),
        ("/v1/invoices/november", {}, "month", "invalid_month"),
        ("/v1/invoices/9999-12", {}, "month", "invalid_month"),
        ("/v1/invoices/2026-11%00", {}, "month", "invalid_month"),
    ],
)
def test_a_bad_question_is_refused_by_its_field(
    shared_world: World, address: str, query: dict[str, str], field: str, code: str
) -> None:
    client = shared_world.client(ADMIN_KEY if address.startswith(ADMIN) else None)
    said = problem(client.get(address, query_string=query), 422, code)
    assert [one["field"] for one in said["errors"]] == [field]


@pytest.mark.parametrize(
    ("address", "code"),
    [
        (f"{PAYOUTS}/none", "unknown_payout"),
        (f"{PAYOUTS}/%00", "unknown_payout"),
        (f"{ADMIN}/gateways/nobody/budgets", "unknown_gateway"),
        (f"{ADMIN}/gateways/nobody/limit-warnings", "unknown_gateway"),
        (f"{ADMIN}/orchestrators/nobody/keys", "unknown_orchestrator"),
    ],
)
def test_what_is_not_there_is_a_404(admin: CheckedClient, address: str, code: str) -> None:
    problem(admin.get(address), 404, code)


def test_refusals_of_what_cannot_be_a_name_are_not_looked_for(admin: CheckedClient) -> None:
    answer = admin.get(f"{ADMIN}/refusals", query_string={"gateway": "\u200b"})
    [error] = problem(answer, 422, "invalid_name")["errors"]
    assert error["field"] == "gateway"


def test_json_has_no_nan(shared_world: World, admin: CheckedClient) -> None:
    for number in ("NaN", "Infinity", "-Infinity"):
        body = f'{{"amount": {number}, "reference": "r"}}'
        response = admin.post(TOP_UPS, data=body, content_type="application/json")
        problem(response, 400, "malformed_body")


def test_a_top_up_twice_is_the_same_entry(shared_world: World, admin: CheckedClient) -> None:
    body = {"amount": "0.5", "reference": "paid twice"}
    answers = [admin.post(TOP_UPS, json=body) for _ in range(2)]
    assert answers[0].json == answers[1].json
    with shared_world.sessions() as session:
        entries = session.scalar(
            text("SELECT count(*) FROM entries WHERE reference = 'top-up:paid twice'")
        )
    assert entries == 1


def test_a_limit_for_an_unknown_model_is_taken_with_a_warning(
    shared_world: World, admin: CheckedClient
) -> None:
    gateway = admin.post(f"{ADMIN}/gateways", json={"name": "curious"}).json["id"]
    limit = {"pipeline": "text-to-image", "model_id": "no/such", "price_per_unit": "1"}
    answer = admin.put(f"{ADMIN}/gateways/{gateway}/limits", json={"data": [limit]})
    assert answer.status_code == 200
    [warning] = answer.json["warnings"]
    assert (warning["model_id"], warning["pipeline"]) == ("no/such", "text-to-image")


def test_a_payout_to_nobody_pays_nobody(admin: CheckedClient) -> None:
    body = {"reference": "to nobody", "orchestrators": ["nobody"]}
    problem(admin.post(PAYOUTS, json=body), 404, "unknown_orchestrator")
