"""Who pays for a job and who does not: budgets of a key, records of refusals, the age of a rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from api import auth
from api.runtime import EXTENSION
from ledger import accounts, budgets, offers, rates
from ledger.money import plain, unit_price
from ledger.offers import Capability
from tests.integration.api.world import GOOD, MODEL, ORCHESTRATOR, PRICE, World, problem

AMOUNT = "0.001249999847424"  # of GOOD, by hand: 256 * 256 pixels at PRICE


def refused(world: World) -> list[dict[str, Any]]:
    with world.sessions() as session:
        rows = session.execute(text("SELECT * FROM billing_refusals ORDER BY refusal_id"))
        return [dict(row) for row in rows.mappings()]


def budget(world: World, amount: str, key_id: str | None = None) -> None:
    world.change(
        lambda session: budgets.set_budget(session, world.gateway_id, "day", amount, key_id)
    )


def test_a_budget_of_one_key_stops_that_key_only(world: World) -> None:
    with world.sessions.begin() as session:
        row, bounded = auth.create_key(session, world.gateway_id, "bounded")
    budget(world, "0.002", row.id)

    assert world.client(bounded).post("/v1/jobs", json=GOOD).status_code == 202
    found = problem(world.client(bounded).post("/v1/jobs", json=GOOD), 402, "over_budget")
    assert world.client().post("/v1/jobs", json=GOOD).status_code == 202

    assert row.id in found["detail"]
    (said,) = refused(world)
    assert (said["reason"], said["api_key_id"], said["needed"]) == (
        "budget",
        row.id,
        Decimal(AMOUNT),
    )
    assert plain(said["available"]) == "0.000750000152576"


REFUSED: dict[str, tuple[str, Callable[[World], object]]] = {
    "no_limit": (
        "no_price_limit",
        lambda world: world.client().put("/v1/limits", json={"data": []}),
    ),
    "price": ("over_price_limit", lambda world: world.set_limit("0.00000001")),
    "budget": ("over_budget", lambda world: budget(world, "0.001")),
    "funds": ("insufficient_funds", lambda _: None),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_finance_sees_what_was_not_sold_and_why(world: World, reason: str) -> None:
    code, arrange = REFUSED[reason]
    arrange(world)
    key = world.poor_key if reason == "funds" else world.key

    world.client(key).post("/v1/quotes", json=GOOD)
    assert refused(world) == []
    answer = problem(world.client(key).post("/v1/jobs", json=GOOD), 402, code)

    (said,) = refused(world)
    assert (said["reason"], said["message"]) == (reason, answer["detail"])
    assert (said["pipeline"], said["model_id"]) == ("text-to-image", MODEL)
    assert (said["gateway"], said["units"]) == ("third" if reason == "funds" else "first", 256**2)
    assert key.startswith(f"px_{said['api_key_id']}_")


def test_a_refusal_that_cannot_be_recorded_is_answered_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("ledger.refusals.record", away)
    problem(world.client(world.poor_key).post("/v1/jobs", json=GOOD), 402, "insufficient_funds")


def test_a_rate_is_as_old_as_the_installation_allows(world: World) -> None:
    two_days_ago = datetime.now(UTC) - timedelta(days=2)
    with world.sessions.begin() as session:
        owner = accounts.find_orchestrator(session, ORCHESTRATOR)
        capability = Capability("text-to-image", MODEL)
        price = unit_price(PRICE, 2000, "ETH")
        offers.publish(session, owner.id, capability, price, "USD")
        rates.set_rate(session, "ETH", "USD", "2000", "an exchange", two_days_ago)
    for path in ("/v1/quotes", "/v1/jobs"):
        problem(world.client().post(path, json=GOOD), 503, "rate_error")

    patient = replace(world.runtime, max_rate_age=timedelta(days=3))
    world.app.extensions[EXTENSION] = patient

    assert world.client().post("/v1/quotes", json=GOOD).json["amount"] == AMOUNT
    assert world.submit()["amount"] == AMOUNT
