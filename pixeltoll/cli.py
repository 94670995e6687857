"""The `pixeltoll` command: what runs a stack or one of its processes.

The commands about gateways, prices and money are in `pixeltoll.admin`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Never

import typer

from api.errors import ApiError
from ledger.errors import LedgerError
from pixeltoll import admin, demo, migrate, processes, settings, stack
from pixeltoll.bootstrap import DEMO
from pixeltoll.console import complain, say
from pixeltoll.errors import PixeltollError
from pixeltoll.state import Connection
from tasks import scheduler as sweeper
from tasks.app import make_celery
from tasks.errors import TasksError
from tasks.settings import TaskSettings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Image generation jobs, priced by the pixel.",
)
db_app = typer.Typer(no_args_is_help=True, help="The database's schema.")
models_app = typer.Typer(no_args_is_help=True, help="Models on this machine.")
app.add_typer(db_app, name="db")
app.add_typer(models_app, name="models")

DataDir = Annotated[
    Path, typer.Option(help="Folder of the stack: its data, logs and connection.json.")
]
_DEFAULT_DIR = Path(".pixeltoll")


def main() -> None:
    """Run the command. What an operator can mend is told in one message, without a traceback."""
    try:
        app()
    except (PixeltollError, ApiError, LedgerError, TasksError) as error:
        complain(f"pixeltoll: {error}")
        sys.exit(1)


@app.command()
def up(
    data_dir: DataDir = _DEFAULT_DIR,
    port: Annotated[int, typer.Option(help="Port of the API; 0 for any free one.")] = 8080,
    flower: Annotated[bool, typer.Option("--flower", help="Start Flower as well.")] = False,
) -> None:
    """Start a whole stack and keep it running until Ctrl-C.

    A server is not started if DATABASE_URL, REDIS_URL or S3_ENDPOINT names one.
    """
    _end_by_exception()
    try:
        with stack.running(stack.Options(data_dir, port, flower), say) as running:
            _announce(running.connection, data_dir)
            running.tend_forever()
    except KeyboardInterrupt:
        say("Stopped.")


@app.command("demo")
def run_demo(
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("demo-output"),
    data_dir: DataDir = _DEFAULT_DIR,
) -> None:
    """Start a stack, make two pictures through it, show what they cost, and stop it."""
    _end_by_exception()
    try:
        with stack.running(stack.Options(data_dir, port=0), say) as running:
            demo.run(running, output)
    except KeyboardInterrupt:
        complain("Stopped before the end.")
        sys.exit(1)


@app.command()
def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = processes.LOOPBACK,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
    threads: Annotated[int, typer.Option(help="Threads of each process.", min=1)] = 8,
    data_dir: DataDir = _DEFAULT_DIR,
) -> None:
    """Serve the API, on the servers that the environment names or else the data folder's."""
    _settle(data_dir)
    command = processes.gunicorn(f"{host}:{port}", workers=workers, threads=threads)
    os.execv(command[0], command)  # noqa: S606  no shell is wanted


@app.command()
def worker(
    orchestrator: Annotated[str, typer.Option(help="Whose offers to serve.")] = DEMO,
    models: Annotated[
        list[str] | None,
        typer.Option("--models", help="Serve this model only; may be given again."),
    ] = None,
    data_dir: DataDir = _DEFAULT_DIR,
) -> None:
    """Run jobs of an orchestrator's offers until told to stop. One process for each GPU."""
    _settle(data_dir)
    # Here and not above: these load torch, which no other command needs.
    from tasks import worker as gpu
    from tasks.engine.diffusion import DiffusionEngine

    gpu.run(orchestrator, models or (), DiffusionEngine.from_settings)


@app.command()
def scheduler(data_dir: DataDir = _DEFAULT_DIR) -> None:
    """Ring for forgotten jobs, take back lost ones, expire overdue ones. Several may run."""
    _settle(data_dir)
    sweeper.run()


@app.command()
def flower(
    port: Annotated[int, typer.Option(help="Port to listen on, on the loopback.")] = 5555,
    data_dir: DataDir = _DEFAULT_DIR,
) -> None:
    """Watch the queues in a browser. Set FLOWER_BASIC_AUTH to user:password."""
    _settle(data_dir)
    arguments = (f"--port={port}", f"--address={processes.LOOPBACK}", "--read_only=True")
    make_celery(TaskSettings()).start(["flower", *arguments])


@db_app.command("upgrade")
def upgrade(data_dir: DataDir = _DEFAULT_DIR) -> None:
    """Bring the database to the newest schema."""
    migrate.upgrade(admin.database_url(data_dir))
    say("The schema is up to date.")


@models_app.command("make-demo")
def make_demo(
    target: Annotated[Path, typer.Argument(help="Folder to write the models and catalog to.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Make small models with random weights, one for each layout, and a catalog of them."""
    from tasks.engine.demo import make_demo as make

    say(f"The catalog of the demo models is {make(target, seed)}")


def _settle(data_dir: Path) -> None:
    """Take the settings from the data folder's stack, unless the environment has its own."""
    if not settings.UpSettings().database_url:
        settings.adopt(Connection.read(data_dir).environment())


def _end_by_exception() -> None:
    """Let the signals that ask for an end unwind the stack, once: a second one changes nothing."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(_number: int, _frame: FrameType | None) -> Never:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, end)


def _announce(connection: Connection, data_dir: Path) -> None:
    say(f"""
Pixeltoll is up.

  API         {connection.url}
  docs        {connection.url}/docs
  API key     {connection.api_key}
  Flower      {connection.flower_url or "not started (--flower)"}
  database    {connection.database_url}
  pictures    {connection.s3_endpoint}/{connection.s3_bucket}
  logs        {data_dir / "logs"}
  all of it   {data_dir / "connection.json"}

Ctrl-C stops it.""")


admin.add_to(app)
