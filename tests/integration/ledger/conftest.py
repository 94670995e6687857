"""Books to test: of a test's own, or shared by the tests of a module."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from ledger.db import make_engine
from ledger.db import session_factory as make_session_factory
from tests.databases import ReusedDatabase
from tests.integration.ledger.helpers import Book, new_book
from tests.support import Servers

_numbers = itertools.count(1)


@pytest.fixture
def engine(reused_database: ReusedDatabase, database_url: str) -> Engine:
    """An engine of the owner of the books, who finds that the rules hold for him, too."""
    return reused_database.owners_engine


@pytest.fixture
def book(session_factory: sessionmaker[Session]) -> Book:
    """Books with one gateway that has no funds yet, and one orchestrator with a fee rate of 10%."""
    return new_book(session_factory)


@pytest.fixture
def shared_book(shared_sessions: sessionmaker[Session]) -> Book:
    """As `book`, but with others in the same database: for tests that count nothing of theirs."""
    return new_book(shared_sessions, f"north-{next(_numbers)}")


@pytest.fixture(scope="module")
def shared_sessions(servers: Servers, migrated: str) -> Iterator[sessionmaker[Session]]:
    """A database for all tests of a module: for those that leave nothing behind."""
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE shared TEMPLATE {migrated}".encode())
        engine = make_engine(servers.database("shared"), pool_size=40)
        yield make_session_factory(engine)
        engine.dispose()
        connection.execute(b"DROP DATABASE shared WITH (FORCE)")
