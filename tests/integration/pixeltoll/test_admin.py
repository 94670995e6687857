"""The commands about money and prices, against a real database."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from api import auth
from api.errors import NotAuthenticated, UnknownKey
from tasks import workers
from tests.integration.pixeltoll.helpers import Operator
from tests.stage import OTHER, SMALL, Stage, queue

PRICE = "0.000000019073484"


def test_a_gateway_is_opened_topped_up_and_listed(operator: Operator) -> None:
    made = operator.json("gateway", "create", "acme")

    assert operator.json("top-up", "acme", "12.5")["available"] == "12.5"

    (row,) = operator.rows("gateway", "list")
    assert row == {
        "id": made["id"],
        "name": "acme",
        "available": "12.5",
        "held": "0",
        "currency": "USD",
    }
    assert operator.json("balance", "acme") == {
        "available": "12.5",
        "held": "0",
        "currency": "USD",
    }


def test_a_payment_with_a_number_counts_once(operator: Operator) -> None:
    operator.run("gateway", "create", "acme")

    for _ in range(2):
        operator.run("top-up", "acme", "3", "--reference", "wire-77")
    operator.run("top-up", "acme", "1")
    operator.run("top-up", "acme", "1")

    assert operator.json("balance", "acme")["available"] == "5"


def test_the_books_balance_after_a_top_up(operator: Operator) -> None:
    operator.run("gateway", "create", "acme")
    operator.run("top-up", "acme", "3")

    rows = operator.rows("report", "trial-balance")

    assert {row["account"]: row["balance"] for row in rows} == {
        "available": "3",
        "held": "0",
        "funding": "-3",
    }
    assert {row["owner"] for row in operator.rows("report", "balances")} == {"acme", "platform"}


def test_reports_without_rows_say_so(operator: Operator) -> None:
    assert operator.rows("report", "charges") == []
    assert operator.run("report", "charges") == "None.\n"


def test_a_key_opens_until_it_is_revoked(
    operator: Operator, session_factory: sessionmaker[Session]
) -> None:
    gateway = operator.json("gateway", "create", "acme")
    made = operator.json("key", "create", "acme", "--name", "laptop")
    header = f"Bearer {made['key']}"
    assert str(auth.authenticate(session_factory, header).gateway_id) == gateway["id"]

    operator.run("key", "revoke", "acme", made["id"])

    with pytest.raises(NotAuthenticated):
        auth.authenticate(session_factory, header)
    (row,) = operator.rows("key", "list", "acme")
    assert (row["id"], row["name"]) == (made["id"], "laptop")
    assert row["revoked_at"] is not None
    assert made["key"] not in operator.run("key", "list", "acme")


def test_only_the_owner_of_a_key_can_revoke_it(operator: Operator) -> None:
    operator.run("gateway", "create", "acme")
    operator.run("gateway", "create", "other")
    key = operator.json("key", "create", "acme")

    with pytest.raises(UnknownKey):
        operator.run("key", "revoke", "other", key["id"])


def test_an_offer_takes_the_place_of_an_earlier_one(operator: Operator) -> None:
    operator.run("orchestrator", "create", "gpus", "--fee-rate", "0.10")

    operator.run("offer", "add", "gpus", "text-to-image", "some/model", PRICE)
    operator.run(
        *("offer", "add", "gpus", "text-to-image", "some/model", "3", "--pixels-per-unit", "1000")
    )

    (row,) = operator.rows("offer", "list")
    assert row["orchestrator"] == "gpus"
    assert (row["price_per_unit"], row["pixels_per_unit"]) == ("3", 1000)
    (owner,) = operator.rows("orchestrator", "list")
    assert (Decimal(owner["fee_rate"]), owner["owed"]) == (Decimal("0.1"), "0")


def test_limits_are_listed_the_most_exact_first(operator: Operator) -> None:
    operator.run("gateway", "create", "acme")
    operator.run("limit", "any-price", "acme")
    operator.run("limit", "set", "acme", "0.5", "--pipeline", "text-to-image")
    said = operator.run(
        *("limit", "set", "acme", PRICE, "--pipeline", "text-to-image", "--model", "some/model")
    )

    rows = operator.rows("limit", "list", "acme")

    assert [(row["pipeline"], row["model_id"], row["price_per_unit"]) for row in rows] == [
        ("text-to-image", "some/model", PRICE),
        ("text-to-image", None, "0.5"),
        (None, None, None),
    ]
    assert said == f"acme pays at most {PRICE} USD per pixel for some/model.\n"


def test_a_table_keeps_every_column_whole(operator: Operator) -> None:
    operator.run("orchestrator", "create", "gpus")
    model = "some-organisation/a-model-with-quite-a-long-name-for-a-narrow-terminal"
    operator.run("offer", "add", "gpus", "text-to-image", model, PRICE)

    table = operator.run("offer", "list")

    header, row = table.splitlines()
    assert header.split() == [
        *("id", "orchestrator", "pipeline", "model_id"),
        *("price_per_unit", "pixels_per_unit", "currency"),
        *("warm", "capacity", "valid_from", "live"),
    ]
    facts = ["gpus", "text-to-image", model, PRICE, "1", "USD", "False", "1"]
    assert row.split()[1:-2] == facts
    assert row.split()[-1] == "False"


def test_a_settlement_currency_of_its_own_is_the_one_of_its_prices(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXELTOLL_SETTLEMENT_CURRENCY", "ETH")
    operator.run("gateway", "create", "acme")
    operator.run("limit", "set", "acme", PRICE)

    assert operator.json("balance", "acme")["currency"] == "ETH"
    assert operator.rows("limit", "list", "acme")[0]["currency"] == "ETH"


def test_a_gateways_safety_policy_is_shown_and_set(operator: Operator) -> None:
    operator.run("gateway", "create", "acme")

    assert operator.json("gateway", "policy", "acme") == {"gateway": "acme", "safety": "flag"}
    assert operator.json("gateway", "policy", "acme", "--safety", "blur")["safety"] == "blur"
    assert operator.json("gateway", "policy", "acme")["safety"] == "blur"


def test_the_models_are_listed_with_what_can_be_had(
    operator: Operator, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXELTOLL_CATALOG", str(tmp_path / "catalog.toml"))
    with stage.sessions.begin() as session:
        workers.heartbeat(session, "w", stage.orchestrator_id, [queue(), queue(OTHER)], [SMALL])

    found = {(row["model_id"], row["pipeline"]): row for row in operator.rows("models", "list")}

    assert found[SMALL, "text-to-image"]["state"] == "warm"
    assert found[OTHER, "text-to-image"]["state"] == "on_demand"
    assert "No worker" in found[OTHER, "image-to-image"]["reason"]
    lightning = found["ByteDance/SDXL-Lightning", "text-to-image"]
    assert (lightning["state"], lightning["reason"]) == ("unavailable", "Nobody offers it.")
    assert "ByteDance/SDXL-Lightning-8step" in lightning["aliases"]
