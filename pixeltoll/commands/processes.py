"""The commands that are one process of a stack each: the API, a worker, the scheduler, Flower.

What a process needs is imported where it is started:
`pixeltoll worker` loads torch, and the others do without.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pixeltoll import settings
from pixeltoll.errors import Unprotected
from pixeltoll.options import DEFAULT_DIR, DataDir, settle
from pixeltoll.processes import LOOPBACK, THREADS, gunicorn


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    for command in (api, worker, scheduler, flower):
        app.command()(command)


def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
    threads: Annotated[int, typer.Option(help="Threads of each process.", min=1)] = THREADS,
    data_dir: DataDir = DEFAULT_DIR,
) -> None:
    """Serve the API, on the servers that the environment names or else the data folder's."""
    settle(data_dir)
    command = gunicorn(f"{host}:{port}", workers=workers, threads=threads)
    os.execv(command[0], command)  # noqa: S606  no shell is wanted


def worker(
    models: Annotated[
        list[str] | None,
        typer.Option("--models", help="Serve this model only; may be given again."),
    ] = None,
    data_dir: DataDir = DEFAULT_DIR,
) -> None:
    """Run jobs until told to stop: one process for each GPU.

    PIXELTOLL_ORCHESTRATOR_KEY says whose offers it serves.
    """
    settle(data_dir)
    # Here and not above: these load torch, which no other command needs.
    from tasks import worker as gpu
    from tasks.engine.diffusion import DiffusionEngine

    gpu.run(models or (), DiffusionEngine.from_settings)
    # All is written by now. Taking torch apart object by object would cost seconds of CPU.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def scheduler(data_dir: DataDir = DEFAULT_DIR) -> None:
    """Ring for forgotten jobs, take back lost ones, expire overdue ones, tell of the ends of jobs.

    Several may run.
    """
    settle(data_dir)
    from api import messages
    from api.settings import ApiSettings
    from tasks import scheduler as sweeper

    sweeper.run(messages.renderer(ApiSettings().public_url))


def flower(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5555,
    state: Annotated[
        Path | None, typer.Option(help="File that keeps what was seen; in the data folder.")
    ] = None,
    data_dir: DataDir = DEFAULT_DIR,
) -> None:
    """Watch the queues in a browser. FLOWER_BASIC_AUTH says who may: user:password."""
    settle(data_dir)
    if not settings.UpSettings().flower_basic_auth:
        raise Unprotected
    from ledger import db
    from ledger.settings import LedgerSettings
    from tasks import dashboard
    from tasks.settings import TaskSettings

    sessions = db.session_factory(db.make_engine(LedgerSettings().database_url, pool_size=2))
    state = state or data_dir / "flower.db"
    state.parent.mkdir(parents=True, exist_ok=True)
    dashboard.run(TaskSettings(), sessions, host=host, port=port, state=state)
