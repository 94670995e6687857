"""In what words an operator is told of an error that they can mend, at the end of a command.

Owns which errors those are. Anything else is a defect of ours, and comes with its traceback.
"""

from __future__ import annotations

import psycopg
from psycopg.errors import InsufficientPrivilege, UndefinedColumn, UndefinedTable
from pydantic import ValidationError
from sqlalchemy.exc import ArgumentError, DBAPIError

from api.errors import ApiError
from ledger.errors import LedgerError
from pixeltoll.errors import PixeltollError
from tasks.errors import TasksError

_OURS = (PixeltollError, ApiError, TasksError, LedgerError)
_DATABASE_URL = (
    "DATABASE_URL: is not the address of a database; "
    "write it as postgresql://USER:PASSWORD@HOST/DATABASE."
)
_ADVICE = {
    psycopg.OperationalError: "`pixeltoll doctor` looks at what is wrong.",
    UndefinedTable: "The schema is of another release: run `pixeltoll db upgrade`.",
    UndefinedColumn: "The schema is of another release: run `pixeltoll db upgrade`.",
    InsufficientPrivilege: "Let DATABASE_URL log in as a user who may do this.",
}


def words(error: Exception) -> str | None:
    """Return what is wrong and what to do, or None of what no operator can mend."""
    if isinstance(error, _OURS):
        return str(error)
    if isinstance(error, ValidationError):
        return _of_settings(error)
    if isinstance(error, ArgumentError):
        return _DATABASE_URL
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    # SQLAlchemy's own text repeats the statement; what the database said is enough.
    return _of_database(error.orig if isinstance(error, DBAPIError) else error)


def _of_settings(error: ValidationError) -> str:
    """Name each variable and what is wrong with it. Not what it is: that may be a secret."""
    found = []
    for one in error.errors(include_input=False, include_context=False, include_url=False):
        variable = [str(name).upper() for name in one["loc"]]
        found.append(": ".join([*variable, one["msg"].removeprefix("Value error, ")]))
    return "\n  ".join(found)


def _of_database(error: BaseException | None) -> str | None:
    for kind, advice in _ADVICE.items():
        if isinstance(error, kind):
            # Below its first line are the values of rows, or where in our SQL it was.
            return f"{str(error).strip().splitlines()[0]}\n  {advice}"
    return None
