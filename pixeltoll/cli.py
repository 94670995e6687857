"""The `pixeltoll` command: a whole stack, and everything that is done to one.

The commands that are one process each are in `pixeltoll.run`; those about gateways, prices and
money in `pixeltoll.commands`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Never

import typer

from api.errors import ApiError
from pixeltoll import demo, logins, migrate, run, stack
from pixeltoll.commands import (
    audit,
    budgets,
    doctor,
    draining,
    first,
    gateways,
    invoices,
    jobs,
    limits,
    models,
    money,
    offers,
    orchestrators,
    payouts,
    rates,
    reports,
    webhooks,
)
from pixeltoll.console import complain, counted, say, tell
from pixeltoll.exits import Exit
from pixeltoll.run import DEFAULT_DIR, DataDir
from pixeltoll.settings import UpSettings
from pixeltoll.state import Connection

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Image generation jobs, priced by the pixel.",
)
db_app = typer.Typer(no_args_is_help=True, help="The database's schema.")


def main() -> None:
    """Run the command."""
    run.main(app, known=(ApiError,))


@app.command()
def up(
    data_dir: DataDir = DEFAULT_DIR,
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
    data_dir: DataDir = DEFAULT_DIR,
) -> None:
    """Start a stack, make two pictures through it, show what they cost, and stop it."""
    _end_by_exception()
    try:
        with stack.running(stack.Options(data_dir, port=0), say) as running:
            demo.run(running, output)
    except KeyboardInterrupt:
        complain("Stopped before the end.")
        sys.exit(Exit.FAILED)


@db_app.command("upgrade")
def upgrade(data_dir: DataDir = DEFAULT_DIR, as_json: run.AsJson = False) -> None:
    """Bring the database to the newest schema, and let PIXELTOLL_SERVICE_DATABASE_URL's user in."""
    given = UpSettings()
    owners_url = given.database_url or Connection.read(data_dir).owner_database_url
    with counted("migrations", as_json=as_json) as move:
        migrate.upgrade(owners_url, move)
    if given.service_database_url:
        logins.let_in(owners_url, given.service_database_url)
    tell("The schema is up to date.", {"upgraded": True}, as_json=as_json)


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


app.add_typer(run.app)
app.add_typer(db_app, name="db")
for room in (
    jobs,
    first,
    gateways,
    orchestrators,
    offers,
    limits,
    models,
    money,
    rates,
    budgets,
    payouts,
    reports,
    invoices,
    audit,
    webhooks,
    draining,
    doctor,
):
    room.add_to(app)
