"""The declarative base with its constraint names, and the factories of engines and sessions.

Nothing is built at import: composition roots call `make_engine` once per process.
"""

from __future__ import annotations

import time
from typing import TypeVar

from sqlalchemy import Engine, MetaData, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import (
    DeclarativeBase,
    Session,
    make_transient_to_detached,
    sessionmaker,
)
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

# A pooled connection that was used this recently is taken to be alive.
_TRUSTED_S = 1.0

# Every constraint has a name of its own, so that a migration can drop it and an error can be told
# from another.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Parent of the rows of all floors."""

    metadata = MetaData(naming_convention=NAMING)


Known = TypeVar("Known", bound=Base)


def known(entity: type[Known], **columns: object) -> Known:
    """Return a row that is in the database, of columns that need not be read; it has no session.

    They are set as loading sets them, for nothing has changed. The constructor takes ten times as
    long, because it watches for changes.
    """
    row = entity()
    vars(row).update(columns)
    make_transient_to_detached(row)
    return row


def make_engine(database_url: str, *, pool_size: int = 10, autocommit: bool = False) -> Engine:
    """Build an engine for a plain `postgresql://` URL. It connects when first used.

    Timeouts keep one stuck peer from stopping the house: a lock is waited for at most 5 s, a
    statement runs at most 30 s, a transaction that does nothing for 60 s loses its locks, and a
    dead connection is noticed by TCP keepalives, or by what is sent to it and never acknowledged.
    Whatever the server's default, a statement sees what was committed before it: who waited for a
    lock has to see why. Errors do not show their parameters: a prompt may be among them.
    Connections are opened when they are needed, `pool_size` of them at most, and kept; who finds
    none waits for one.

    `autocommit`: connections commit each statement by itself until told otherwise. To tell one, and
    to take it back, costs more than many a statement, so that it is for whom it is the usual.
    """
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    engine = create_engine(
        url,
        # No overflow: what is opened beyond a pool is closed after each use, and opening a
        # connection costs PostgreSQL a process. Under load, that was a third of all submissions.
        pool_size=pool_size,
        max_overflow=0,
        # The one that was used last: what it has planned is at hand, and the others may rest.
        pool_use_lifo=True,
        pool_recycle=1800,
        hide_parameters=True,
        isolation_level="AUTOCOMMIT" if autocommit else None,
        skip_autocommit_rollback=True,
        connect_args={
            "connect_timeout": 5,
            "options": "-c lock_timeout=5s -c statement_timeout=30s "
            "-c idle_in_transaction_session_timeout=60s -c timezone=UTC "
            r"-c default_transaction_isolation=read\ committed",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
        },
    )
    _ping_when_idle(engine)
    return engine


def _ping_when_idle(engine: Engine) -> None:
    """Try a pooled connection before it is used, unless it was in use a moment ago.

    SQLAlchemy's own pre-ping tries every time, at a round trip for each of a request's connections.
    """

    def note(_connection: DBAPIConnection, record: ConnectionPoolEntry | None) -> None:
        if record is not None:
            record.info["used_at"] = time.monotonic()

    def ping(
        connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection
    ) -> None:
        used_at = record.info.get("used_at")
        if used_at is None or time.monotonic() - used_at < _TRUSTED_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            # The pool answers this by connecting anew.
            raise DisconnectionError(str(error)) from error

    event.listen(engine, "checkin", note)
    event.listen(engine, "checkout", ping)


def session_factory(engine: Engine) -> sessionmaker[Session]:
    """Return the factory of sessions.

    The caller owns the transaction: `with factory.begin() as session`.
    """
    return sessionmaker(engine, expire_on_commit=False)
