"""The API over real servers: PostgreSQL, Valkey and S3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from api.runtime import assemble
from api.settings import ApiSettings
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests.integration.api import world as worlds
from tests.integration.api.conformance import CheckedClient
from tests.integration.api.world import World

MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(
    engine: Engine,
    session_factory: sessionmaker[Session],
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
        asked = {"admin_key": SecretStr(worlds.ADMIN_KEY), "max_body_bytes": worlds.MAX_BODY_BYTES}
        api_settings = ApiSettings().model_copy(update={**asked, **settings})
        broker = task_settings.model_copy(update={"redis_url": redis_url})
        runtime = assemble(
            engine, lambda: store or open_store(), worlds.CATALOG, api_settings, broker, "USD"
        )
        app = create_app(runtime)
        app.test_client_class = CheckedClient
        return World(app, runtime, session_factory, redis_url, *worlds.furnish(session_factory))

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()
