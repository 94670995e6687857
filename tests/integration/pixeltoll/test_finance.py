"""The commands of finance: rates, budgets, payouts, refunds, and the proof of the books."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from ledger import audit
from tasks import jobs
from tasks.audit import CHECKS as CHECKS_OF_JOBS
from tests.integration.pixeltoll.helpers import Operator, done
from tests.stage import SIDE, Stage

AMOUNT = SIDE * SIDE * Decimal("1.9073484e-08")
EARNED = AMOUNT * 9 / 10


def test_a_rate_is_stated_and_grows_old(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.run("rates", "set", "ETH", "USD", "3000", "--observed-at", "2026-01-01T00:00:00+01:00")
    operator.run("rates", "set", "ETH", "USD", "4000", "--source", "the desk")
    monkeypatch.setenv("PIXELTOLL_MAX_RATE_AGE_S", "3600")

    new, old = operator.rows("rates", "list")

    assert (new["rate"], new["source"], new["too_old"]) == ("4000", "the desk", False)
    assert new["age"].startswith("0:00:")
    assert (old["rate"], old["source"], old["too_old"]) == ("3000", "operator", True)
    assert old["observed_at"] == "2025-12-31T23:00:00+00:00"
    assert len(operator.rows("rates", "list", "--limit", "1")) == 1


def test_prices_in_wei_are_listed_as_they_were_stated(operator: Operator) -> None:
    operator.run("orchestrator", "create", "gpus")
    operator.run(
        *("offer", "add", "gpus", "text-to-image", "some/model", "4768371"),
        *("--currency", "wei", "--warm", "--capacity", "4"),
    )

    (row,) = operator.rows("offer", "list")

    price = (row["price_per_unit"], row["pixels_per_unit"], row["currency"])
    assert price == ("4768371", 1, "wei")
    assert (row["warm"], row["capacity"], row["live"]) == (True, 4, False)


def test_a_withdrawn_offer_is_offered_no_more(operator: Operator) -> None:
    operator.run("orchestrator", "create", "gpus")
    operator.run("offer", "add", "gpus", "text-to-image", "some/model", "1")

    told = operator.json("offer", "withdraw", "gpus", "text-to-image", "some/model")

    assert (told["model_id"], told["withdrawn"]) == ("some/model", True)
    assert operator.rows("offer", "list") == []
    said = operator.complaint("offer", "withdraw", "gpus", "text-to-image", "some/model")
    assert "model_id: gpus does not offer" in said


def test_a_planned_offer_is_listed_and_withdrawn_by_itself(operator: Operator) -> None:
    capability = ("gpus", "text-to-image", "some/model")
    operator.run("orchestrator", "create", "gpus")
    operator.run("offer", "add", *capability, "1")
    begins = "2100-01-01T00:00:00+00:00"
    planned = operator.json("offer", "add", *capability, "2", "--valid-from", begins)

    rows = operator.rows("offer", "list")
    assert [row["price_per_unit"] for row in rows] == ["1", "2"]
    assert rows[1]["valid_from"] == begins

    only = ("--offer", str(planned["id"]))
    operator.run("offer", "withdraw", *capability, *only)
    assert [row["price_per_unit"] for row in operator.rows("offer", "list")] == ["1"]
    said = operator.complaint("offer", "withdraw", *capability, *only)
    assert f"offer: gpus has no offer {planned['id']}" in said

    operator.run("offer", "add", *capability, "2", "--valid-from", begins)
    operator.run("offer", "withdraw", *capability)
    assert operator.rows("offer", "list") == []


def test_keys_of_an_orchestrator_are_made_and_revoked(operator: Operator) -> None:
    operator.run("orchestrator", "create", "gpus")
    made = operator.json("orchestrator", "key", "create", "gpus", "--name", "rack 3")

    operator.run("orchestrator", "key", "revoke", "gpus", made["id"])

    (row,) = operator.rows("orchestrator", "key", "list", "gpus")
    assert (row["id"], row["name"]) == (made["id"], "rack 3")
    assert row["revoked_at"]
    assert made["key"].startswith("po_")


def test_budgets_are_set_listed_and_removed(operator: Operator, stage: Stage) -> None:
    key = operator.json("key", "create", "studio")["id"]
    operator.run("budget", "set", "studio", "month", "100")
    operator.run("budget", "set", "studio", "day", "2", "--key", key)
    with stage.sessions.begin() as session:
        jobs.submit(session, replace(stage.order(), api_key_id=key))

    month, day = operator.rows("budget", "list", "studio")

    assert (month["period"], month["api_key_id"], month["amount"]) == ("month", None, "100")
    assert (day["period"], day["api_key_id"]) == ("day", key)
    assert Decimal(day["used"]) == AMOUNT
    assert Decimal(day["remaining"]) == 2 - AMOUNT

    said = operator.run("budget", "remove", "studio", "day", "--key", key)
    assert said == f"The budget of API key {key} of studio by day is removed.\n"
    assert [row["period"] for row in operator.rows("budget", "list", "studio")] == ["month"]


def test_a_payout_from_what_is_owed_to_its_reversal(
    operator: Operator, stage: Stage, tmp_path: Path
) -> None:
    done(stage)
    (due,) = operator.rows("payout", "owed")
    assert (due["orchestrator"], Decimal(due["amount"])) == ("rig", EARNED)

    for _ in range(2):  # the same again pays nothing more
        made = operator.json("payout", "create", "--reference", "=nov", "--orchestrator", "rig")
    assert [line["state"] for line in made["lines"]] == ["created"]
    assert operator.rows("payout", "owed") == []
    operator.run("payout", "paid", "=nov")

    operator.run("payout", "show", "=nov", "--csv", str(tmp_path / "nov.csv"))
    sheet = (tmp_path / "nov.csv").read_text()
    assert operator.run("payout", "show", "=nov", "--csv", "-") == sheet
    (line,) = csv.DictReader(io.StringIO(sheet))
    assert (line["batch"], line["orchestrator"], line["state"]) == ("'=nov", "rig", "paid")
    assert Decimal(line["amount"]) == EARNED

    operator.run("payout", "reverse", "=nov", "--orchestrator", "rig")
    (row,) = operator.rows("payout", "list")
    assert (row["reference"], row["orchestrators"], row["states"]) == ("=nov", 1, "reversed")
    assert row["amount"] == "0", "as over HTTP, what is reversed does not count"
    assert operator.json("payout", "show", "=nov")["amount"] == "0"
    assert len(operator.rows("payout", "owed")) == 1
    said = operator.complaint("payout", "paid", "=nov")
    assert "All of payout =nov was reversed" in said
    assert "Payout =nov\n" in operator.run("payout", "show", "=nov")


def test_a_refund_is_given_once_and_told_of(operator: Operator, stage: Stage) -> None:
    job = done(stage)
    before = stage.balance().available

    for _ in range(2):
        told = operator.json("refund", str(job.id), "0.00001", "--reference", "ticket 5")

    assert (told["amount"], told["refunded"]) == ("0.00001", "0.00001")
    assert Decimal(told["charged"]) == AMOUNT
    assert stage.balance().available == before + Decimal("0.00001")


def test_a_statement_shows_what_moved(operator: Operator, stage: Stage) -> None:
    job = done(stage)

    rows = operator.rows("statement", "studio")

    assert [row["kind"] for row in rows] == ["hold", "top_up"]
    assert (rows[0]["reference"], Decimal(rows[0]["amount"])) == (str(job.id), -AMOUNT)
    assert rows[1]["reference"] == "first", "as it was given"
    assert operator.run("statement", "studio", "--limit", "1", "--format", "csv").count("\n") == 2


def test_an_invoice_adds_up(operator: Operator, stage: Stage) -> None:
    job = done(stage)
    operator.run("refund", str(job.id), "0.00001", "--reference", "ticket 5")
    month = str(stage.scalar("SELECT to_char(max(day), 'YYYY-MM') FROM charges"))

    said = operator.run("invoice", "studio", month)
    charge, refund = operator.rows("invoice", "studio", month)

    assert (Decimal(charge["amount"]), refund["amount"]) == (AMOUNT, "-0.00001")
    assert said.endswith(f"\nTotal so far: {AMOUNT - Decimal('0.00001')} USD\n")
    assert operator.run("invoice", "studio", "2020-01") == "None.\nTotal: 0 USD\n"


def test_sound_books_are_told_with_the_number_of_checks(operator: Operator, stage: Stage) -> None:
    done(stage)
    checks = len(audit.CHECKS) + len(CHECKS_OF_JOBS)

    assert operator.run("ledger", "check") == f"The books are sound: {checks} checks.\n"
    assert operator.json("ledger", "check") == {"checks": checks, "findings": []}


def test_how_far_the_check_is_shows_on_a_terminal_and_to_no_program(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert operator.ended("ledger", "check").stderr == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")

    shown = operator.ended("ledger", "check")

    assert re.search(r"checks .*100%", shown.stderr)
    assert "The books are sound" in shown.stdout
    assert operator.ended("ledger", "check", "--json").stderr == ""


def test_unsound_books_are_told_row_by_row_and_by_the_exit_status(
    operator: Operator, stage: Stage
) -> None:
    job = stage.submit()
    stage.execute("UPDATE jobs SET state = 'canceled', finished_at = now()")

    said = operator.run("ledger", "check", status=3)
    (found,) = operator.json("ledger", "check", status=3)["findings"]

    assert "Found an open hold of a finished job, or an unfinished job without one:\n" in said
    assert str(job.id) in said
    assert found["check"].startswith("an open hold of a finished job")
    assert found["rows"][0]["job_id"] == str(job.id)
    assert found["rows"][0]["hold_state"] == "open"


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_was_found_is_the_status_though_nobody_reads_it(
    operator: Operator, stage: Stage, form: tuple[str, ...]
) -> None:
    stage.submit()
    stage.execute("UPDATE jobs SET state = 'canceled', finished_at = now()")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pixeltoll", "ledger", "check", *form],
            check=False,
            stdout=writing,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(writing)

    assert ended.returncode == 3
    assert ended.stderr.startswith(b"The books are not sound: 1 of ")
