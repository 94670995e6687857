"""What the processes of these tests do: each is a composition root, as in production."""

from __future__ import annotations

import sys
import time

from api import messages
from pixeltoll.processes import gunicorn
from tasks import scheduler, worker
from tests.fakes import BrokenEngine, FakeEngine


def fake_worker(step_s: float) -> None:
    """A worker whose engine needs no GPU."""
    worker.run([], lambda _settings: FakeEngine(step_s=step_s))


def broken_worker() -> None:
    """A worker whose device has faulted."""
    worker.run([], lambda _settings: BrokenEngine())


def stuck_worker() -> None:
    """A worker whose device hangs."""
    engine = FakeEngine()
    engine.on_step = lambda _step: time.sleep(3600)
    worker.run([], lambda _settings: engine)


def real_worker(model_id: str) -> None:
    """A worker with the real engine, on the CPU."""
    # Here and not above: it loads torch, which no other role needs.
    from tasks.engine.diffusion import DiffusionEngine

    worker.run([model_id], DiffusionEngine.from_settings)


def sweeper() -> None:
    """A scheduler."""
    scheduler.run(messages.renderer(""))


def api(port: int) -> None:
    """The API, by the program that serves it elsewhere."""
    from gunicorn.app.wsgiapp import run

    _, _, _, *arguments = gunicorn(f"127.0.0.1:{port}", workers=1, threads=20)
    sys.argv = ["gunicorn", *arguments]
    run()
