"""Composition root of a GPU process: a Celery worker, and the thread that keeps its claims alive.

Solo, because CUDA and fork do not mix. The price is that Celery itself answers nothing while a
batch runs; leases and heartbeats therefore have a thread of their own (`tasks.keeper`).
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Sequence

from celery import Celery, bootsteps, signals
from celery.exceptions import WorkerShutdown
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts, db, offers
from ledger.settings import LedgerSettings
from ledger.tables import Offer
from tasks import catalog, routing, telemetry
from tasks.app import GENERATE, make_celery
from tasks.engine.protocol import Engine
from tasks.errors import NoOffer
from tasks.generate import Runner
from tasks.keeper import Keeper
from tasks.leases import Leases
from tasks.runtime import Runtime
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tasks.watchdog import STALLED

_log = telemetry.get_logger()


def run(
    orchestrator: str, models: Sequence[str], make_engine: Callable[[TaskSettings], Engine]
) -> None:
    """Serve an orchestrator's offers, or those of `models` only, until told to stop.

    Raises:
        UnknownOrchestrator: There is no such orchestrator.
        NoOffer: It offers nothing, or not one of `models`.
        SystemExit: The worker should be restarted.
    """
    telemetry.configure()
    settings = TaskSettings()
    sessions = db.session_factory(db.make_engine(LedgerSettings().database_url))
    queues = offered_queues(sessions, orchestrator, models)
    runtime = Runtime(
        worker_id=f"{orchestrator}@{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}",
        queues=queues,
        sessions=sessions,
        store=ObjectStore.from_settings(settings),
        engine=make_engine(settings),
        catalog=catalog.load(settings.catalog),
        settings=settings,
        leases=Leases(sessions, settings.lease_s),
    )
    runner = Runner(runtime)
    keeper = Keeper(runtime, runner)
    keeper.start()
    status = _consume(make_celery(settings), runtime, runner)
    try:
        keeper.stop()
    except SQLAlchemyError as error:
        _log.warning("worker_leaves_silently", error=telemetry.brief(error))
    if status:
        raise SystemExit(status)


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


def _consume(app: Celery, runtime: Runtime, runner: Runner) -> int:
    """Listen for bells on exactly the worker's queues, in this thread, until a warm shutdown.

    Returns the exit status: not zero when the worker should be restarted.
    """

    def serve() -> None:
        runner.serve()
        if runner.is_broken:
            _log.error("worker_broken", worker_id=runtime.worker_id)
            raise WorkerShutdown(STALLED)

    @app.task(name=GENERATE)
    def generate(_job_id: str) -> None:
        serve()

    class ServeFirst(bootsteps.StartStopStep):
        """Serve what waits already, whose bells may have rung while nobody listened.

        So a worker that was restarted, because it heard nothing, does work even without a broker.
        """

        requires = ("celery.worker.components:Pool",)

        def start(self, parent: object) -> None:
            del parent
            serve()

    @signals.worker_shutting_down.connect(weak=False)
    def stop(**_: object) -> None:
        runner.stop()

    app.steps["worker"].add(ServeFirst)
    _log.info("worker_starts", worker_id=runtime.worker_id, queues=runtime.queues)
    worker = app.Worker(
        hostname=runtime.worker_id,
        pool="solo",
        concurrency=1,
        queues=list(runtime.queues),
        without_gossip=True,
        without_mingle=True,
        loglevel="WARNING",
        quiet=True,
    )
    worker.start()
    return worker.exitcode or 0
