"""The exit statuses of the command: what a script can tell by them.

Every status that a command ends with on purpose is here, with what it means; the reference of the
command line is made of it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self

from tasks.exits import NOT_REGISTERED, STALLED


class Exit(IntEnum):
    """How a command ended, and what that means."""

    DONE = 0, "It is done."
    FAILED = 1, "It could not be done; the message says why, and what to do."
    USAGE = 2, "The command was not understood. Nothing was done."
    FOUND = 3, "`ledger check` and `doctor`: they looked, and something is wrong."
    NO_PICTURES = 4, "`submit` and `jobs wait`: the job ended without pictures, and costs nothing."
    RESTART = STALLED, "`worker` and `scheduler`: start it again, it stands still."
    NOT_REGISTERED = NOT_REGISTERED, "`worker`: its key was revoked. Starting it again is no help."
    # Typer ends a command so by itself, and the others do as it does.
    INTERRUPTED = 130, "Ctrl-C ended it before it was done; a job that it has submitted goes on."

    meaning: str

    def __new__(cls, status: int, meaning: str) -> Self:
        """Make a status of a number and a sentence."""
        made = int.__new__(cls, status)
        made._value_ = status
        made.meaning = meaning
        return made
