"""A worker thread beside an API of the tests, with an engine that stands in for a GPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import get_args

from werkzeug.serving import make_server

from ledger import accounts
from ledger.offers import Capability
from tasks.catalog import Pipeline
from tasks.engine.protocol import Engine
from tasks.generate import Runner
from tasks.leases import Leases
from tasks.routing import queue_name
from tasks.runtime import Runtime
from tasks.speeds import Speeds
from tests.integration.api.world import MODEL, ORCHESTRATOR, World

_LOOK_S = 0.02


@contextlib.contextmanager
def working(world: World, engine: Engine, model_ids: Sequence[str] = (MODEL,)) -> Iterator[None]:
    """Run every job for these models for as long as the block lasts."""
    with world.sessions.begin() as session:
        owner = accounts.find_orchestrator(session, ORCHESTRATOR)
    settings = world.runtime.task_settings
    runtime = Runtime(
        worker_id="w",
        orchestrator_id=owner.id,
        queues=tuple(
            queue_name(Capability(pipeline, model_id), ORCHESTRATOR)
            for pipeline in get_args(Pipeline)
            for model_id in model_ids
        ),
        sessions=world.sessions,
        store=world.store,
        engine=engine,
        catalog=world.runtime.catalog,
        settings=settings,
        leases=Leases(world.sessions, settings.lease_s),
        speeds=Speeds(),
    )
    runner = Runner(runtime)
    done = threading.Event()

    def work() -> None:
        while not done.wait(_LOOK_S):
            runner.serve()

    thread = threading.Thread(target=work, name="work")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def served(world: World) -> Iterator[str]:
    """Serve the world's app on the loopback, and yield its address."""
    server = make_server("127.0.0.1", 0, world.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, name="serve")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
