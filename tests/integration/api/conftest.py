"""The API over real servers: PostgreSQL, Valkey and S3."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from api.app import create_app
from api.runtime import assemble
from api.settings import ApiSettings
from ledger.db import make_engine
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests.databases import ReusedDatabase
from tests.integration.api import world as worlds
from tests.integration.api.conformance import CheckedClient
from tests.integration.api.world import World
from tests.support import Servers

MakeWorld = Callable[..., World]
_numbers = itertools.count(1)


def _build(
    engine: Engine,
    open_store: Callable[[], ObjectStore],
    broker: TaskSettings,
    **settings: Any,
) -> World:
    asked = {"admin_key": SecretStr(worlds.ADMIN_KEY), "max_body_bytes": worlds.MAX_BODY_BYTES}
    api_settings = ApiSettings().model_copy(update={**asked, **settings})
    runtime = assemble(engine, open_store, worlds.CATALOG, api_settings, broker, "USD")
    app = create_app(runtime)
    app.test_client_class = CheckedClient
    return World(
        app, runtime, runtime.sessions, broker.redis_url, *worlds.furnish(runtime.sessions)
    )


@pytest.fixture
def make_world(
    reused_database: ReusedDatabase,
    engine: Engine,
    task_settings: TaskSettings,
    request: pytest.FixtureRequest,
) -> MakeWorld:
    """Build a world whose API has these settings. The bucket is made when it is first used."""

    def open_store() -> ObjectStore:
        store: ObjectStore = request.getfixturevalue("store")
        return store

    def make(
        *,
        redis_url: str = task_settings.redis_url,
        store: ObjectStore | None = None,
        **settings: Any,
    ) -> World:
        broker = task_settings.model_copy(update={"redis_url": redis_url})
        return _build(reused_database.api_engine, lambda: store or open_store(), broker, **settings)

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A world of the test's own."""
    return make_world()


@pytest.fixture(scope="module")
def shared_world(servers: Servers, migrated: str) -> Iterator[World]:
    """A world for all tests of a module: for those that count nothing of each other."""
    name = f"shared_api_{next(_numbers)}"
    settings = TaskSettings(
        redis_url=servers.redis(15),
        s3_endpoint=servers.s3_endpoint,
        s3_bucket=name.replace("_", "-"),
        s3_access_key_id=servers.s3_access_key_id,
        s3_secret_access_key=SecretStr(servers.s3_secret_access_key),
    )
    store = ObjectStore.from_settings(settings)
    store.ensure_bucket()
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {migrated}".encode())
        engine = make_engine(servers.application(name), pool_size=40, autocommit=True)
        yield _build(engine, lambda: store, settings)
        engine.dispose()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
