"""Pins that the schema goes up, down, and up again, and that the ORM rows are the same schema."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory

from pixeltoll.migrate import alembic_config, upgrade
from tests.support import Servers

# What anybody can see of a schema, in one text for each thing.
DESCRIPTION = """
    SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable
           || ' ' || coalesce(column_default, '')
      FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL
    SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
      FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT 'function ' || pg_get_functiondef(oid)
      FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'view ' || viewname || ' ' || definition FROM pg_views WHERE schemaname = 'public'
    ORDER BY 1
"""


@pytest.fixture
def empty_database(servers: Servers) -> Iterator[str]:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE from_nothing")
        yield servers.database("from_nothing")
        connection.execute("DROP DATABASE from_nothing WITH (FORCE)")


def describe(database_url: str) -> list[str]:
    with psycopg.connect(database_url) as connection:
        return [row[0] for row in connection.execute(DESCRIPTION)]


def test_up_down_and_up_again(empty_database: str) -> None:
    config = alembic_config(empty_database)
    nothing = describe(empty_database)

    command.upgrade(config, "head")
    first = describe(empty_database)
    command.check(config)
    command.downgrade(config, "base")
    left = [thing for thing in describe(empty_database) if "alembic_version" not in thing]
    moved: list[tuple[int, int]] = []
    upgrade(empty_database, lambda *at: moved.append(at))

    assert (nothing, left) == ([], [])
    assert moved == [(done, len(moved)) for done in range(1, len(moved) + 1)]
    assert len(moved) == len(list(ScriptDirectory.from_config(config).walk_revisions()))
    assert describe(empty_database) == first
    assert len([thing for thing in first if thing.startswith("trigger ")]) > 1


def test_every_step_down_can_be_gone_up(empty_database: str) -> None:
    config = alembic_config(empty_database)
    command.upgrade(config, "head")
    seen = []
    while version := _version(empty_database):
        seen.append(version)
        command.downgrade(config, "-1")
        command.upgrade(config, "+1")
        command.downgrade(config, "-1")
    assert seen[-1] == "0001_ledger"
    assert seen == sorted(seen, reverse=True)


def _version(database_url: str) -> str | None:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else None


def test_migrators_take_turns(empty_database: str) -> None:
    with ThreadPoolExecutor(1) as pool, psycopg.connect(empty_database) as other:
        other.execute("SELECT pg_advisory_lock(7300001)")
        started = pool.submit(upgrade, empty_database)
        with pytest.raises(TimeoutError):
            started.result(timeout=0.5)
        other.execute("SELECT pg_advisory_unlock(7300001)")
        started.result(timeout=60)
    assert _version(empty_database) is not None
