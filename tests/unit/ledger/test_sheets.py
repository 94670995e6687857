"""CSV that spreadsheets and programs read the same, with every digit of an amount."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from ledger.sheets import to_csv


def test_amounts_keep_every_digit_and_times_say_their_offset() -> None:
    row = {
        "amount": Decimal("-0.000000019073484000"),
        "units": 65536,
        "at": datetime(2026, 11, 3, 12, 0, tzinfo=UTC),
        "day": date(2026, 11, 3),
        "nothing": None,
        "left out": "of the columns",
    }

    assert to_csv(("amount", "units", "at", "day", "nothing", "missing"), [row]) == (
        "amount,units,at,day,nothing,missing\n"
        "-0.000000019073484,65536,2026-11-03T12:00:00+00:00,2026-11-03,,\n"
    )


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", "\n=1+1"])
def test_a_text_is_never_a_formula(text: str) -> None:
    [_, [cell]] = csv.reader(io.StringIO(to_csv(("reference",), [{"reference": text}]), newline=""))
    assert cell == f"'{text}"


def test_quotes_commas_and_lines_stay_in_their_cell() -> None:
    text = 'a "quoted", text\nof two lines'
    sheet = to_csv(("reference",), [{"reference": text}])
    assert list(csv.reader(io.StringIO(sheet, newline=""))) == [["reference"], [text]]


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_another_systems_line_ends_do_not_break_a_row(end: str) -> None:
    assert to_csv(("text",), [{"text": f"one{end}two"}]) == 'text\n"one\ntwo"\n'


def test_no_rows_are_the_columns_alone() -> None:
    assert to_csv(("a", "b"), []) == "a,b\n"
