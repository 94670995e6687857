"""The commands that the pages for operators show do what they say, one after the other."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts
from ledger.offers import Capability
from tasks import catalog, claims, routing
from tasks.settings import TaskSettings
from tests.documented import DOCUMENTED_MODELS, DOCUMENTED_PRICES
from tests.integration.pixeltoll.helpers import Operator, outputs
from tests.stage import TEXT, Stage

PAGE = Path(__file__).parents[3] / "docs" / "operations.md"
MODEL = "stabilityai/stable-diffusion-xl-base-1.0"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def commands(page: str) -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(r"^\$ pixeltoll (.*)$", page, re.MULTILINE)]


def charged_job(sessions: sessionmaker[Session], settings: TaskSettings) -> str:
    """The id of a job that the page's gateway paid its orchestrator for."""
    with sessions.begin() as session:
        gateway = accounts.find_gateway(session, "studio")
        owner = accounts.find_orchestrator(session, "acme")
    stage = Stage(sessions, settings, catalog.load(None), gateway.id, owner.id)
    job = stage.submit(model_id=MODEL)
    queue = routing.queue_name(Capability(TEXT, MODEL), "acme")
    with sessions.begin() as session:
        [claimed] = claims.claim(session, queue, "w", 1, 30)
        assert claims.succeed(session, {(job.id, claimed.attempt): outputs(claimed)})
    return str(job.id)


def test_the_page_of_operations(
    operator: Operator,
    session_factory: sessionmaker[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("aiModels.json").write_text(DOCUMENTED_MODELS, "utf-8")
    Path("capabilities_prices.json").write_text(DOCUMENTED_PRICES, "utf-8")
    page = PAGE.read_text("utf-8")
    first_rows, later = page.split("## First rows")[1].split("A price is in", 1)
    said = {}

    for arguments in commands(first_rows):
        operator.run(*arguments)
    job_id = charged_job(session_factory, TaskSettings())
    for arguments in commands(later):
        given = [UUID.sub(job_id, argument) for argument in arguments]
        said[" ".join(arguments[:2])] = operator.run(*given)

    assert "The books are sound" in said["ledger check"]
    assert "reversed" in said["payout list"]
    assert job_id in said["statement studio"]
    assert MODEL in Path("charges.csv").read_text("utf-8")
    assert Path("spend.png").stat().st_size > 10_000
