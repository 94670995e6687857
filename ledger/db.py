"""The declarative base with its constraint names, and the factories of engines and sessions.

Nothing is built at import: composition roots call `make_engine` once per process.
"""

from __future__ import annotations

from sqlalchemy import Engine, MetaData, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

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


def make_engine(database_url: str, *, pool_size: int = 5) -> Engine:
    """Build an engine for a plain `postgresql://` URL. It connects when first used.

    Timeouts keep one stuck peer from stopping the house: a lock is waited for at most 5 s, a
    statement runs at most 30 s, a transaction that does nothing for 60 s loses its locks, and a
    dead connection is noticed by TCP keepalives.
    """
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={
            "connect_timeout": 5,
            "options": "-c lock_timeout=5s -c statement_timeout=30s "
            "-c idle_in_transaction_session_timeout=60s -c timezone=UTC",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        },
    )


def session_factory(engine: Engine) -> sessionmaker[Session]:
    """Return the factory of sessions.

    The caller owns the transaction: `with factory.begin() as session`.
    """
    return sessionmaker(engine, expire_on_commit=False)
