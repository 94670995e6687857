"""A thread that ends the process when its main chore has stopped coming round.

A server that hangs, rather than refuses, can hold a call for ever; nothing inside the stuck thread
can help it. A process that has ended is restarted, and what it held is found by others.
"""

from __future__ import annotations

import os
import threading

from tasks import telemetry
from tasks.exits import STALLED

_log = telemetry.get_logger()
_TURNS = 10


class Watchdog:
    """Watches one loop of this process, which must `pat` it at every turn."""

    def __init__(self, name: str, limit_s: float) -> None:
        """Take the loop's name, and how long a turn may take at most."""
        self._name = name
        self._turn_s = limit_s / _TURNS
        self._silent_turns = 0
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name=f"watch-{self._name}", daemon=True).start()

    def pat(self) -> None:
        """Say that the loop has come round."""
        self._silent_turns = 0

    def stop(self) -> None:
        """Watch no more: the loop has ended as it should."""
        self._stopping.set()

    def _watch(self) -> None:
        # Turns are counted, not time: a process that was stopped as a whole is not stuck.
        while self._silent_turns < _TURNS:
            if self._stopping.wait(self._turn_s):
                return
            self._silent_turns += 1
        _log.error("loop_stuck", loop=self._name)
        os._exit(STALLED)
