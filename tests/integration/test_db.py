"""Connections: a pooled one that died while idle is replaced before anybody notices."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from ledger import db
from ledger.direct import Direct


def _backend(engine: Engine) -> int:
    with engine.connect() as connection:
        found: int = connection.scalar(text("SELECT pg_backend_pid()"))
        return found


def _kill(engine: Engine, backend: int) -> None:
    with engine.connect() as keeper, engine.connect() as other:
        # Two at once, so that one of them is not the backend that is to die.
        for connection in (keeper, other):
            if connection.scalar(text("SELECT pg_backend_pid()")) != backend:
                connection.execute(
                    text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": backend}
                )
                return


def test_replaces_a_connection_that_died_while_idle(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "_TRUSTED_S", 0.0)
    engine, killer = db.make_engine(database_url), db.make_engine(database_url)
    try:
        dead = _backend(engine)
        _kill(killer, dead)
        assert _backend(engine) != dead
    finally:
        engine.dispose()
        killer.dispose()


def test_reuses_a_connection_that_was_used_a_moment_ago(database_url: str) -> None:
    engine = db.make_engine(database_url)
    try:
        assert _backend(engine) == _backend(engine)
    finally:
        engine.dispose()


def test_who_waited_for_a_lock_sees_why_whatever_the_servers_default(database_url: str) -> None:
    engine = db.make_engine(database_url)
    try:
        with engine.connect() as connection:
            found = connection.execute(
                text("SELECT setting, source FROM pg_settings WHERE name = :name"),
                {"name": "default_transaction_isolation"},
            ).one()
        assert tuple(found) == ("read committed", "client")
    finally:
        engine.dispose()


def test_a_dead_peer_is_noticed_while_waiting_and_while_sending(database_url: str) -> None:
    engine = db.make_engine(database_url)
    try:
        with engine.connect() as connection:
            link = connection.connection.driver_connection
            assert link is not None
            asked = link.info.get_parameters()
        assert (asked["keepalives_idle"], asked["tcp_user_timeout"]) == ("30", "60000")
    finally:
        engine.dispose()


def test_errors_do_not_show_the_parameters(database_url: str) -> None:
    engine = db.make_engine(database_url)
    try:
        with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
            connection.execute(text("SELECT CAST(:prompt AS int)"), {"prompt": "x-secret"})
        assert "'prompt'" not in str(caught.value)
    finally:
        engine.dispose()


_CAST = Direct(text("SELECT CAST(:prompt AS int)"))
_WHO = Direct(text("SELECT pg_backend_pid()"))


def test_a_direct_statement_fails_as_any_other(database_url: str) -> None:
    engine = db.make_engine(database_url)
    taken = Direct(text("INSERT INTO gateways (name) VALUES (:name), (:name)"))
    try:
        with Session(engine) as session, pytest.raises(DBAPIError) as caught:
            _CAST.rows(session, {"prompt": "x-secret"})
        assert "'prompt'" not in str(caught.value)
        with Session(engine) as session, pytest.raises(IntegrityError):
            taken.rows(session, {"name": "twice"})
    finally:
        engine.dispose()


def test_a_direct_statement_that_meets_a_lost_connection_leaves_none_in_the_pool(
    database_url: str,
) -> None:
    engine, killer = db.make_engine(database_url), db.make_engine(database_url)
    try:
        with Session(engine) as session:
            [(dead,)] = _WHO.rows(session, {})
            _kill(killer, dead)
            with pytest.raises(OperationalError) as caught:
                _WHO.rows(session, {})
        assert caught.value.connection_invalidated
        with Session(engine) as session:
            assert _WHO.rows(session, {}) != [(dead,)]
    finally:
        engine.dispose()
        killer.dispose()
