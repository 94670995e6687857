"""The commands that show workers, and have them take no more jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import typer
from sqlalchemy.orm import Session, sessionmaker

from ledger import db
from pixeltoll.commands.common import books, database_url
from pixeltoll.console import bars, show_all
from pixeltoll.errors import BadArgument, NotDrained
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir
from tasks import draining
from tasks.draining import Standing

_COLUMNS = ("id", "orchestrator", "state", "running", "loaded", "heartbeat_at")
_POLL_S = 0.25


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.command("workers")(list_workers)
    app.command("drain")(drain)


def list_workers(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """List the workers: live, draining, drained, or silent; and how many jobs each runs."""
    with books(data_dir) as session:
        found = draining.look(session)
    show_all(_COLUMNS, [_facts(one) for one in found], as_json=as_json)


def drain(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORKER]...", help="Workers' ids, or names of orchestrators."),
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Drain all workers.")] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="How many seconds to wait for them.", min=0)
    ] = 300.0,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Have workers take no more jobs, and wait until they have none.

    Each ends its batch, or hands it back after PIXELTOLL_DRAIN_S; nothing is lost. It then stays
    idle until it is stopped or started again.
    """
    if bool(names) == everyone:
        raise BadArgument("Name workers or orchestrators, or give --all.")
    engine = db.make_engine(database_url(data_dir), pool_size=2)
    try:
        sessions = db.session_factory(engine)
        with sessions.begin() as session:
            asked = [one.id for one in _chosen(draining.look(session), names or ())]
            draining.ask(session, asked)
        ended = _wait(sessions, asked, timeout_s, as_json=as_json)
    finally:
        engine.dispose()
    show_all(_COLUMNS, [_facts(one) for one in ended], as_json=as_json)


def _chosen(known: Sequence[Standing], names: Sequence[str]) -> list[Standing]:
    """Return the workers that are there, or those of these names.

    Raises:
        BadArgument: A name is of none of them.
    """
    there = [one for one in known if not one.is_done]
    for name in names:
        if not any(name in (one.id, one.orchestrator) for one in there):
            raise BadArgument(
                f"{name}: no worker of that id or orchestrator is there. `pixeltoll workers` lists "
                "them."
            )
    return [one for one in there if not names or {one.id, one.orchestrator} & set(names)]


def _wait(
    sessions: sessionmaker[Session], asked: Sequence[str], timeout_s: float, *, as_json: bool
) -> list[Standing]:
    """Return how the workers stand once all of them are done.

    Raises:
        NotDrained: Some are not, after this long.
    """
    until = time.monotonic() + timeout_s
    with bars(as_json=as_json) as shown:
        bar = shown.add_task("drained", total=len(asked))
        while True:
            with sessions.begin() as session:
                now = [one for one in draining.look(session) if one.id in asked]
            # A row that is gone is of a worker that left long ago.
            left = [one for one in now if not one.is_done]
            shown.update(bar, completed=len(asked) - len(left))
            if not left:
                return now
            if time.monotonic() > until:
                raise NotDrained([one.id for one in left], timeout_s)
            time.sleep(_POLL_S)


def _facts(one: Standing) -> dict[str, object]:
    facts = {column: getattr(one, column) for column in _COLUMNS}
    return {**facts, "loaded": ", ".join(one.loaded)}
