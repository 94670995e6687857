"""The command that proves the books."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import typer

from ledger import audit
from ledger.audit import Finding
from pixeltoll.commands.common import books
from pixeltoll.console import complain, counted, say, show, show_all, tell
from pixeltoll.exits import Exit
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir
from tasks.audit import CHECKS as CHECKS_OF_JOBS

ledger_app = typer.Typer(no_args_is_help=True, help="The books themselves.")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(ledger_app, name="ledger")


@ledger_app.command("check")
def check(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Prove that the books are sound, or show what is not, and exit with status 3.

    It reads all of the books, and takes as long as that takes.
    """
    checks = len(audit.CHECKS) + len(CHECKS_OF_JOBS)
    findings = []
    with books(data_dir) as session, counted("checks", as_json=as_json) as move:
        for done, finding in enumerate(audit.each(session, also=CHECKS_OF_JOBS), 1):
            move(done, checks)
            if finding.rows:
                findings.append(finding)
    if not findings:
        facts = {"checks": checks, "findings": []}
        tell(f"The books are sound: {checks} checks.", facts, as_json=as_json)
        return
    # Rich ends the program where nobody reads on (`| head`), but the status says what was found.
    with contextlib.suppress(SystemExit):
        _tell_found(findings, checks, as_json=as_json)
    with contextlib.suppress(SystemExit):
        complain(f"The books are not sound: {len(findings)} of {checks} checks found something.")
    raise typer.Exit(Exit.FOUND)


def _tell_found(findings: Sequence[Finding], checks: int, *, as_json: bool) -> None:
    if as_json:
        found = [{"check": finding.check, "rows": finding.rows} for finding in findings]
        show({"checks": checks, "findings": found}, as_json=True)
        return
    for finding in findings:
        say(f"Found {finding.check}:")
        show_all(list(finding.rows[0]), finding.rows, as_json=False)
        say("")
