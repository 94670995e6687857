"""Connections: a pooled one that died while idle is replaced before anybody notices."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from ledger import db


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
