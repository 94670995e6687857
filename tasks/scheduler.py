"""The process that sweeps: lost, forgotten and overdue jobs, and what they left behind.

It also keeps the books' house (`tasks.bookkeeping`) and tells of the ends of jobs
(`tasks.delivery`), in threads of their own.

Several may run: every sweep skips rows that another one is at, and what it does is harmless when
done twice.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import REGISTRY
from sqlalchemy.orm import Session, sessionmaker

from ledger import db
from ledger.feeds import FileFeed
from ledger.settings import LedgerSettings
from tasks import chores, jobs, manifests, stems, sweeps, telemetry, tracing, webhooks, workers
from tasks.app import make_celery
from tasks.bookkeeping import Bookkeeper
from tasks.delivery import Courier, Render
from tasks.dispatch import Ringer
from tasks.gauges import DatabaseCollector
from tasks.outbound import Outbound
from tasks.places import Rules
from tasks.probe import Pulse, listen
from tasks.rerouting import Rerouter
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tasks.topics import Topics
from tasks.watchdog import Watchdog

_log = telemetry.get_logger()
# A chore is one small transaction, and every statement of it ends within half a minute.
_STUCK_S = 120.0
_BOOKS_S = 60.0
_FORGET_S = 600.0
# Messages on their way at the same time.
_COURIERS = 8
# A chore that is so much later than its interval makes the scheduler say that it is not healthy.
# The longer one is for those that ask the store about one job after the other, or drop many rows.
_LATE_S = 30.0
_LATE_LONG_S = 600.0


class Sweeper:
    """The chores, each in small transactions."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        store: ObjectStore,
        ring: Callable[[jobs.Bell], None],
        settings: TaskSettings,
        max_rate_age: timedelta = timedelta(days=1),
    ) -> None:
        """Take what a sweep works with."""
        self._rerouter = Rerouter(
            sessions, settings.reroute_after_s, settings.weights, max_rate_age
        )
        self._sessions = sessions
        self._store = store
        self._ring = ring
        self._settings = settings

    def sweep(self) -> bool:
        """Do every chore of the jobs once; tells whether all of them were done."""
        every = (self.reclaim, self.expire, self.remind, self.reroute, self.forget_workers)
        done = [chores.attempt(chore) for chore in every]
        return all(done)

    def tidy(self) -> bool:
        """Do the chores of the object store, for which no job should have to wait."""
        done = [chores.attempt(chore) for chore in (self.clear, self.delete_outdated)]
        return all(done)

    def reclaim(self) -> None:
        """Queue again what lost workers were running, and ring for it."""
        with self._sessions.begin() as session:
            bells = sweeps.reclaim_lost(session, self._settings.max_attempts)
        for bell in bells:
            self._ring(bell)

    def expire(self) -> None:
        """End the jobs whose deadline has passed."""
        with self._sessions.begin() as session:
            sweeps.expire_overdue(session)

    def remind(self) -> None:
        """Ring for queues whose jobs nobody takes: the message may have been lost."""
        with self._sessions.begin() as session:
            bells = sweeps.forgotten(session, self._settings.ring_after_s)
        for bell in bells:
            self._ring(bell)

    def reroute(self) -> None:
        """Move what waits for orchestrators that have gone silent to others."""
        for bell in self._rerouter.reroute():
            self._ring(bell)

    def clear(self) -> None:
        """Delete what lost attempts left behind, once no such attempt can still be writing.

        A task that has no pictures has its manifest then, at the latest.
        """
        with self._sessions.begin() as session:
            leftovers = sweeps.unswept(session, 2 * self._settings.lease_s)
        for left in leftovers.values():
            telemetry.within([left.job], self._clear_one, left)

    def _clear_one(self, left: sweeps.Leftovers) -> None:
        found = {one.key for start in left.beginnings for one in self._store.list(start)}
        gone = found - left.kept
        if gone:
            self._store.delete(sorted(gone))
            _log.info("objects_swept", **left.about, count=len(gone))
        # Last, and anew where it is: a lost attempt may have written over it.
        manifests.explain(stems.through(self._sessions), self._store, left.job)
        with self._sessions.begin() as session:
            sweeps.mark_swept(session, left.job.id)

    def delete_outdated(self) -> None:
        """Delete the pictures of jobs that ended long enough ago."""
        if not self._settings.keep_results_s:
            return
        with self._sessions.begin() as session:
            outdated = sweeps.outdated(session, self._settings.keep_results_s)
        if not outdated:
            return
        ended = [job for job, _ in outdated]
        keys = [key for _, some in outdated for key in some]
        if keys:
            telemetry.within(ended, self._store.delete, keys)
        # After the objects: what was not deleted is found again. Deleting twice is no error.
        with self._sessions.begin() as session:
            sweeps.mark_deleted(session, [job.id for job in ended])
        about = [telemetry.of(job) for job in ended]
        _log.info("results_deleted", jobs=about, objects=len(keys))

    def forget_workers(self) -> None:
        """Drop the rows of workers that died without a word."""
        with self._sessions.begin() as session:
            workers.forget_silent(session)


@dataclass(frozen=True)
class _Rounds:
    """The chores that go on beside the sweeps, until `stopping`, and the pulses of all of them."""

    stopping: threading.Event
    pulses: dict[str, Pulse]

    def pulse(self, name: str, limit_s: float) -> Pulse:
        made = self.pulses[name] = Pulse(limit_s)
        return made

    def repeat(self, chore: chores.Chore, every_s: float, late_s: float = _LATE_S) -> None:
        beat = self.pulse(chore.__name__, every_s + late_s).beat
        chores.repeat(chore, every_s, self.stopping, beat=beat)


def run(render: Render) -> None:
    """Sweep at every interval until SIGTERM or SIGINT. What jobs tell is rendered from above."""
    telemetry.configure()
    settings = TaskSettings()
    books = LedgerSettings()
    tracing.start("pixeltoll-scheduler", settings.traces)
    sessions = db.session_factory(db.make_engine(books.database_url, pool_size=10 + 2 * _COURIERS))
    ringer = Ringer(make_celery(settings))
    store = ObjectStore.from_settings(settings)
    sweeper = Sweeper(
        sessions,
        store,
        ringer.ring,
        settings,
        timedelta(seconds=books.max_rate_age_s),
    )
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    watchdog = Watchdog("scheduler", _STUCK_S)
    watchdog.start()
    rounds = _Rounds(stopping, {})
    pulse = rounds.pulse("sweep", settings.sweep_interval_s + _LATE_S)
    if listen(settings, rounds.pulses):
        REGISTRY.register(DatabaseCollector(sessions))
    rounds.repeat(sweeper.tidy, settings.sweep_interval_s, _LATE_LONG_S)
    _keep_books(sessions, books, rounds)
    couriers = _tell(sessions, store, render, settings, rounds)
    _log.info("scheduler_starts", interval_s=settings.sweep_interval_s)
    while not stopping.wait(settings.sweep_interval_s):
        if sweeper.sweep():
            pulse.beat()
        watchdog.pat()
    # Who is just telling somebody should note that it is done, or it will be told again.
    until = time.monotonic() + settings.drain_s
    for courier in couriers:
        courier.join(max(0.0, until - time.monotonic()))


def _keep_books(sessions: sessionmaker[Session], settings: LedgerSettings, rounds: _Rounds) -> None:
    feed = None if settings.rates_file is None else FileFeed(settings.rates_file)
    bookkeeper = Bookkeeper(sessions, feed)
    # At once: without rates, jobs that need one are refused.
    chores.attempt(bookkeeper.refresh_rates)
    rounds.repeat(bookkeeper.refresh_rates, _BOOKS_S)
    rounds.repeat(bookkeeper.take_snapshots, _BOOKS_S)
    # Soon: a process that is started anew more often than that would never come to it. Of many rows
    # it takes long, so it has no pulse: an alert tells where it does not end.
    chores.repeat(bookkeeper.audit, settings.audit_interval_s, rounds.stopping, first_s=_BOOKS_S)


def _tell(
    sessions: sessionmaker[Session],
    store: ObjectStore,
    render: Render,
    settings: TaskSettings,
    rounds: _Rounds,
) -> list[threading.Thread]:
    """Deliver what jobs have to tell; returns the threads that do."""

    def listen() -> None:
        with sessions.begin() as session:
            webhooks.listen_on(session, [settings.sns_topic] if settings.sns_topic else [])

    chores.attempt(listen)
    outbound = Outbound(Rules.written(settings.link_ports, settings.link_hosts))
    topics = Topics(settings.sns_endpoint, settings.webhook_timeout_s)
    courier = Courier(sessions, outbound, topics.publish, render, settings, store)

    rounds.repeat(courier.forget, _FORGET_S, _LATE_LONG_S)
    return [_send(courier, settings, rounds, number) for number in range(1, _COURIERS + 1)]


def _send(
    courier: Courier, settings: TaskSettings, rounds: _Rounds, number: int
) -> threading.Thread:
    """Have a thread deliver what is due, message by message, each of which is a beat."""
    every_s = settings.sweep_interval_s
    pulse = rounds.pulse(f"deliver-{number}", every_s + settings.webhook_timeout_s + _LATE_S)

    def deliver() -> None:
        courier.deliver(rounds.stopping, pulse.beat)

    return chores.repeat(deliver, every_s, rounds.stopping, beat=pulse.beat)
