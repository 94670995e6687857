"""The commands that run a whole stack on this machine: for good, or for a demonstration."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Never

import typer

from pixeltoll import demo, stack
from pixeltoll.console import complain, say
from pixeltoll.exits import Exit
from pixeltoll.options import DEFAULT_DIR, DataDir
from pixeltoll.state import Connection


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.command("up")(up)
    app.command("demo")(run_demo)


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
        sys.exit(Exit.INTERRUPTED)


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
  metrics     {connection.url}/metrics (with metrics_key of connection.json),
              {connection.worker_url}/metrics, {connection.scheduler_url}/metrics
  database    {connection.database_url}
  pictures    {connection.s3_endpoint}/{connection.s3_bucket}
  logs        {data_dir / "logs"}
  all of it   {data_dir / "connection.json"}

Ctrl-C stops it.""")
