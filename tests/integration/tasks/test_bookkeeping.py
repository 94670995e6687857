"""The scheduler's chores of the books: rates are recorded, balances kept, and faults told."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from structlog.testing import capture_logs
from structlog.typing import EventDict

from ledger import snapshots
from ledger.audit import CHECKS
from ledger.feeds import FileFeed
from tasks import bookkeeping, chores
from tasks.audit import CHECKS as CHECKS_OF_JOBS
from tasks.bookkeeping import Bookkeeper
from tests.databases import as_owner
from tests.stage import Stage


def audited(stage: Stage) -> list[EventDict]:
    with capture_logs() as said:
        Bookkeeper(stage.sessions, None).audit()
    return said


def test_sound_books_are_audited_without_a_finding(stage: Stage) -> None:
    stage.submit("a cat")
    (line,) = audited(stage)
    assert (line["event"], line["findings"]) == ("books_audited", 0)


def test_what_is_wrong_is_told_with_its_rows_and_no_prompt(stage: Stage) -> None:
    job = stage.submit("a secret prompt")
    with as_owner(stage.sessions) as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("UPDATE accounts SET balance = balance + 1 WHERE balance > 0"))
        session.execute(text("UPDATE jobs SET state = 'failed', finished_at = now()"))

    balance, unfinished, line = audited(stage)

    assert {one["log_level"] for one in (balance, unfinished)} == {"error"}
    assert "balance" in balance["check"]
    assert balance["rows"][0]["kind"] == "available"
    assert unfinished["rows"][0]["job_id"] == str(job.id)
    assert "secret" not in repr((balance, unfinished))
    assert line["findings"] == 2


def test_funds_that_are_held_for_no_job_are_found(stage: Stage) -> None:
    job = stage.submit("a cat")
    stage.execute("DELETE FROM jobs")
    found, _ = audited(stage)
    assert found["check"] == "an open hold that no job has"
    assert found["rows"][0]["reference"] == str(job.id)


def test_what_the_last_audit_found_is_a_metric(stage: Stage) -> None:
    def counted() -> dict[str, float | None]:
        audited(stage)
        return {
            check: REGISTRY.get_sample_value("pixeltoll_audit_findings", {"check": check})
            for check in (*CHECKS, *CHECKS_OF_JOBS)
        }

    stage.submit("a cat")
    sound = counted()
    stage.execute("DELETE FROM jobs")
    unsound = counted()

    assert set(sound.values()) == {0}
    assert {check for check, rows in unsound.items() if rows} == {"an open hold that no job has"}


def test_only_one_process_audits_at_a_time_and_says_when(stage: Stage) -> None:
    def done_at() -> float:
        return REGISTRY.get_sample_value("pixeltoll_audit_done_timestamp_seconds") or 0

    began_at, before = time.time(), done_at()
    with stage.sessions.begin() as session:
        session.execute(bookkeeping._TRY_LOCK, {"key": bookkeeping._AUDIT_LOCK})
        assert audited(stage) == []
    assert done_at() == before
    assert len(audited(stage)) == 1
    assert began_at <= done_at() <= time.time()


def test_rates_of_a_file_are_recorded_once(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "rates.json"
    file.write_text(json.dumps([{"base": "ETH", "quote": "USD", "rate": "2000.5"}]))
    keeper = Bookkeeper(stage.sessions, FileFeed(file))
    for _ in range(2):
        keeper.refresh_rates()
    assert stage.scalar("SELECT count(*) || ' at ' || min(rate)::real FROM exchange_rates") == (
        "1 at 2000.5"
    )


def test_a_feed_that_cannot_be_read_is_told_and_stops_nothing(stage: Stage, tmp_path: Path) -> None:
    keeper = Bookkeeper(stage.sessions, FileFeed(tmp_path / "missing.json"))
    with capture_logs() as said:
        chores.attempt(keeper.refresh_rates)
        chores.attempt(keeper.audit)
    failed, done = said
    assert (failed["event"], failed["chore"]) == ("chore_failed", "refresh_rates")
    assert "missing.json" in failed["error"]
    assert not failed["exc_info"]
    assert done["event"] == "books_audited"


def test_balances_of_busy_accounts_are_snapshot(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "take", partial(snapshots.take, min_tail=1))
    stage.submit("a cat")
    Bookkeeper(stage.sessions, None).take_snapshots()
    assert stage.scalar("SELECT count(*) > 0 FROM balance_snapshots")
