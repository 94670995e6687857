"""Doing chores again and again, whatever one of them runs into. What they are is for others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from sqlalchemy.exc import SQLAlchemyError

from ledger.errors import LedgerError
from tasks import telemetry
from tasks.errors import StorageError

_log = telemetry.get_logger()

# What the outside may be blamed for; anything else is a defect, and is logged with its traceback.
_EXPECTED = (SQLAlchemyError, StorageError, LedgerError)


# One that consists of several says by False that not all of them were done.
Chore: TypeAlias = Callable[[], bool | None]


def attempt(chore: Chore) -> bool:
    """Do a chore; one that fails is logged, stops no other, and is tried again next time.

    Returns whether it was done.
    """
    try:
        return chore() is not False
    except Exception as error:  # noqa: BLE001  the others must go on
        _log.warning(
            "chore_failed",
            chore=chore.__name__,
            error=telemetry.brief(error),
            exc_info=not isinstance(error, _EXPECTED),
        )
        return False


def repeat(
    chore: Chore,
    every_s: float,
    stopping: threading.Event,
    *,
    first_s: float | None = None,
    beat: Callable[[], None] | None = None,
) -> threading.Thread:
    """Do a chore at every interval, in a thread of its own, until `stopping` is set.

    So no other chore has to wait for it. The process ends without waiting for it, either, unless
    it joins the thread. It is first done after `first_s`, where that is sooner than an interval.
    `beat` is told of each time that it was done, so that a thread which stands still is seen.
    """

    def run() -> None:
        wait_s = every_s if first_s is None else min(first_s, every_s)
        while not stopping.wait(wait_s):
            if attempt(chore) and beat is not None:
                beat()
            wait_s = every_s

    thread = threading.Thread(target=run, name=chore.__name__, daemon=True)
    thread.start()
    return thread
