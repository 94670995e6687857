"""The bench runs and writes its table; what the figures are is not a test's business."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import backlog, report
from bench.engines import SUBMITTED
from bench.measure import Row
from ledger import audit, db
from tests.databases import ReusedDatabase

ROOT = Path(__file__).resolve().parents[2]
ROW = Row("a thing", "ms", "lower", ours=1.5, baseline=1234.5, ratios=(0.5, 0.25, 1.0))


@pytest.mark.slow
def test_the_bench_measures_claims_and_fills_the_place_in_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Before\n\n{report.BEGIN}\nold figures\n{report.END}\n\nAfter\n", "utf-8")
    command = (
        *(sys.executable, "-m", "bench", "--quick", "--only", "claims"),
        *("--depths", "400,800", "--write", str(page)),
    )

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    written = page.read_text("utf-8")
    assert written.startswith(f"Before\n\n{report.BEGIN}\n")
    assert written.endswith(f"{report.END}\n\nAfter\n")
    assert "old figures" not in written
    for operation in ("claims of 8", "queue positions", "list pages of 20", "cancels"):
        assert f"| {operation}, 800 jobs queued (baseline: 400) | " in written
        assert operation in done.stdout


def test_a_file_without_markers_becomes_a_page_of_figures(tmp_path: Path) -> None:
    page = tmp_path / "results.md"

    report.write([ROW], "somewhere", page)

    assert "| a thing | 1.5 ms | 1,234 ms | 0.50 | 0.25 | 1.00 | lower |" in page.read_text("utf-8")


def test_a_backlog_of_copies_leaves_the_books_sound(
    reused_database: ReusedDatabase, database_url: str
) -> None:
    """The benches stop where the audit finds something, and that is not to be of their own."""
    sessions = db.session_factory(reused_database.owners_engine)
    with sessions.begin() as session:
        gateway_id = backlog.open_books(session, [SUBMITTED])
    backlog.deepen(sessions, gateway_id, SUBMITTED, 5)
    with sessions.begin() as session:
        assert not audit.check(session)
