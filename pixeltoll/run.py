"""The commands that are one process of a stack each: the API, a worker, the scheduler, Flower.

`python -m pixeltoll.run worker` is `pixeltoll worker` without the time it takes to import what the
other commands need; that is how `pixeltoll up` starts its children.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from pixeltoll import complaints, settings
from pixeltoll.console import complain, tell
from pixeltoll.errors import NotWritten, Unprotected
from pixeltoll.exits import Exit
from pixeltoll.processes import LOOPBACK, THREADS, gunicorn
from pixeltoll.state import Connection

DEFAULT_DIR = Path(".pixeltoll")
DataDir = Annotated[
    Path, typer.Option(help="Folder of the stack: its data, logs and connection.json.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
models_app = typer.Typer(no_args_is_help=True, help="The models that there are.")
app.add_typer(models_app, name="models")


def main(program: typer.Typer = app, known: tuple[type[Exception], ...] = ()) -> None:
    """Run a program. What an operator can mend is told in one message, and status 1."""
    try:
        program()
    except Exception as error:
        said = complaints.words(error, known)
        if said is None:
            raise
        complain(f"pixeltoll: {said}")
        sys.exit(Exit.FAILED)


@app.command()
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


@app.command()
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


@app.command()
def scheduler(data_dir: DataDir = DEFAULT_DIR) -> None:
    """Ring for forgotten jobs, take back lost ones, expire overdue ones, tell of the ends of jobs.

    Several may run.
    """
    settle(data_dir)
    from api import messages
    from api.settings import ApiSettings
    from tasks import scheduler as sweeper

    sweeper.run(messages.renderer(ApiSettings().public_url))


@app.command()
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


@models_app.command("copy-demo")
def copy_demo(
    target: Annotated[Path, typer.Argument(help="Folder to copy the models and catalog to.")],
    keep: Annotated[bool, typer.Option("--keep", help="Leave models that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy the demo models and their catalog, for a start of your own."""
    from tasks.catalog import DEMO

    if keep and (target / DEMO.name).exists():
        kept = {"catalog": target / DEMO.name, "copied": False}
        tell(f"The models in {target} are left as they are.", kept, as_json=as_json)
        return
    try:
        shutil.copytree(
            DEMO.parent,
            target,
            ignore=shutil.ignore_patterns(DEMO.name),
            copy_function=shutil.copyfile,
            dirs_exist_ok=True,
        )
        # The last: where it is, the models are complete.
        shutil.copyfile(DEMO, target / DEMO.name)
    except OSError as error:
        raise NotWritten(target, error.strerror or str(error)) from error
    copied = {"catalog": target / DEMO.name, "copied": True}
    tell(f"The catalog of the demo models is {target / DEMO.name}", copied, as_json=as_json)


def settle(data_dir: Path) -> None:
    """Take the settings from the data folder's stack, unless the environment has its own."""
    if not settings.UpSettings().database_url:
        settings.adopt(Connection.read(data_dir).environment())


if __name__ == "__main__":
    main()
