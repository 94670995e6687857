"""Real servers for the tests: one of each kind a session, with fresh content for each test.

A test that asks for none of these fixtures starts nothing.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from alembic import command
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from ledger.db import session_factory as make_session_factory
from pixeltoll import embedded, postgres
from pixeltoll.migrate import alembic_config
from pixeltoll.state import random_key
from pixeltoll.supervisor import Supervisor
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests.databases import ReusedDatabase, administer
from tests.support import APPLICATION, Servers

_TEMPLATE = "migrated"
_REDIS_DATABASES = 16
_numbers = itertools.count(1)
# A core for each process of tests, and for what it starts: torch's threads would wait for each
# other's turns. Sums come out the same.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    # Not pytest's own folder: its path would be too long for a socket.
    data_dir = Path(tempfile.mkdtemp(prefix="pixeltoll-tests-")).resolve()
    supervisor = Supervisor(data_dir / "logs", say=print)
    try:
        secret = random_key()
        database = postgres.server(data_dir, durable=False)
        broker = embedded.redis_server(data_dir, secret)
        objects = embedded.s3_server(data_dir, "pixeltoll", secret, "pixeltoll")
        for server in (database, broker, objects):
            supervisor.start(server.child)
        yield Servers(
            database_url=database.url,
            redis_url=broker.url,
            s3_endpoint=objects.url,
            s3_access_key_id="pixeltoll",
            s3_secret_access_key=secret,
        )
    finally:
        supervisor.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def migrated(servers: Servers) -> str:
    """The name of a database with the newest schema and no rows: the template of all others."""
    administer(servers, f"CREATE DATABASE {_TEMPLATE}")
    command.upgrade(alembic_config(servers.database(_TEMPLATE)), "head")
    administer(servers, f"CREATE ROLE {APPLICATION} LOGIN IN ROLE pixeltoll_app")
    return _TEMPLATE


@pytest.fixture(scope="session")
def reused_database(servers: Servers, migrated: str) -> Iterator[ReusedDatabase]:
    reused = ReusedDatabase(servers, migrated)
    yield reused
    reused.drop()


@pytest.fixture
def database_url(reused_database: ReusedDatabase) -> str:
    """A migrated database without rows, for this test alone, as the application may use it."""
    reused_database.clear()
    return reused_database.url


@pytest.fixture
def engine(reused_database: ReusedDatabase, database_url: str) -> Engine:
    return reused_database.engine


@pytest.fixture
def session_factory(engine: Engine) -> sessionmaker[Session]:
    return make_session_factory(engine)


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """An empty logical database. Tests take turns with the sixteen that a server has."""
    url = servers.redis(next(_numbers) % _REDIS_DATABASES)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def task_settings(servers: Servers, redis_url: str) -> TaskSettings:
    """The settings of this test's broker and of a bucket of its own, which `store` makes."""
    return TaskSettings(
        redis_url=redis_url,
        s3_endpoint=servers.s3_endpoint,
        s3_bucket=f"test-{next(_numbers)}",
        s3_access_key_id=servers.s3_access_key_id,
        s3_secret_access_key=SecretStr(servers.s3_secret_access_key),
    )


@pytest.fixture
def store(task_settings: TaskSettings) -> ObjectStore:
    """An empty bucket."""
    store = ObjectStore.from_settings(task_settings)
    store.ensure_bucket()
    return store
