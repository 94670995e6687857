"""One database that every test finds as new: emptied, and made anew only when its schema changed.

To make a database costs ten times as much as to empty one. It owns nothing of what tests put in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.errors import InvalidCatalogName, UndefinedTable
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from ledger.db import make_engine
from tests.support import OWNER, Servers

_NAME = "reused"
# Of anything that changes the schema, one row stays. Not in the schema that the tests look at.
_WATCH = """
    CREATE SCHEMA watched;
    CREATE TABLE watched.changes (tag text);
    CREATE FUNCTION watched.note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN INSERT INTO watched.changes VALUES (tg_tag); END $$;
    CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION watched.note();
    ALTER EVENT TRIGGER note ENABLE ALWAYS;
    TRUNCATE watched.changes
"""
_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_TABLES = """
    SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
     WHERE schemaname = 'public' AND tablename <> 'alembic_version'
"""
_RESTART = "SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence"


class ReusedDatabase:
    """A database for one test after the other, and an engine that keeps what it has compiled."""

    def __init__(self, servers: Servers, template: str) -> None:
        self._servers = servers
        self._template = template
        self._tables: list[str] = []
        self._owners_url = servers.database(_NAME)
        self.url = servers.application(_NAME)
        self.engine: Engine = make_engine(self.url, pool_size=40)
        self.api_engine: Engine = make_engine(self.url, pool_size=40, autocommit=True)
        self.owners_engine: Engine = make_engine(self._owners_url, pool_size=40)

    def clear(self) -> None:
        """Bring it back to the newest schema without rows, and throw everybody out."""
        self._disconnect()
        try:
            with psycopg.connect(self._owners_url) as connection:
                if self._is_as_made(connection):
                    self._empty(connection)
                    return
        except (InvalidCatalogName, psycopg.OperationalError):
            pass  # It is not there yet.
        self._make()

    def drop(self) -> None:
        self._disconnect()
        administer(self._servers, f"DROP DATABASE IF EXISTS {_NAME} WITH (FORCE)")

    def _disconnect(self) -> None:
        for engine in (self.engine, self.api_engine, self.owners_engine):
            engine.dispose()

    def _is_as_made(self, connection: psycopg.Connection[tuple[object, ...]]) -> bool:
        connection.execute(_OTHERS)
        try:
            return not connection.execute("SELECT FROM watched.changes LIMIT 1").fetchall()
        except UndefinedTable:
            return False

    def _empty(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        # Without the triggers, which forbid it.
        connection.execute("SET session_replication_role = replica")
        deletions = "; ".join(f"DELETE FROM {name}" for name in self._tables)
        connection.execute(deletions.encode())
        connection.execute(_RESTART)

    def _make(self) -> None:
        self.drop()
        administer(
            self._servers, f"CREATE DATABASE {_NAME} TEMPLATE {self._template} STRATEGY FILE_COPY"
        )
        with psycopg.connect(self._owners_url) as connection:
            connection.execute(_WATCH)
            self._tables = [str(name) for (name,) in connection.execute(_TABLES)]
            for name in self._tables:
                rows = connection.execute(f"SELECT FROM {name} LIMIT 1".encode()).fetchall()
                assert not rows, f"a migration fills {name}: emptying would lose that"


@contextmanager
def as_owner(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """Lend a session on the same database that may do everything, and commit what it did."""
    url = sessions.kw["bind"].url.set(username=OWNER)
    engine = make_engine(url.render_as_string(hide_password=False))
    try:
        with Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()


def administer(servers: Servers, statement: str) -> None:
    """Run a statement that no transaction may hold, such as one about a whole database."""
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(statement.encode())
