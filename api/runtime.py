"""What the API works with: built once for each process, by `build`, and handed to `create_app`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import cast
from uuid import UUID

from flask import current_app, g
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from api.auth import Caller, Keyring
from api.settings import ApiSettings
from api.waiting import Waiting
from ledger import db
from ledger.settings import LedgerSettings
from tasks import catalog as catalogs
from tasks.app import make_celery
from tasks.catalog import Catalog
from tasks.dispatch import Ringer
from tasks.links import Links
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore

EXTENSION = "pixeltoll"
_PROBE_TIMEOUT_S = 2


@dataclass(frozen=True)
class Runtime:
    """The parts of a process.

    `reads` and `statements` open no transaction: each statement is one by itself, and sees what is
    committed by then. That costs one round trip to the database instead of three, and is for
    queries, and for what is written by one statement. Everything else is for `sessions`. The object
    store's client takes long to build, so that is left until somebody needs it.
    """

    sessions: sessionmaker[Session]
    reads: sessionmaker[Session]
    open_store: Callable[[], ObjectStore]
    ringer: Ringer
    ping_broker: Callable[[], None]
    catalog: Catalog
    settings: ApiSettings
    task_settings: TaskSettings
    settlement_currency: str
    max_rate_age: timedelta
    waiting: Waiting

    @property
    def statements(self) -> sessionmaker[Session]:
        """Sessions for what is written by one statement, which commits by itself."""
        return self.reads

    @cached_property
    def keyring(self) -> Keyring:
        """Whose keys are whose."""
        return Keyring(self.reads)

    @cached_property
    def store(self) -> ObjectStore:
        """The object store."""
        return self.open_store()

    @cached_property
    def links(self) -> Links:
        """What fetches pictures behind links."""
        return Links.from_settings(self.task_settings, lambda: self.store)


def assemble(
    engine: Engine,
    open_store: Callable[[], ObjectStore],
    catalog: Catalog,
    settings: ApiSettings,
    task_settings: TaskSettings,
    settlement_currency: str,
    max_rate_age: timedelta = timedelta(days=1),
) -> Runtime:
    """Put a runtime together from its outer parts. Connects to nothing.

    The engine commits each statement by itself: `db.make_engine(..., autocommit=True)`.
    """
    return Runtime(
        sessions=db.session_factory(engine.execution_options(isolation_level="READ COMMITTED")),
        reads=db.session_factory(engine),
        open_store=open_store,
        ringer=Ringer(make_celery(task_settings)),
        ping_broker=lambda: _ping(task_settings.redis_url),
        catalog=catalog,
        settings=settings,
        task_settings=task_settings,
        settlement_currency=settlement_currency,
        max_rate_age=max_rate_age,
        waiting=Waiting(engine, settings.max_waiting, settings.max_waiting_each),
    )


def build() -> Runtime:
    """Build the runtime of this process from its environment. Connects to nothing.

    Raises:
        CatalogError: The catalog cannot be read.
        pydantic.ValidationError: A setting is not valid; names it.
    """
    books = LedgerSettings()
    tasks = TaskSettings()
    return assemble(
        db.make_engine(books.database_url, pool_size=16, autocommit=True),
        lambda: ObjectStore.from_settings(tasks),
        catalogs.load(tasks.catalog),
        ApiSettings(),
        tasks,
        books.settlement_currency,
        timedelta(seconds=books.max_rate_age_s),
    )


def current() -> Runtime:
    """Return the runtime of the app that handles this request."""
    return cast("Runtime", current_app.extensions[EXTENSION])


def current_caller() -> Caller:
    """Return the gateway, and which of its keys, that this request was let in by."""
    return cast("Caller", g.caller)


def current_gateway() -> UUID:
    """Return the id of the gateway that this request was let in as."""
    return current_caller().gateway_id


def _ping(redis_url: str) -> None:
    """Return if the broker answers.

    Raises:
        redis.RedisError: It does not.
    """
    from redis import Redis

    with Redis.from_url(
        redis_url, socket_timeout=_PROBE_TIMEOUT_S, socket_connect_timeout=_PROBE_TIMEOUT_S
    ) as client:
        client.ping()
