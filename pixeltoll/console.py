"""What the command writes: plain lines, tables, CSV and JSON, to the terminal or to a file."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ledger import sheets
from ledger.money import plain
from pixeltoll.errors import NotWritten

STDOUT = Path("-")

# As wide as a table may be: what a narrow terminal or a pipe would cut off is what was asked for.
_WIDTH = 10_000

# What is written is what is there: `:cat:` in a prompt is no cat.
_out = Console(highlight=False, emoji=False, soft_wrap=True)
_wide = Console(highlight=False, emoji=False, width=_WIDTH)
_err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def bars(*, as_json: bool) -> Progress:
    """Return progress bars for long work, on standard error: what is asked for is elsewhere.

    They are shown on a terminal only, and not to who asks for JSON, which is for a program.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=_err,
        disable=as_json or not _err.is_terminal,
    )


@contextmanager
def counted(description: str, *, as_json: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a bar for work in steps; what is returned moves it: steps done, and of how many."""
    with bars(as_json=as_json) as shown:
        bar = shown.add_task(description, total=None)

        def move(done: int, total: int) -> None:
            shown.update(bar, completed=done, total=total)

        yield move


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def say(text: str) -> None:
    """Write a line for the operator."""
    _out.print(text, markup=False)


def complain(text: str) -> None:
    """Write what went wrong, to standard error."""
    _err.print(text, markup=False)


def show(facts: Mapping[str, object], *, as_json: bool) -> None:
    """Write one thing: a line for each fact, or a JSON object."""
    if as_json:
        _out.print(json.dumps(_written(facts), indent=2), markup=False)
        return
    width = max(map(len, facts), default=0)
    for name, value in _written(facts).items():
        _out.print(f"{name:<{width}}  {_cell(value)}", markup=False)


def tell(text: str, facts: Mapping[str, object], *, as_json: bool) -> None:
    """Write what was done: a line for the operator, or its facts as a JSON object."""
    if as_json:
        show(facts, as_json=True)
    else:
        say(text)


def show_all(
    columns: Sequence[str], rows: Sequence[Mapping[str, object]], *, as_json: bool
) -> None:
    """Write many things: a table, or a JSON object with the list under `data`."""
    deliver(columns, rows, Format.JSON if as_json else Format.TABLE)


def deliver(
    columns: Sequence[str],
    rows: Sequence[Mapping[str, object]],
    how: Format,
    target: Path = STDOUT,
) -> None:
    """Write many things in some format to a file, or `-` for standard output.

    Raises:
        NotWritten: The file cannot be written.
    """
    if rows and how is Format.TABLE and target == STDOUT:
        _wide.print(_table(columns, rows))  # its header is bold where that can be shown
    else:
        write(render(columns, rows, how), target)


def render(columns: Sequence[str], rows: Sequence[Mapping[str, object]], how: Format) -> str:
    """Return rows as the text of a table, of CSV, or of a JSON object with them under `data`."""
    if how is Format.CSV:
        return sheets.to_csv(columns, rows)
    if how is Format.JSON:
        return json.dumps({"data": [_written(row) for row in rows]}, indent=2) + "\n"
    if not rows:
        return "None.\n"
    text = io.StringIO()
    Console(file=text, highlight=False, emoji=False, width=_WIDTH).print(_table(columns, rows))
    return text.getvalue()


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> Table:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(escape(_cell(_value(row[column]))) for column in columns))
    return table


def write(text: str, target: Path = STDOUT) -> None:
    """Write a text to a file, or `-` for standard output.

    Raises:
        NotWritten: The file cannot be written.
    """
    if target == STDOUT:
        sys.stdout.write(text)
        return
    try:
        # Not translated: CSV says itself where its lines end.
        target.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise NotWritten(target, error.strerror or str(error)) from error


def _written(facts: Mapping[str, object]) -> dict[str, object]:
    return {name: _value(value) for name, value in facts.items()}


def _value(value: object) -> object:
    """Turn a value into one that JSON has; money is a decimal string. Floats are measures."""
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return _written(value)
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _cell(value: object) -> str:
    return "-" if value is None else str(value)
