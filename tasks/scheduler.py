"""The process that sweeps: lost, forgotten and overdue jobs, and what they left behind.

Several may run: every sweep skips rows that another one is at, and what it does is harmless when
done twice.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from sqlalchemy.orm import Session, sessionmaker

from ledger import db
from ledger.settings import LedgerSettings
from tasks import jobs, sweeps, telemetry, workers
from tasks.app import make_celery
from tasks.dispatch import Ringer
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tasks.watchdog import Watchdog

_log = telemetry.get_logger()
# A chore is one small transaction, and every statement of it ends within half a minute.
_STUCK_S = 120.0


class Sweeper:
    """The chores, each in small transactions."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        store: ObjectStore,
        ring: Callable[[jobs.Bell], None],
        settings: TaskSettings,
    ) -> None:
        """Take what a sweep works with."""
        self._sessions = sessions
        self._store = store
        self._ring = ring
        self._settings = settings

    def sweep(self) -> None:
        """Do every chore of the jobs once."""
        for chore in (self.reclaim, self.expire, self.remind, self.forget_workers):
            self._do(chore)

    def tidy(self) -> None:
        """Do the chore of the object store, for which no job should have to wait."""
        self._do(self.clear)

    def _do(self, chore: Callable[[], None]) -> None:
        """Do a chore; one that fails does not stop the others, and is tried again next time."""
        try:
            chore()
        except Exception as error:  # noqa: BLE001  the sweeping must go on
            _log.warning("chore_failed", chore=chore.__name__, error=telemetry.brief(error))

    def reclaim(self) -> None:
        """Queue again what lost workers were running, and ring for it."""
        with self._sessions.begin() as session:
            bells = sweeps.reclaim_lost(session, self._settings.max_attempts)
        for bell in bells:
            _log.warning("job_reclaimed", job_id=str(bell.job_id))
            self._ring(bell)

    def expire(self) -> None:
        """End the jobs whose deadline has passed."""
        with self._sessions.begin() as session:
            count = sweeps.expire_overdue(session)
        if count:
            _log.info("jobs_expired", count=count)

    def remind(self) -> None:
        """Ring for queues whose jobs nobody takes: the message may have been lost."""
        with self._sessions.begin() as session:
            bells = sweeps.forgotten(session, self._settings.ring_after_s)
        for bell in bells:
            self._ring(bell)

    def clear(self) -> None:
        """Delete what lost attempts left behind, once no such attempt can still be writing."""
        with self._sessions.begin() as session:
            leftovers = sweeps.unswept(session, 2 * self._settings.lease_s)
        for job_id, kept in leftovers.items():
            found = {stored.key for stored in self._store.list(f"outputs/{job_id}/")}
            if found - kept:
                self._store.delete(sorted(found - kept))
                _log.info("objects_swept", job_id=str(job_id), count=len(found - kept))
            with self._sessions.begin() as session:
                sweeps.mark_swept(session, job_id)

    def forget_workers(self) -> None:
        """Drop the rows of workers that died without a word."""
        with self._sessions.begin() as session:
            workers.forget_silent(session)


def run() -> None:
    """Sweep at every interval until SIGTERM or SIGINT."""
    telemetry.configure()
    settings = TaskSettings()
    sessions = db.session_factory(db.make_engine(LedgerSettings().database_url))
    ringer = Ringer(make_celery(settings))
    sweeper = Sweeper(sessions, ObjectStore.from_settings(settings), ringer.ring, settings)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    watchdog = Watchdog("scheduler", _STUCK_S)
    watchdog.start()
    threading.Thread(
        target=_repeat, args=(sweeper.tidy, stopping, settings), name="tidy", daemon=True
    ).start()
    _log.info("scheduler_starts", interval_s=settings.sweep_interval_s)
    while not stopping.wait(settings.sweep_interval_s):
        sweeper.sweep()
        watchdog.pat()


def _repeat(chore: Callable[[], None], stopping: threading.Event, settings: TaskSettings) -> None:
    while not stopping.wait(settings.sweep_interval_s):
        chore()
