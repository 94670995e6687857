"""`pixeltoll doctor` on real servers: what is well is said so, and what is not, with what to do."""

from __future__ import annotations

import sys
import time
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

import tasks.engine
from ledger.db import make_engine
from pixeltoll import doctor
from pixeltoll.embedded import free_port
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests.databases import as_owner
from tests.integration.pixeltoll.helpers import Operator
from tests.stage import Stage

CHECKS = [
    *("versions", "database", "migrations", "clock", "rights", "workers", "scheduler", "broker"),
    *("storage", "gpu"),
]


def gpu(name: str, error: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(name=name, memory_bytes=139 * 2**30, free_bytes=100 * 2**30, error=error)


def machine(cuda: str | None, *devices: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(torch="2.13.0", cuda=cuda, devices=devices)


@pytest.fixture
def settings(task_settings: TaskSettings, store: ObjectStore) -> TaskSettings:
    return task_settings


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What the machine has, to be changed by a test: the real `devices` loads torch."""
    found = [machine("13.0", gpu("NVIDIA H200"))]
    module = SimpleNamespace(look=lambda: found[0])
    monkeypatch.setitem(sys.modules, "tasks.engine.devices", module)
    monkeypatch.setattr(tasks.engine, "devices", module, raising=False)
    return found


def examined(url: str, settings: TaskSettings) -> dict[str, doctor.Finding]:
    return {one.check: one for one in doctor.examine(url, settings)}


def test_what_is_well_is_said_so(
    operator: Operator,
    stage: Stage,
    settings: TaskSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage.heartbeat()
    for name in ("redis_url", "s3_endpoint", "s3_bucket", "s3_access_key_id"):
        monkeypatch.setenv(name.upper(), getattr(settings, name))
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", settings.s3_secret_access_key.get_secret_value())
    rows = operator.rows("doctor")
    assert [(row["check"], row["state"]) for row in rows] == [(name, "ok") for name in CHECKS]
    said = operator.run("doctor")
    assert "NVIDIA H200, 100 of 139 GiB free" in said
    # What it writes to try, it takes away.
    assert list(ObjectStore.from_settings(settings).list("")) == []

    monkeypatch.setenv("REDIS_URL", f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("S3_BUCKET", "nowhere")
    ended = operator.ended("doctor", status=3)
    assert "correct REDIS_URL" in ended.stdout
    assert "pixeltoll bootstrap" in ended.stdout
    assert "hunter2" not in ended.stdout + ended.stderr


def test_a_database_that_is_away_is_the_first_thing_to_mend(settings: TaskSettings) -> None:
    found = examined(f"postgresql://me:hunter2@127.0.0.1:{free_port()}/x", settings)
    assert list(found) == ["versions", "database", "broker", "storage", "gpu"]
    assert (found["database"].state, found["broker"].state) == ("wrong", "ok")
    assert "DATABASE_URL" in found["database"].advice
    assert "hunter2" not in found["database"].found


@pytest.mark.parametrize(
    ("revision", "advice"),
    [("0001_ledger", "pixeltoll db upgrade"), ("9999_later", "the release that upgraded")],
)
def test_a_schema_of_another_release(
    session_factory: sessionmaker[Session],
    database_url: str,
    settings: TaskSettings,
    revision: str,
    advice: str,
) -> None:
    change = text("UPDATE alembic_version SET version_num = :revision")
    with as_owner(session_factory) as session:
        before = session.scalar(text("SELECT version_num FROM alembic_version"))
        session.execute(change, {"revision": revision})
    found = examined(database_url, settings)
    with as_owner(session_factory) as session:
        session.execute(change, {"revision": before})
    assert found["migrations"].state == "wrong"
    assert advice in found["migrations"].advice
    assert "workers" not in found


def test_work_that_nobody_does(stage: Stage, database_url: str, settings: TaskSettings) -> None:
    stage.submit("overdue")
    stage.execute("UPDATE jobs SET deadline = now() - interval '2 minutes'")
    found = examined(database_url, settings)
    assert (found["scheduler"].state, found["workers"].state) == ("wrong", "warning")
    assert "pixeltoll scheduler" in found["scheduler"].advice
    assert "pixeltoll worker" in found["workers"].advice


@pytest.mark.parametrize(("ahead_s", "state"), [(1, "ok"), (-60, "warning"), (900, "wrong")])
def test_a_clock_that_is_off(
    database_url: str,
    settings: TaskSettings,
    monkeypatch: pytest.MonkeyPatch,
    ahead_s: float,
    state: str,
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead_s)
    engine = make_engine(database_url)
    assert doctor._clock(engine).state == state
    engine.dispose()


def test_rights_that_are_too_many(
    session_factory: sessionmaker[Session], settings: TaskSettings
) -> None:
    url = session_factory.kw["bind"].url.set(username="pixeltoll", drivername="postgresql")
    found = examined(url.render_as_string(hide_password=False), settings)
    assert found["rights"].state == "warning"
    assert "pixeltoll_app" in found["rights"].advice


@pytest.mark.parametrize(
    ("facts", "state", "advice"),
    [
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 1000}, "wrong", "noeviction"),
        ({"maxmemory": 1000, "used_memory": 900, "aof_enabled": 1}, "warning", "more memory"),
        ({"aof_enabled": 0}, "warning", "appendonly yes"),
        ({"aof_enabled": 1, "aof_last_write_status": "err"}, "wrong", "disk"),
        ({"aof_enabled": 1, "redis_version": "6.0.16"}, "wrong", "6.2 or later"),
        ({"aof_enabled": 1, "redis_version": "7.2.4", "valkey_version": "8.1"}, "ok", ""),
    ],
)
def test_a_broker_that_would_lose_messages(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], state: str, advice: str
) -> None:
    monkeypatch.setattr(redis.Redis, "info", lambda *_: facts)
    found = doctor._broker("redis://127.0.0.1:1/0")
    assert found.state == state
    assert advice in found.advice


@pytest.mark.parametrize(
    ("there", "state", "said"),
    [
        (machine("13.0"), "warning", "driver"),
        (machine(None), "warning", "PyPI"),
        (machine("13.0", gpu("H200", "uncorrectable")), "wrong", "reset"),
    ],
)
def test_a_machine_without_a_good_gpu(
    seen: list[SimpleNamespace], there: SimpleNamespace, state: str, said: str
) -> None:
    seen[0] = there
    found = doctor._gpu()
    assert found.state == state
    assert said in found.advice


def test_a_library_that_is_too_old_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [
        *("celery>=99", "no-such-thing>=1", "alembic>=1", "redis>=99; sys_platform == 'none'"),
        # Of an extra, what is there must fit, and what is not there is not missed.
        *("torch>=99; extra == 'worker'", "no-such-driver>=1; extra == 'worker'"),
        "pytest>=99; extra == 'dev'",
    ]
    monkeypatch.setattr(metadata, "requires", lambda _name: needed)
    found = doctor._versions()
    assert found.state == "wrong"
    assert found.found.startswith("celery 5.")
    assert "no-such-thing none, not >=1" in found.found
    said = [one.split()[0] for one in found.found.split("; ")]
    assert said == ["celery", "no-such-thing", "torch"]
