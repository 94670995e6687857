"""The thread beside the engine: keeps claims alive, says that we live, and judges whether we do.

Liveness is progress: a process that answers pings but does no work is dead all the same, and ends
itself to be restarted.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tasks import chores, registration, sweeps, telemetry, workers
from tasks.batching import Backlog
from tasks.errors import NotRegistered
from tasks.exits import NOT_REGISTERED, STALLED
from tasks.generate import Runner
from tasks.probe import Pulse
from tasks.runtime import Runtime
from tasks.watchdog import Watchdog

_log = telemetry.get_logger()
_TICK_S = 0.25
# So many heartbeats that nobody heard, and the worker says that it is not healthy.
_MISSED_BEATS = 6


class Keeper:
    """Renews leases at every tick; at every heartbeat, tells that the worker lives.

    A worker that is to leave has no more heartbeats, so that nobody counts on it, and some seconds
    to end its batch; then its jobs are handed back.
    """

    def __init__(self, runtime: Runtime, runner: Runner) -> None:
        """Take what is kept alive, and whose progress is judged."""
        self._run = runtime
        self._runner = runner
        # A stall is seen at a heartbeat, so there are some within the time that it takes.
        stall_s = min(runtime.settings.worker_stall_s, runtime.settings.batch_stall_s)
        self._beat_s = min(workers.HEARTBEAT_S, stall_s / 2)
        self.pulse = Pulse(_MISSED_BEATS * self._beat_s)
        self._stopping = threading.Event()
        self._has_left = False
        # Whether it was asked to leave by its row, and not by a signal.
        self.is_drained = False
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._watchdog = Watchdog("keeper", runtime.settings.worker_stall_s)

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._watchdog.start()

    def stop(self) -> None:
        """Say that the worker is gone, and end."""
        self._stopping.set()
        self._thread.join()
        try:
            with self._run.sessions.begin() as session:
                workers.leave(session, self._run.worker_id, is_done=True)
        finally:
            # Last, because the above can hang as well.
            self._watchdog.stop()

    def note_done(self) -> None:
        """Say that a worker that stays, and takes no more jobs, has none any more.

        Raises:
            SQLAlchemyError: The database does not hear it.
        """
        with self._run.sessions.begin() as session:
            workers.leave(session, self._run.worker_id, is_done=True)

    def _keep(self) -> None:
        heard_at = float("-inf")
        while not self._stopping.wait(_TICK_S):
            try:
                self._run.leases.tick()
                if self._runner.leaving_s > self._run.settings.drain_s:
                    chores.attempt(self._run.leases.hand_back)
                leaves_now = self._runner.is_leaving and not self._has_left
                if leaves_now or time.monotonic() - heard_at > self._beat_s:
                    heard_at = time.monotonic()
                    self._beat()
            except Exception as error:  # noqa: BLE001  without this thread, all claims are lost
                unforeseen = not isinstance(error, SQLAlchemyError)
                _log.warning("heartbeat_failed", error=telemetry.brief(error), exc_info=unforeseen)
            self._watchdog.pat()

    def _beat(self) -> None:
        run = self._run
        waiting: Sequence[Backlog] = ()
        is_asked, leaves = False, self._runner.is_leaving
        with run.sessions.begin() as session:
            self._end_if_unregistered(session)
            if leaves:
                workers.leave(session, run.worker_id, is_done=False)
            else:
                is_asked = self._tell(session)
                waiting = sweeps.backlogs(session, run.queues)
        self._has_left = leaves
        self.pulse.beat()
        if is_asked:
            self._drain()
        why = self._why_stalled(waiting)
        if why is not None:
            _log.error("worker_stalled", worker_id=run.worker_id, why=why)
            os._exit(STALLED)

    def _tell(self, session: Session) -> bool:
        """Say that the worker lives; returns whether it is asked to leave."""
        run = self._run
        return workers.heartbeat(
            session,
            run.worker_id,
            run.orchestrator_id,
            run.queues,
            run.engine.loaded,
            run.speeds.known(),
            run.engine.memory_bytes,
        )

    def _drain(self) -> None:
        """Leave because the worker's row asks for it, by the way that a signal takes."""
        _log.info("worker_asked_to_leave", worker_id=self._run.worker_id)
        self.is_drained = True
        self._runner.stop()
        os.kill(os.getpid(), signal.SIGTERM)

    def _end_if_unregistered(self, session: Session) -> None:
        """End this process if its key was revoked; what it runs is another worker's by its lease.

        At once: whoever revokes a key may have reasons not to wait for a batch.
        """
        run = self._run
        try:
            registration.authenticate(session, run.settings.orchestrator_key.get_secret_value())
        except NotRegistered as error:
            workers.leave(session, run.worker_id, is_done=True)
            session.commit()
            _log.error("worker_not_registered", worker_id=run.worker_id, why=str(error))
            os._exit(NOT_REGISTERED)

    def _why_stalled(self, waiting: Sequence[Backlog]) -> str | None:
        """Tell what is wrong, if something is, with a worker that lives but does nothing."""
        settings, leases = self._run.settings, self._run.leases
        if not leases.idle:
            return "no_progress" if leases.still_s > settings.batch_stall_s else None
        # Its broker connection may be half open: no error, and no bell either.
        stall_s = settings.worker_stall_s
        idle_s = min(leases.still_s, time.monotonic() - self._runner.looked_at)
        overdue = any(one.waited_s > stall_s for one in waiting)
        return "deaf" if overdue and idle_s > stall_s else None
