"""The draw of what the results of a task's attempt are called, which nobody else's ever are.

Four digits are few, so the database keeps what was drawn: of two who draw the same in one folder,
at whatever moment, one draws again. What is in the store and not in the database, as after an older
backup was restored, counts as drawn. How keys are made of a stem is for `tasks.results` to say.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, sessionmaker

from tasks import results
from tasks.storage import ObjectStore
from tasks.tables import Job, ResultStem

# Runs something in a transaction of its own.
Transact: TypeAlias = Callable[[Callable[[Session], str | None]], str | None]

_DIGITS, _MOST = 4, 32
# After so many that were taken, of a folder that is all but full, there is one digit more.
_DRAWS = 16


def through(sessions: sessionmaker[Session]) -> Transact:
    """Return what runs something in a transaction, once."""

    def transact(what: Callable[[Session], str | None]) -> str | None:
        with sessions.begin() as session:
            return what(session)

    return transact


def of(transact: Transact, store: ObjectStore, job: Job) -> str | None:
    """Return what the results of a job's attempt are called, drawn now or before; None: no task.

    No transaction is open while the store is asked.

    Raises:
        StorageError: The object store did not answer.
        SQLAlchemyError: The database did not.
    """
    task = results.Task.of(job.callback)
    if task is None:
        return None
    drawn = 0
    while (stem := transact(partial(_known, job=job))) is None:
        free = task.stem(secrets.token_hex(_MOST)[: _DIGITS + drawn // _DRAWS])
        drawn += 1
        if next(store.list(free), None) is None:
            transact(partial(_take, job=job, stem=free))
    return stem


def _known(session: Session, job: Job) -> str | None:
    mine = (ResultStem.job_id == job.id, ResultStem.attempt == job.attempt)
    return session.scalar(select(ResultStem.stem).where(*mine))


def _take(session: Session, job: Job, stem: str) -> None:
    """Take a stem for an attempt, if it is free and the attempt has none."""
    row = {"stem": stem, "job_id": job.id, "attempt": job.attempt}
    session.execute(insert(ResultStem).values(row).on_conflict_do_nothing())
