"""Composition root of a GPU process: a Celery worker, and the thread that keeps its claims alive.

Solo, because CUDA and fork do not mix. The price is that Celery itself answers nothing while a
batch runs; leases, heartbeats and the watchdog therefore have a thread of their own.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence

from celery import Celery, signals
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts, db, offers
from ledger.settings import LedgerSettings
from ledger.tables import Offer
from tasks import catalog, routing, sweeps, telemetry, workers
from tasks.app import GENERATE, make_celery
from tasks.batching import Backlog
from tasks.engine.protocol import Engine
from tasks.errors import NoOffer
from tasks.generate import Runner, Runtime
from tasks.leases import Leases
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore

_log = telemetry.get_logger()
_TICK_S = 0.25
# sysexits.h EX_TEMPFAIL: restart me.
STALLED = 75


def run(
    orchestrator: str, models: Sequence[str], make_engine: Callable[[TaskSettings], Engine]
) -> None:
    """Serve an orchestrator's offers, or those of `models` only, until told to stop.

    Raises:
        UnknownOrchestrator: There is no such orchestrator.
        NoOffer: It offers nothing, or not one of `models`.
    """
    telemetry.configure()
    settings = TaskSettings()
    sessions = db.session_factory(db.make_engine(LedgerSettings().database_url))
    queues = offered_queues(sessions, orchestrator, models)
    engine = make_engine(settings)
    runtime = Runtime(
        worker_id=f"{orchestrator}@{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}",
        queues=queues,
        sessions=sessions,
        store=ObjectStore.from_settings(settings),
        engine=engine,
        catalog=catalog.load(settings.catalog),
        settings=settings,
        leases=Leases(sessions, settings.lease_s),
    )
    runner = Runner(runtime)
    keeper = threading.Thread(target=_keep, args=(runtime, runner), name="keeper", daemon=True)
    keeper.start()
    try:
        _consume(make_celery(settings), runtime, runner)
    finally:
        with sessions.begin() as session:
            workers.leave(session, runtime.worker_id)


def offered_queues(
    sessions: sessionmaker[Session], orchestrator: str, models: Sequence[str]
) -> tuple[str, ...]:
    """Return the queues of an orchestrator's live offers, or only of those for `models`.

    Raises:
        UnknownOrchestrator: There is no such orchestrator.
        NoOffer: It offers nothing, or not one of `models`.
    """
    with sessions.begin() as session:
        owner = accounts.find_orchestrator(session, orchestrator)
        found = offers.live(session, Offer.orchestrator_id == owner.id)
    offered = {offer.capability.model_id for offer in found}
    for model_id in models or ["any model"]:
        if (models and model_id not in offered) or not offered:
            raise NoOffer(f"orchestrator {orchestrator}", model_id, sorted(offered))
    return tuple(
        sorted(
            routing.queue_name(offer.capability, orchestrator)
            for offer in found
            if not models or offer.capability.model_id in models
        )
    )


def _consume(app: Celery, runtime: Runtime, runner: Runner) -> None:
    """Listen for bells on exactly the worker's queues, in this thread, until a warm shutdown."""

    @app.task(name=GENERATE)
    def generate(_job_id: str) -> None:
        runner.serve()

    @signals.worker_shutting_down.connect(weak=False)
    def stop(**_: object) -> None:
        runner.stop()

    _log.info("worker_starts", worker_id=runtime.worker_id, queues=runtime.queues)
    app.Worker(
        hostname=runtime.worker_id,
        pool="solo",
        concurrency=1,
        queues=list(runtime.queues),
        without_gossip=True,
        without_mingle=True,
        loglevel="WARNING",
    ).start()


def _keep(runtime: Runtime, runner: Runner) -> None:
    """Renew leases at every tick; at every heartbeat, say that we live and hear the bells."""
    heard_at = float("-inf")
    while True:
        runtime.leases.tick()
        if time.monotonic() - heard_at > workers.HEARTBEAT_S:
            heard_at = time.monotonic()
            _beat(runtime, runner)
        time.sleep(_TICK_S)


def _beat(runtime: Runtime, runner: Runner) -> None:
    try:
        with runtime.sessions.begin() as session:
            workers.heartbeat(session, runtime.worker_id, runtime.queues, runtime.engine.loaded)
            waiting = sweeps.backlogs(session, runtime.queues)
    except SQLAlchemyError as error:
        _log.warning("heartbeat_failed", error=str(error))
        return
    if _is_stalled(runtime, runner, waiting):
        _log.error("worker_stalled", worker_id=runtime.worker_id, queues=len(waiting))
        os._exit(STALLED)


def _is_stalled(runtime: Runtime, runner: Runner, waiting: Sequence[Backlog]) -> bool:
    """Tell whether jobs wait and this idle worker claims none: it may have gone deaf.

    Liveness is progress: a process that answers pings but does no work is dead all the same.
    """
    stall_s = runtime.settings.worker_stall_s
    idle_s = time.monotonic() - runner.last_claim_at
    overdue = any(one.waited_s > stall_s for one in waiting)
    return runtime.leases.idle and overdue and idle_s > stall_s
