"""The statement of a submission, as the driver gets it."""

from __future__ import annotations

from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH

from ledger import authorizing
from tasks import placing


def test_the_driver_parses_the_statement_once_and_not_for_every_job() -> None:
    statement = authorizing._together(placing._WITH_JOB)
    assert len(statement.sql) <= MAX_CACHED_STATEMENT_LENGTH
