"""The market of `tests.stage`, on a database and in a bucket that are empty before each test.

These tests are many, so the S3 client is made once: it takes its time to warm up.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog.testing
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker

from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests import stage as stages
from tests.fakes import MoodyStore
from tests.integration.tasks.post import Post, Receiver
from tests.stage import Stage
from tests.support import Servers
from tests.web import Web, serving


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Log nowhere: drawing a traceback for a terminal takes longer than most of these tests."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def stage(
    session_factory: sessionmaker[Session], task_settings: TaskSettings, tmp_path: Path
) -> Stage:
    settings = task_settings.model_copy(update={"retry_delay_s": 0.0})
    return stages.furnish(session_factory, settings, stages.write_catalog(tmp_path / "c.toml"))


@pytest.fixture(scope="session")
def any_store(servers: Servers) -> ObjectStore:
    return ObjectStore.from_settings(
        TaskSettings(
            s3_endpoint=servers.s3_endpoint,
            s3_access_key_id=servers.s3_access_key_id,
            s3_secret_access_key=SecretStr(servers.s3_secret_access_key),
        )
    )


@pytest.fixture
def store(any_store: ObjectStore, task_settings: TaskSettings) -> ObjectStore:
    """An empty bucket."""
    store = ObjectStore(any_store._client, task_settings.s3_bucket)
    store.ensure_bucket()
    return store


@pytest.fixture
def moody_store(any_store: ObjectStore, task_settings: TaskSettings) -> MoodyStore:
    """An empty bucket, in a store that a test can take down."""
    store = MoodyStore(any_store._client, task_settings.s3_bucket)
    store.ensure_bucket()
    return store


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def web(receiver: Receiver) -> Iterator[Web]:
    """A server that is the receiver."""
    with serving(receiver) as found:
        yield found


@pytest.fixture
def post(stage: Stage, web: Web) -> Post:
    """A webhook of the stage's gateway, which leads to the receiver."""
    return Post(stage, web)
