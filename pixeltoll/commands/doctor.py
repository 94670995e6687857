"""The command that says whether an installation is well. `pixeltoll.doctor` looks at it."""

from __future__ import annotations

import typer

from ledger.settings import LedgerSettings
from pixeltoll import doctor
from pixeltoll.console import bars, show_all
from pixeltoll.exits import Exit
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir, settle
from tasks.settings import TaskSettings

_COLUMNS = ("check", "state", "found", "advice")


def add_to(app: typer.Typer) -> None:
    """Add the command to the main one."""
    app.command("doctor")(examine)


def examine(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Look at database, migrations, broker, storage, GPU, versions and clock, and say what to do.

    Ends with status 3 if something is wrong. A warning is not: it is for you to judge.
    """
    settle(data_dir)
    database_url, settings = LedgerSettings().database_url, TaskSettings()
    rows = []
    is_well = True
    with bars(as_json=as_json) as shown:
        bar = shown.add_task("looking", total=None)
        for finding in doctor.examine(database_url, settings):
            shown.update(bar, description=f"looked at {finding.check}")
            rows.append({column: getattr(finding, column) for column in _COLUMNS})
            is_well = is_well and finding.state != "wrong"
    show_all(_COLUMNS, rows, as_json=as_json)
    if not is_well:
        raise typer.Exit(Exit.FOUND)
