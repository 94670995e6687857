"""Statements that run with every request, given to the driver as they are.

SQLAlchemy writes the statement once, and lends its connection and its errors. What it does beside
for each execution, describing every column of the answer, takes longer than all that the driver
does. Values are the driver's own: JSON is a `Jsonb`. Which statements there are is for their
modules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from psycopg import Error
from sqlalchemy import ClauseElement, Connection
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session


class Direct:
    """A statement as the driver gets it; `sql` is its text."""

    def __init__(self, statement: ClauseElement) -> None:
        """Write the statement down: from then on, it is a text."""
        dialect = PGDialect_psycopg(paramstyle="pyformat")  # type: ignore[no-untyped-call]
        self.sql = str(statement.compile(dialect=dialect))

    def rows(self, session: Session, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Run the statement in a session's transaction; returns all rows.

        Raises:
            sqlalchemy.exc.DBAPIError: As `Session.execute`, its kinds included.
        """
        connection = session.connection()
        lent = connection.connection
        try:
            with contextlib.closing(lent.cursor()) as cursor:
                cursor.execute(self.sql, values)
                return list(cursor.fetchall())
        except Error as error:
            # The types know of any driver's errors, and not that these are psycopg's.
            if connection.dialect.is_disconnect(error, lent, None):  # type: ignore[arg-type]
                _notice(connection)
            raise self._told(connection, error) from error

    def _told(self, connection: Connection, error: Error) -> BaseException:
        """Return an error as SQLAlchemy's own, without the values, which may be somebody's."""
        told: BaseException = DBAPIError.instance(
            self.sql, None, error, Error, hide_parameters=True, dialect=connection.dialect
        )
        return told


def _notice(connection: Connection) -> None:
    """Let SQLAlchemy meet a lost connection by itself: it knows what else has to go.

    Raises:
        sqlalchemy.exc.OperationalError: The connection is lost.
    """
    connection.exec_driver_sql("SELECT 1")
