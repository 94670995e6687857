"""What the command writes: plain lines, tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from rich.console import Console
from rich.table import Table

from ledger.money import plain

_TABLE_WIDTH_MAX = 10_000
_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


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


def show_all(
    columns: Sequence[str], rows: Sequence[Mapping[str, object]], *, as_json: bool
) -> None:
    """Write many things: a table, or a JSON object with the list under `data`."""
    if as_json:
        _out.print(json.dumps({"data": [_written(row) for row in rows]}, indent=2), markup=False)
        return
    if not rows:
        _out.print("None.", markup=False)
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(_cell, _written(row).values()))
    # As wide as it is: what a narrow terminal or a pipe would cut off is what was asked for.
    _out.print(table, width=_TABLE_WIDTH_MAX)


def _written(facts: Mapping[str, object]) -> dict[str, object]:
    return {name: _value(value) for name, value in facts.items()}


def _value(value: object) -> object:
    """Turn a value into one that JSON has; money is a decimal string, never a float."""
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _cell(value: object) -> str:
    return "-" if value is None else str(value)
