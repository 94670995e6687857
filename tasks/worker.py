"""Composition root of a GPU process: a Celery worker, and the thread that keeps its claims alive.

Solo, because CUDA and fork do not mix. The price is that Celery itself answers nothing while a
batch runs; leases and heartbeats therefore have a thread of their own (`tasks.keeper`).
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery, Task, bootsteps, signals
from celery.exceptions import WorkerShutdown
from prometheus_client import REGISTRY
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ledger import db, offers
from ledger.offers import LiveOffer
from ledger.settings import LedgerSettings
from ledger.tables import Offer, Orchestrator
from tasks import catalog, chores, registration, routing, telemetry, tracing
from tasks.app import GENERATE, make_celery
from tasks.catalog import Catalog
from tasks.engine.protocol import Engine
from tasks.errors import NoOffer, TasksError
from tasks.exits import STALLED
from tasks.generate import Runner
from tasks.inventory import EngineCollector
from tasks.keeper import Keeper
from tasks.leases import Leases
from tasks.probe import listen
from tasks.runtime import Runtime
from tasks.settings import TaskSettings
from tasks.speeds import Speeds
from tasks.storage import ObjectStore

_log = telemetry.get_logger()


def run(models: Sequence[str], make_engine: Callable[[TaskSettings], Engine]) -> None:
    """Serve the offers of the key's orchestrator, or those of `models` only, until told to stop.

    A worker that is drained from outside stays, without work, until it is stopped: what restarts
    processes that end would have it take jobs again.

    Raises:
        NotRegistered: The settings have no valid key of an orchestrator.
        NoOffer: It offers nothing, or not one of `models`.
        SystemExit: The worker should be restarted.
    """
    telemetry.configure()
    settings = TaskSettings().with_key()
    tracing.start("pixeltoll-worker", settings.traces)
    sessions = db.session_factory(db.make_engine(LedgerSettings().database_url))
    with sessions.begin() as session:
        key = settings.orchestrator_key.get_secret_value()
        owner = registration.authenticate(session, key)
        served = offered(session, owner, models)
    runtime = Runtime(
        worker_id=f"{owner.name}@{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}",
        orchestrator_id=owner.id,
        queues=queues(served),
        sessions=sessions,
        store=ObjectStore.from_settings(settings),
        engine=make_engine(settings),
        catalog=catalog.load(settings.catalog),
        settings=settings,
        leases=Leases(sessions, settings.lease_s),
        speeds=Speeds(),
    )
    runner = Runner(runtime)
    keeper = Keeper(runtime, runner)
    # Before the first heartbeat: who cannot take a job yet should not be sent any.
    warm_up(runtime.engine, runtime.catalog, served)
    keeper.start()
    if listen(settings, {"heartbeat": keeper.pulse}):
        REGISTRY.register(EngineCollector(runtime.engine))
    status = _consume(make_celery(settings), runtime, runner)
    if keeper.is_drained and not status:
        _stay(runtime, keeper)
    try:
        keeper.stop()
    except SQLAlchemyError as error:
        _log.warning("worker_leaves_silently", error=telemetry.brief(error))
    tracing.stop()
    if status:
        raise SystemExit(status)


def _stay(runtime: Runtime, keeper: Keeper) -> None:
    """Wait for the signal that ends a worker which has nothing more to do."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    chores.attempt(keeper.note_done)
    _log.info("worker_drained", worker_id=runtime.worker_id)
    told.wait()


def offered(session: Session, owner: Orchestrator, models: Sequence[str]) -> list[LiveOffer]:
    """Return an orchestrator's offers, or only those for `models`; planned ones, too.

    Raises:
        NoOffer: It offers nothing, or not one of `models`.
    """
    found = offers.known(session, Offer.orchestrator_id == owner.id)
    offered_ids = {offer.capability.model_id for offer in found}
    for model_id in models or ["any model"]:
        if (models and model_id not in offered_ids) or not offered_ids:
            raise NoOffer(f"orchestrator {owner.name}", model_id, sorted(offered_ids))
    return [offer for offer in found if not models or offer.capability.model_id in models]


def queues(served: Sequence[LiveOffer]) -> tuple[str, ...]:
    """Return the queues of offers, each once."""
    return tuple(
        sorted({routing.queue_name(offer.capability, offer.orchestrator) for offer in served})
    )


def warm_up(engine: Engine, models: Catalog, served: Sequence[LiveOffer]) -> None:
    """Load the models of the offers that promise a warm one, for as long as they fit together.

    A model that cannot be loaded is a warning: its jobs will say what is wrong, and others can run.
    """
    promised = {offer.capability.model_id: offer.capability for offer in served if offer.warm}
    for model_id, capability in promised.items():
        warm = set(engine.loaded)
        try:
            engine.load(models.get(model_id), capability.pipeline)
        except TasksError as error:
            _log.warning("warm_up_failed", model_id=model_id, error=str(error))
        if not warm <= set(engine.loaded):
            _log.warning("warm_up_ends", reason="out of model memory", loaded=engine.loaded)
            return


def answer(app: Celery, serve: Callable[[], None]) -> None:
    """Let an app answer bells by serving what waits, whichever job they rang for."""

    @app.task(name=GENERATE, bind=True)
    def generate(task: Task[Any, Any], _job_id: str) -> None:
        with tracing.span("heard", "consumer", task.request.get("traceparent")):
            serve()


def _consume(app: Celery, runtime: Runtime, runner: Runner) -> int:
    """Listen for bells on exactly the worker's queues, in this thread, until a warm shutdown.

    Returns the exit status: not zero when the worker should be restarted.
    """

    def serve() -> None:
        runner.serve()
        if runner.is_broken:
            _log.error("worker_broken", worker_id=runtime.worker_id)
            raise WorkerShutdown(STALLED)

    answer(app, serve)

    class ServeFirst(bootsteps.StartStopStep):
        """Serve what waits already, whose bells may have rung while nobody listened.

        So a worker that was restarted, because it heard nothing, does work even without a broker.
        """

        requires = ("celery.worker.components:Pool",)

        def start(self, parent: object) -> None:
            del parent
            serve()

    @signals.worker_ready.connect(weak=False)
    def ready(**_: object) -> None:
        _log.info("worker_listens", worker_id=runtime.worker_id)

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
