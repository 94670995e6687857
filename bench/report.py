"""How the figures are shown: a table on the terminal, and the same one as Markdown in a file."""

from __future__ import annotations

import datetime as dt
import os
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.measure import Row

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
_HEADINGS = ("what", "ours", "baseline", "ratio, median", "min", "max", "better is")
_NOTE = (
    "Ratio: ours / baseline in the same round. Median, min and max are of the ratios of all "
    "rounds; ours and baseline are the medians of all rounds, or percentiles of all samples."
)
_SYNCS = 50
_WHOLE = 100  # From here on, decimals say nothing.


def machine(folder: Path) -> str:
    """Say in a line what the figures were taken on; `folder` is where the data was."""
    load = os.getloadavg()[0]
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "flask", "sqlalchemy"))
    return (
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {os.cpu_count()} CPUs "
        f"({platform.machine()}), fdatasync {1e3 * _sync_s(folder):.2f} ms, "
        f"load before {load:.1f}, Python {platform.python_version()}, {packages}"
    )


def _sync_s(folder: Path) -> float:
    """Return how long the disk takes to keep 8 KiB: no commit that lasts is faster."""
    taken = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(bytes(8192))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def show(rows: Sequence[Row], where: str) -> None:
    """Print the table."""
    table = Table(*_HEADINGS, title=where, caption=_NOTE)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for row in rows:
        table.add_row(*_cells(row))
    # Piped into a file, the table is as wide as it needs to be.
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def write(rows: Sequence[Row], where: str, path: Path) -> None:
    """Write the table between the two markers of a page, or as a page of its own."""
    body = f"{BEGIN}\n{markdown(rows, where)}\n{END}"
    page = path.read_text("utf-8") if path.exists() else ""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    path.write_text(
        f"{before}{body}{after}" if begin and end else f"# Figures\n\n{body}\n", "utf-8"
    )


def markdown(rows: Sequence[Row], where: str) -> str:
    """Return the table as Markdown."""
    lines = [_HEADINGS, ("---", *["---:"] * (len(_HEADINGS) - 2), "---"), *map(_cells, rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{where}\n\n{table}\n\n{_NOTE}"


def _cells(row: Row) -> tuple[str, ...]:
    ratios = row.ratios
    figures = (statistics.median(ratios), min(ratios), max(ratios))
    return (
        row.what,
        f"{_plain(row.ours)} {row.unit}",
        f"{_plain(row.baseline)} {row.unit}",
        *(f"{ratio:.2f}" for ratio in figures),
        row.better,
    )


def _plain(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= _WHOLE else f"{figure:.3g}"
