"""What the pages for operators tell their readers to do works: commands, SQL, and a restore."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from api import auth
from ledger import accounts, db, reports
from ledger.offers import Capability
from pixeltoll import postgres
from tasks import catalog, claims, registration, routing, sweeps
from tasks.settings import TaskSettings
from tests import shell
from tests.databases import ReusedDatabase, administer
from tests.documented import DOCUMENTED_MODELS, DOCUMENTED_PRICES
from tests.integration.pixeltoll.helpers import Operator, outputs
from tests.stage import TEXT, Stage
from tests.support import APPLICATION, OWNER, Servers

DOCS = Path(__file__).parents[3] / "docs"
MODEL = "stabilityai/stable-diffusion-xl-base-1.0"
# What the pages name, and every test has another of.
JOB = "01980a6e-2c40-7d7e-9f2b-0b6a2d1f6c11"
GATEWAY_KEY, ORCHESTRATOR_KEY = "3l6kpcx5l9pk", "8w2m4q6s0tdf"
PAGES = (
    "how-to/add-a-gpu.md",
    "how-to/add-a-model.md",
    "how-to/change-prices.md",
    "how-to/explain-a-charge.md",
    "how-to/livepeer.md",
    "how-to/rotate-keys.md",
    "how-to/upgrade.md",
    "operations.md",
)


@dataclass(frozen=True)
class Shop:
    """Books with the gateway and the orchestrator that the pages speak of."""

    operator: Operator
    stage: Stage
    charged: UUID
    known: Mapping[str, str]

    def follow(self, page: str) -> dict[str, str]:
        """Run every command of a page; return what each said, by its first two words."""
        said = {}
        for line in shell.commands(page):
            program, *arguments = shlex.split(line)
            if program == "pixeltoll":
                given = [self.known.get(argument, argument) for argument in arguments]
                said[" ".join(arguments[:2])] = self.operator.run(*given)
        return said

    def select(self, query: str, job: UUID) -> list[Mapping[str, object]]:
        with self.stage.sessions.begin() as session:
            rows = session.execute(text(query.replace(":'job'", f"'{job}'")))
            return [dict(row) for row in rows.mappings()]


def first_rows() -> tuple[str, str]:
    """Return the page of operations as the part that makes the first rows, and the rest."""
    before, _, after = read("operations.md").partition("## First rows")
    first, mark, later = after.partition("A price is in")
    assert mark
    return first, before + later


def read(page: str) -> str:
    return (DOCS / page).read_text("utf-8")


def queries(page: str) -> list[str]:
    return re.findall(r"^```sql\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)


@pytest.fixture
def shop(
    operator: Operator,
    session_factory: sessionmaker[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    monkeypatch.chdir(tmp_path)
    Path("aiModels.json").write_text(DOCUMENTED_MODELS, "utf-8")
    Path("capabilities_prices.json").write_text(DOCUMENTED_PRICES, "utf-8")
    for line in shell.commands(first_rows()[0]):
        operator.run(*shlex.split(line)[1:])
    with session_factory.begin() as session:
        gateway = accounts.find_gateway(session, "studio")
        owner = accounts.find_orchestrator(session, "acme")
        known = {
            GATEWAY_KEY: auth.list_keys(session, gateway.id)[0].id,
            ORCHESTRATOR_KEY: registration.list_keys(session, owner.id)[0].id,
        }
    stage = Stage(session_factory, TaskSettings(), catalog.load(None), gateway.id, owner.id)
    job = stage.submit(model_id=MODEL)
    queue = routing.queue_name(Capability(TEXT, MODEL), "acme")
    with session_factory.begin() as session:
        [claimed] = claims.claim(session, queue, "w", 1, 30)
        assert claims.succeed(session, {(job.id, claimed.attempt): outputs(claimed)})
    return Shop(operator, stage, job.id, {JOB: str(job.id), **known})


def test_the_page_of_operations(shop: Shop) -> None:
    said = shop.follow(first_rows()[1])

    assert "The books are sound" in said["ledger check"]
    assert "reversed" in said["payout list"]
    assert str(shop.charged) in said["statement studio"]
    assert MODEL in Path("charges.csv").read_text("utf-8")
    assert Path("spend.png").stat().st_size > 10_000


def test_every_page_with_commands_is_followed() -> None:
    with_commands = {
        str(page.relative_to(DOCS))
        for page in DOCS.rglob("*.md")
        if any(line.startswith("pixeltoll ") for line in shell.commands(page.read_text("utf-8")))
    }
    elsewhere = {"tutorial.md", "how-to/restore.md", "reference/models.md"}

    assert with_commands - elsewhere == set(PAGES)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "operations.md"])
def test_the_commands_of_a_how_to_page(shop: Shop, page: str) -> None:
    said = shop.follow(read(page))

    assert said
    assert "The books are sound" in shop.operator.run("ledger", "check")


# --- SQL --------------------------------------------------------------------------------------


def test_the_queries_explain_a_charge_to_who_may_see_the_views_only(shop: Shop) -> None:
    sentence, steps, journal = queries("how-to/explain-a-charge.md")
    with shop.stage.sessions.begin() as session:
        [entry] = [row for row in reports.rows(session, "charges") if row["job_id"]]

    [explained] = shop.select(sentence, shop.charged)
    [step] = shop.select(steps, shop.charged)
    moved = shop.select(journal, shop.charged)

    assert f"{entry['units']} pixels of {MODEL} by acme" in str(explained["explanation"])
    assert step["exactly"] == step["amount"] == entry["amount"]
    assert [row["kind"] for row in moved] == ["hold"] * 2 + ["capture"] * 3
    for query in (sentence, steps, journal):
        assert set(re.findall(r"(?:FROM|JOIN) (\w+)", query)) <= {
            one.view for one in reports.REPORTS.values()
        }


def test_the_queries_find_a_stuck_job(shop: Shop) -> None:
    one, serving, waiting, running = queries("how-to/stuck-jobs.md")
    stuck = shop.stage.submit(model_id=MODEL)
    shop.stage.execute(
        "UPDATE jobs SET available_at = now() - interval '1 hour' WHERE state = 'queued'"
    )

    [row] = shop.select(one, stuck.id)
    assert (row["state"], row["attempt"]) == ("queued", 0)
    assert shop.select(serving, stuck.id) == []
    [queue] = shop.select(waiting, stuck.id)
    assert (queue["jobs"], queue["attempts"]) == (1, 0)
    assert shop.select(running, stuck.id) == []


# --- a restore --------------------------------------------------------------------------------


@pytest.fixture
def restored(servers: Servers) -> Iterator[str]:
    """The name of the database that the page restores into."""
    yield "restored"
    administer(servers, "DROP DATABASE IF EXISTS restored WITH (FORCE)")
    administer(servers, "DROP ROLE IF EXISTS let_in")


def test_a_restored_database_is_sound_and_its_jobs_go_on(
    shop: Shop, servers: Servers, reused_database: ReusedDatabase, restored: str, tmp_path: Path
) -> None:
    running, queued = (shop.stage.submit(model_id=MODEL) for _ in range(2))
    queue = routing.queue_name(Capability(TEXT, MODEL), "acme")
    with shop.stage.sessions.begin() as session:
        claims.claim(session, queue, "w", 1, lease_s=0)
    with reused_database.owners_engine.begin() as connection:
        # As if the old server had had more transactions than the new one.
        connection.execute(
            text(
                "INSERT INTO balance_snapshots (account_id, horizon, debit, credit, postings)"
                " SELECT id, 1000000000000, 0, 7, 1 FROM accounts"
            )
        )
    tools = postgres._postgres_binaries()
    ours = servers.database(restored).replace(f"//{OWNER}@", "//let_in:secret@")

    said = shell.run(
        shell.commands(read("how-to/restore.md")),
        tmp_path,
        PATH=f"{tools}:{os.environ['PATH']}",
        OWNER_URL=reused_database.url.replace(f"//{APPLICATION}@", f"//{OWNER}@"),
        SERVER_URL=servers.database("postgres"),
        RESTORED_URL=servers.database(restored),
        SERVICE_URL=ours,
    )

    assert "The books are sound" in said[-1]
    with psycopg.connect(servers.database(restored)) as owners:
        assert owners.execute("SELECT FROM balance_snapshots").fetchall() == []
    engine = db.make_engine(ours)
    sessions = db.session_factory(engine)
    stage = replace(shop.stage, sessions=sessions)
    with sessions.begin() as session:
        assert [bell.job_id for bell in sweeps.reclaim_lost(session, 3)] == [running.id]
    stage.heartbeat(queues=[queue])
    with sessions.begin() as session:
        assert [bell.queue for bell in sweeps.forgotten(session, after_s=-1)] == [queue]
    assert stage.states([running, queued]) == ["queued", "queued"]
    engine.dispose()
