"""What cannot be is refused at the command line: by the name of the field, with status 1, and
nothing has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from ledger.db import session_factory as make_session_factory
from tasks.settings import TaskSettings
from tests import stage as stages
from tests.databases import ReusedDatabase
from tests.integration.pixeltoll.helpers import Operator, done
from tests.stage import Stage

_TABLES = (
    *("gateways", "orchestrators", "entries", "postings", "offers", "price_limits", "budgets"),
    *("exchange_rates", "payouts", "payout_batches", "refunds", "limit_warnings", "api_keys"),
)
ROWS = "SELECT ARRAY[" + ", ".join(f"(SELECT count(*) FROM {name})" for name in _TABLES) + "]"

MODEL = ("text-to-image", "acme/small")
ADD = ("offer", "add", "rig", *MODEL)
SET = ("limit", "set", "studio")
RATE = ("rates", "set", "ETH", "USD")
NOBODY = "00000000-0000-0000-0000-000000000000"
BELOW = "price_per_unit: must be greater than zero"
DIGITS = "0.0000000000000000001"


@pytest.fixture(scope="module")
def world(
    reused_database: ReusedDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Operator, Stage, str]]:
    """A market with one job that is charged. All tests share it: they change nothing."""
    reused_database.clear()
    sessions: sessionmaker[Session] = make_session_factory(reused_database.engine)
    catalog: Path = tmp_path_factory.mktemp("market") / "catalog.toml"
    stage = stages.furnish(sessions, TaskSettings(), stages.write_catalog(catalog))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", reused_database.url)
        operator = Operator()
        operator.run("top-up", "studio", "1", "--reference", "wire-1")
        operator.run("gateway", "create", "other")
        yield operator, stage, str(done(stage).id)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # Prices that are none.
        ((*ADD, "-1"), BELOW),
        ((*ADD, "0"), BELOW),
        ((*ADD, "nan"), "price_per_unit: 'nan' is not a decimal number"),
        ((*ADD, "Infinity"), "price_per_unit: 'Infinity' is not a decimal number"),
        ((*ADD, "1e400"), "price_per_unit: is out of range"),
        ((*ADD, DIGITS), "price_per_unit: has more than 18 decimals"),
        ((*ADD, "1", "--pixels-per-unit", "0"), "pixels_per_unit: must be a whole number from 1"),
        ((*ADD, "1", "--currency", "EUR"), "currency: must be one of USD, ETH, wei"),
        ((*ADD, "1", "--capacity", "0"), "capacity: must be from 1"),
        ((*ADD, "1", "--valid-from", "soon"), "valid_from: 'soon' must be a time with its zone"),
        ((*ADD, "1", "--valid-from", "2026-11-30"), "valid_from: '2026-11-30' must be a time"),
        ((*ADD, "1", "--valid-from", "2020-01-01T00:00Z"), "valid_from: must not be in the past"),
        ((*ADD, "1", "--valid-from", "0001-01-01T00:00+14:00"), "valid_from: '0001-01-01T00:00+14"),
        (("offer", "add", "rig", "text-to-image", "", "1"), "model_id: must be 1 to 200"),
        (("offer", "add", "rig", "text-to-image", "\udcff", "1"), "model_id: must be 1 to 200"),
        (("offer", "add", "rig", "text-to-film", "m", "1"), "pipeline: 'text-to-film' must be"),
        (("offer", "withdraw", "rig", "text-to-image", "acme/none"), "model_id: rig does not"),
        ((*SET, "1", "--pipeline", ""), "pipeline: must be 1 to 200"),
        ((*SET, "1", "--pipeline", "x", "--model", "\udcff"), "model_id: must be 1 to 200"),
        ((*SET, "-1"), BELOW),
        ((*SET, "0"), BELOW),
        ((*SET, "nan"), "price_per_unit: 'nan'"),
        ((*SET, DIGITS), "price_per_unit: has more than 18 decimals"),
        ((*SET, "1", "--pixels-per-unit", "-3"), "pixels_per_unit: must be a whole number from 1"),
        ((*SET, "1", "--currency", "EUR"), "currency: must be one of"),
        ((*SET, "1", "--model", "acme/small"), "--model needs --pipeline"),
        # Amounts that are none.
        (("top-up", "studio", "0"), "amount: must be greater than zero"),
        (("top-up", "studio", "-5"), "amount: must be greater than zero"),
        (("top-up", "studio", "nan"), "amount: 'nan' is not a decimal number"),
        (("top-up", "studio", DIGITS), "amount: has more than 18 decimals"),
        (("top-up", "studio", "1e400"), "amount: is out of range"),
        (("top-up", "studio", "99999999999999999999"), "amount: is more than the account can"),
        (("top-up", "studio", "2", "--reference", "wire-1"), "Reference 'wire-1' belongs to an"),
        (("top-up", "studio", "1", "--reference", "a\nb"), "reference: must be 1 to 200"),
        (("orchestrator", "create", "new", "--fee-rate", "1.5"), "fee_rate: must be from 0 to 1"),
        # Rates.
        ((*RATE, "0"), "rate: must be greater than zero"),
        ((*RATE, "nan"), "rate: 'nan' is not a decimal number"),
        ((*RATE, DIGITS), "rate: has more than 18 decimals"),
        (("rates", "set", "EUR", "USD", "1"), "base_currency: must be one of"),
        (("rates", "set", "USD", "USD", "1"), "quote_currency: must be another"),
        ((*RATE, "1", "--observed-at", "2999-01-01T00:00:00Z"), "observed_at: must not be in the"),
        ((*RATE, "1", "--observed-at", "noon"), "observed_at: 'noon' must be a time"),
        ((*RATE, "1", "--source", ""), "source: must be 1 to 200"),
        # Budgets.
        (("budget", "set", "studio", "week", "1"), "period: must be one of day, month"),
        (("budget", "set", "studio", "day", "-1"), "amount: must be zero or more"),
        (("budget", "set", "studio", "day", "much"), "amount: 'much' is not a decimal number"),
        (("budget", "set", "studio", "day", "1", "--key", "nokey"), "has no API key 'nokey'"),
        (("budget", "remove", "studio", "day"), "period: there is no budget of studio by day"),
        # Payouts.
        (("payout", "owed", "--currency", "EUR"), "currency: must be one of USD, ETH"),
        (("payout", "create", "--currency", "ETH"), "amount: nothing is owed in ETH"),
        (("payout", "create", "--currency", "EUR"), "currency: must be one of USD, ETH"),
        (("payout", "create", "--reference", "a\nb"), "reference: must be 1 to 200"),
        (("payout", "create", "--orchestrator", "nobody"), "no orchestrator nobody"),
        (("payout", "show", "none"), "There is no payout none"),
        (("payout", "paid", "none"), "There is no payout none"),
        (("payout", "reverse", "none"), "There is no payout none"),
        # Refunds, of the one job.
        (("refund", "JOB", "1", "--reference", "r"), "amount: must be at most the 0.0000781249"),
        (("refund", "JOB", "0", "--reference", "r"), "amount: must be greater than zero"),
        (("refund", "JOB", "nan", "--reference", "r"), "amount: 'nan' is not a decimal number"),
        (("refund", "JOB", "0.00001", "--reference", ""), "reference: must be 1 to 200"),
        (("refund", NOBODY, "1", "--reference", "r"), f"There is no job {NOBODY}"),
        (("refund", "job-7", "1", "--reference", "r"), "job_id: 'job-7' is not a job's id"),
        # Names and days.
        (("key", "create", "studio", "--name", ""), "name: must be 1 to 200"),
        (("key", "revoke", "studio", "\udcff"), "The gateway has no API key"),
        (("orchestrator", "key", "create", "rig", "--name", "a\nb"), "name: must be 1 to 200"),
        (("orchestrator", "key", "revoke", "rig", "\udcff"), "This orchestrator has no key"),
        (("report", "charges", "--gateway", "\udcff"), "gateway: must be 1 to 200"),
        (("report", "charges", "--until", "9999-12-31"), "until: '9999-12-31' must be a day"),
        (
            ("report", "spend", "--until", "0001-01-05"),
            "must be a day, such as 2026-11-30, from 1970-01-01 to 9998-12-31.",
        ),
        (("gateway", "create", "studio"), "There is already a gateway 'studio'"),
        (("balance", "nobody"), "There is no gateway nobody"),
        (("statement", "nobody"), "There is no gateway nobody"),
        (("report", "charges", "--since", "yesterday"), "since: 'yesterday' must be a day"),
        (("report", "invoice-lines", "--month", "2026-13"), "month: '2026-13' is not a month"),
        (("invoice", "studio", "0001-01"), "month: '0001-01' is before 1970"),
        (("invoice", "studio", "november"), "month: 'november' is not a month"),
        (("invoice", "studio", "2999-01"), "month: '2999-01' is in the future"),
        (("report", "spend", "--gateway", "nobody"), "There is no gateway nobody"),
        (
            ("report", "spend", "--since", "2026-02-02", "--until", "2026-02-01"),
            "since: 2026-02-02 is after 2026-02-01",
        ),
        # Files.
        (("offer", "import", "rig", "/no/such.json"), "/no/such.json cannot be read: No such file"),
        (("limit", "import", "studio", "/"), "/ cannot be read: Is a directory"),
        (("report", "charges", "--output", "/no/such.csv"), "/no/such.csv cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_is_refused_by_field_and_changes_nothing(
    world: tuple[Operator, Stage, str], arguments: tuple[str, ...], message: str
) -> None:
    operator, stage, job_id = world
    before = stage.scalar(ROWS)

    said = operator.complaint(*(job_id if word == "JOB" else word for word in arguments))

    assert message in said
    assert said.startswith("pixeltoll: ")
    assert stage.scalar(ROWS) == before


def test_a_key_of_another_gateway_has_no_budget_here(
    world: tuple[Operator, Stage, str],
) -> None:
    operator, stage, _ = world
    key = operator.json("key", "create", "other")["id"]
    before = stage.scalar(ROWS)

    said = operator.complaint("budget", "set", "studio", "day", "1", "--key", key)

    assert f"has no API key {key!r}" in said
    assert stage.scalar(ROWS) == before


def test_a_top_up_twice_with_one_reference_is_one(world: tuple[Operator, Stage, str]) -> None:
    operator, stage, _ = world
    before = stage.scalar(ROWS)

    operator.run("top-up", "studio", "1", "--reference", "wire-1")

    assert stage.scalar(ROWS) == before


def test_a_limit_for_a_model_that_nobody_offers_is_set_with_a_warning(
    world: tuple[Operator, Stage, str],
) -> None:
    operator, stage, _ = world
    scope = ("--pipeline", "text-to-image", "--model", "acme/none")

    said = operator.ended(*SET, "1", *scope)

    assert said.stdout == "studio pays at most 1 USD per pixel for acme/none.\n"
    assert said.stderr.startswith("Warning: Nobody offers text-to-image with 'acme/none'")
    assert operator.rows("limit", "list", "studio")[0]["model_id"] == "acme/none"
    warned = stage.scalar("SELECT message FROM limit_warnings WHERE model_id = 'acme/none'")
    assert "the limit is set, and waits for an offer" in str(warned)
