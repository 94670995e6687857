"""Waiting for jobs to end: woken by the database, never asking it again and again.

A trigger notifies on `CHANNEL` when a job ends (migration 0040). One thread of each process listens
for all requests that wait, on one connection of its own. Where a notification is lost, with its
connection or in a pooler that does not pass them on, a look at all awaited jobs at once, every few
seconds, finds what was missed. What is answered then is the caller's business.

A process that is told to leave lets those go at once who can as well ask again, and the others
shortly before it has to end.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast
from uuid import UUID

import psycopg
from sqlalchemy import Engine, select

from api.errors import TooManyWaiting, WaitingLimit
from tasks import telemetry
from tasks.jobs import FINAL_STATES
from tasks.slots import Slots
from tasks.tables import Job

_log = telemetry.get_logger()
CHANNEL = "jobs_ended"
POLL_S = 5.0
_RECONNECT_S = 1.0
_STATE = select(Job.state)
_ENDED = "SELECT id FROM jobs WHERE id = ANY(%s) AND state = ANY(%s)"


class Waiting:
    """The requests of this process that wait for their jobs. Connects when somebody waits."""

    def __init__(self, engine: Engine, most: int, most_each: int, poll_s: float = POLL_S) -> None:
        """Take the database, how many may wait at once, and how many of each gateway.

        And how often to look for what was lost.
        """
        self._engine = engine  # Commits each statement by itself, as `assemble` has it.
        self._slots = Slots(most, most_each, partial(WaitingLimit, most_each), TooManyWaiting)
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._waiters: defaultdict[UUID, list[threading.Event]] = defaultdict(list)
        self._hasty: set[threading.Event] = set()
        # By this process's clock: when who can ask again is let go, and when everybody is.
        self._hasty_until = self._all_until = float("inf")
        self._listener: threading.Thread | None = None

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._slots.taken

    def place(self, gateway_id: UUID) -> AbstractContextManager[None]:
        """Lend a gateway one of the places to wait in.

        Raises:
            WaitingLimit: It has as many as one gateway may have.
            TooManyWaiting: There is none left.
        """
        return self._slots.place(gateway_id)

    def leave(self, patience_s: float) -> None:
        """Let the requests go that wait: this process is to end in a while."""
        now = time.monotonic()
        with self._lock:
            self._hasty_until, self._all_until = now, now + patience_s
            for event in self._hasty:
                event.set()
        last = threading.Timer(patience_s, self._release)
        last.daemon = True
        last.start()

    def _release(self) -> None:
        with self._lock:
            for waiters in self._waiters.values():
                for event in waiters:
                    event.set()

    def wait(
        self, gateway_id: UUID, job_id: UUID, seconds: float, *, can_ask_again: bool = False
    ) -> None:
        """Return when a gateway's job has ended, is gone, or the time is over.

        No connection is held meanwhile. `can_ask_again`: its answer is good before the end, too.
        """
        event = threading.Event()
        with self._lock:
            self._waiters[job_id].append(event)
            if can_ask_again:
                self._hasty.add(event)
            until = self._hasty_until if can_ask_again else self._all_until
            seconds = min(seconds, max(0.0, until - time.monotonic()))
            if self._listener is None:
                self._listener = threading.Thread(target=self._listen, name="listener", daemon=True)
                self._listener.start()
        try:
            # After this has begun to listen: what ends later, notifies.
            if self._is_open(gateway_id, job_id):
                event.wait(seconds)
        finally:
            with self._lock:
                self._waiters[job_id].remove(event)
                self._hasty.discard(event)
                if not self._waiters[job_id]:
                    del self._waiters[job_id]

    def _is_open(self, gateway_id: UUID, job_id: UUID) -> bool:
        query = _STATE.where(Job.id == job_id, Job.gateway_id == gateway_id)
        with self._engine.connect() as connection:
            return connection.scalar(query) not in (None, *FINAL_STATES)

    # --- the listener's thread ----------------------------------------------------------------

    def _listen(self) -> None:
        """Listen until the connection is lost while nobody waits; the next one to wait restarts."""
        while True:
            try:
                self._serve()
            except Exception as error:  # noqa: BLE001  whatever it is, the next one waits in vain
                with self._lock:
                    if not self._waiters:
                        self._listener = None
                        return
                _log.warning("listener_lost", error=telemetry.brief(error))
                time.sleep(_RECONNECT_S)

    def _serve(self) -> None:
        """Wake whoever waits for a job that ends.

        Raises:
            psycopg.Error, sqlalchemy.exc.SQLAlchemyError: It cannot connect, or not any more.
        """
        borrowed = self._engine.raw_connection()
        connection = cast("psycopg.Connection[Any]", borrowed.dbapi_connection)
        borrowed.detach()  # It is kept, and the pool is for those who give back.
        with contextlib.closing(connection):
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}".encode())
            while True:
                # First of all: jobs may have ended before anybody listened.
                self._look(connection)
                for notice in connection.notifies(timeout=self._poll_s):
                    # Anybody who may connect can notify, and with any words.
                    with contextlib.suppress(ValueError):
                        self._wake(UUID(notice.payload))

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        with self._lock:
            awaited = list(self._waiters)
        if awaited:
            for (job_id,) in connection.execute(_ENDED, (awaited, list(FINAL_STATES))):
                self._wake(job_id)

    def _wake(self, job_id: UUID) -> None:
        with self._lock:
            for event in self._waiters.get(job_id, ()):
                event.set()
