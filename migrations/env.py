"""Alembic's entry: one transaction for each migration, one migrator at a time.

A migration waits for no lock longer than a few seconds: what queues up behind it would wait too.
"""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection, text

import api.tables
import ledger.tables
import tasks.tables
from ledger.db import Base, make_engine
from ledger.settings import LedgerSettings

# The three floors fill one metadata when they are imported.
_FLOORS = (ledger.tables, tasks.tables, api.tables)

# Any number, the same in every process that migrates.
_ADVISORY_LOCK = 7_300_001


def _run(connection: Connection) -> None:
    # Another migrator is waited for as long as it takes; building an index may take long, too.
    connection.execute(text("SET lock_timeout = 0"))
    connection.execute(text("SET statement_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
    connection.execute(text("SET lock_timeout = '4s'"))
    connection.commit()
    try:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            transaction_per_migration=True,
            compare_server_default=False,
            on_version_apply=context.config.attributes.get("on_version_apply", ()),
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
try:
    with engine.connect() as connection:
        _run(connection)
finally:
    engine.dispose()
