"""Alembic's entry: one transaction for each migration, one migrator at a time, never a long wait for a lock."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection, text

import api.tables
import ledger.tables
import tasks.tables  # noqa: F401  the three floors fill one metadata
from ledger.db import Base, make_engine
from ledger.settings import LedgerSettings

# Any number, the same in every process that migrates.
_ADVISORY_LOCK = 7_300_001


def _run(connection: Connection) -> None:
    connection.execute(text("SET lock_timeout = '4s'"))
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
    connection.commit()
    try:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            transaction_per_migration=True,
            compare_server_default=False,
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
        connection.commit()


def _url() -> str:
    url: Any = context.config.attributes.get("database_url")
    return str(url) if url else LedgerSettings().database_url


engine = make_engine(_url())
with engine.connect() as connection:
    _run(connection)
engine.dispose()
