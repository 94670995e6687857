"""What the scheduler tells of the database: right numbers, and none where it does not answer."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.orm import sessionmaker

from ledger import offers
from ledger.db import make_engine
from ledger.offers import Capability
from tasks.gauges import DatabaseCollector
from tasks.inventory import EngineCollector
from tests.fakes import FakeEngine
from tests.stage import IMAGE, OTHER, OWNER, SMALL, TEXT, UNLOADABLE, Stage, queue

OFFERED = [
    (queue(model_id, pipeline), model_id)
    for model_id in (SMALL, OTHER, UNLOADABLE)
    for pipeline in (TEXT, IMAGE)
]


def values(collector: DatabaseCollector | EngineCollector) -> dict[tuple[str, ...], float]:
    """What is measured, by its name and the values of its labels."""
    registry = CollectorRegistry()
    registry.register(collector)
    return {
        (sample.name.removeprefix("pixeltoll_"), *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_queues_states_holds_and_workers_are_counted(stage: Stage) -> None:
    for _ in range(3):
        stage.submit()
    waits = stage.submit(model_id=OTHER)
    stage.execute(
        "UPDATE jobs SET available_at = now() - interval '1 hour' WHERE id = :id", id=waits.id
    )
    [claimed] = stage.claim(1)
    stage.cancel(claimed)
    stage.claim(1)
    stage.heartbeat()

    found = values(DatabaseCollector(stage.sessions))

    oldest_s = {key[1]: found.pop(key) for key in list(found) if key[0] == "queue_oldest_seconds"}
    assert 3600 <= oldest_s[queue(OTHER)] < 3700
    assert 0 <= oldest_s[queue(SMALL)] < 60
    assert sum(map(bool, oldest_s.values())) == 2
    empty: dict[tuple[str, ...], float] = {("queue_depth", *labels): 0 for labels in OFFERED}
    assert found == {
        **empty,
        ("queue_depth", queue(OTHER), OTHER): 1,
        ("queue_depth", queue(SMALL), SMALL): 1,
        ("jobs_running",): 1,
        ("recent_jobs", "queued"): 2,
        ("recent_jobs", "running"): 1,
        ("recent_jobs", "canceled"): 1,
        ("open_holds",): 3,
        ("live_workers", OWNER): 1,
    }


def test_a_queue_in_which_nothing_waits_is_0_while_its_offer_holds(stage: Stage) -> None:
    def lengths() -> dict[tuple[str, ...], float]:
        found = values(DatabaseCollector(stage.sessions))
        return {key: value for key, value in found.items() if key[0].startswith("queue_")}

    kinds = ("queue_depth", "queue_oldest_seconds")
    assert lengths() == {(kind, *labels): 0 for kind in kinds for labels in OFFERED}
    with stage.sessions.begin() as session:
        offers.withdraw(session, offers.live_for(session, Capability(TEXT, OTHER))[0])
    assert {key[1] for key in lengths()} == {name for name, _ in OFFERED} - {queue(OTHER)}


def test_a_worker_that_went_silent_does_not_count(stage: Stage) -> None:
    stage.heartbeat()
    stage.execute("UPDATE workers SET heartbeat_at = now() - interval '1 hour'")

    assert values(DatabaseCollector(stage.sessions))["live_workers", OWNER] == 0


def test_without_the_database_there_are_no_numbers() -> None:
    away = sessionmaker(make_engine("postgresql://127.0.0.1:1/none"))

    assert values(DatabaseCollector(away)) == {}


def test_reading_changes_nothing_and_leaves_no_transaction(stage: Stage) -> None:
    stage.submit()
    values(DatabaseCollector(stage.sessions))

    with stage.sessions.begin() as session:
        idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
        assert session.scalar(text(idle)) == 0


def test_an_engine_says_what_it_has_in_memory() -> None:
    engine = FakeEngine()
    engine._loaded = (SMALL, OTHER)

    assert values(EngineCollector(engine)) == {
        ("model_loaded", SMALL): 1,
        ("model_loaded", OTHER): 1,
    }
