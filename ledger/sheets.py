"""Rows as CSV, for spreadsheets: exact amounts, and no text that runs as a formula.

The one writer of CSV, for payouts, statements, invoices and reports alike. It reads no rows itself.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal

from ledger.money import plain

# With one of these in front, a spreadsheet takes a text for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\n")


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Return rows as CSV: a line of the columns' names, then a line for each row.

    Amounts are plain decimals with every digit, times are ISO 8601, and what is None or missing is
    empty. A text that begins like a formula gets a `'` in front.
    """
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return sheet.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, date):  # and so a datetime
        return value.isoformat()
    # Only a line feed makes the writer quote a cell, and a carriage return ends a line for others.
    text = str(value).replace("\r\n", "\n").replace("\r", "\n")
    # A number keeps its sign: only what somebody else has written is guarded.
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text
