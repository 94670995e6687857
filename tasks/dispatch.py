"""Ringing: telling the workers of a queue that a job waits, without ever holding up the caller.

A bell that does not get through is no loss: the scheduler rings again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from queue import Empty, Full, Queue

from celery import Celery

from tasks import telemetry
from tasks.jobs import Bell
from tasks.wire import Wire

_log = telemetry.get_logger()
_CAPACITY = 10_000
_BATCH = 100
# Two that are sent together cost half of what each costs alone.
_APART_S = 0.02


class Ringer:
    """Sends bells from a thread of its own, many in one broker round trip. One for each process.

    A bell goes at once, but for those that come within `_APART_S` of the last one: they go together
    when that time is over.
    """

    def __init__(self, app: Celery) -> None:
        """Take the app; the thread starts with the first bell, so a process may fork before."""
        self._wire = Wire(app)
        self._lock = threading.Lock()
        self._waiting: Queue[Bell] = Queue(_CAPACITY)
        self._owner = 0

    def ring(self, bell: Bell) -> None:
        """Send a bell soon. Never blocks and never raises; when too many wait, it is dropped."""
        self._ensure_thread()
        try:
            self._waiting.put_nowait(bell)
        except Full:
            _log.warning("bell_dropped", job_id=str(bell.job_id), queue=bell.queue)

    def _ensure_thread(self) -> None:
        if self._owner == os.getpid():
            return
        with self._lock:
            if self._owner != os.getpid():
                self._waiting = Queue(_CAPACITY)
                threading.Thread(target=self._run, name="ringer", daemon=True).start()
                self._owner = os.getpid()

    def _run(self) -> None:
        sent_at = -_APART_S
        while True:
            bells = [self._waiting.get()]
            time.sleep(max(0.0, sent_at + _APART_S - time.monotonic()))
            try:
                while len(bells) < _BATCH:
                    bells.append(self._waiting.get_nowait())
            except Empty:
                pass
            # Twice, because the first failure may be that of a connection whose broker restarted
            # long ago. A bell that rings twice does no harm.
            if not self._try(bells) and not self._try(bells):
                _log.warning("bells_lost", **_about(bells))
            sent_at = time.monotonic()

    def _try(self, bells: Sequence[Bell]) -> bool:
        try:
            self._wire.send(bells)
        except Exception as error:  # noqa: BLE001  whatever the broker does, the next bell is tried
            _log.warning("bells_refused", **_about(bells), error=telemetry.brief(error))
            return False
        return True


def _about(bells: Sequence[Bell]) -> dict[str, object]:
    """Return what is said of bells: a message knows of its job no more than the id."""
    return {
        "jobs": [{"job_id": str(bell.job_id)} for bell in bells],
        "queues": sorted({bell.queue for bell in bells}),
    }
