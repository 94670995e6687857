"""Cursors of lists: what was given out is read, and nothing else is."""

from __future__ import annotations

import pytest

from api.paging import cut, read_cursor
from tasks.errors import InvalidParams


@pytest.mark.parametrize("number", [0, 1, 255, 2**63 - 1])
def test_a_cursor_goes_on_from_the_last_row_of_its_page(number: int) -> None:
    page, cursor = cut([number, -1], 1, lambda row: row)

    assert page == [number]
    assert read_cursor(cursor) == number


def test_the_last_page_has_no_cursor_and_the_first_needs_none() -> None:
    assert cut([], 1, lambda row: row) == ([], None)
    assert cut([7], 1, lambda row: row) == ([7], None)
    assert read_cursor(None) is None


@pytest.mark.parametrize("cursor", ["", "1", "AAAA", "AAAAAAAAAAE=", "_" * 11, "AAAAAAAAAAF", "é"])
def test_what_is_no_cursor_is_refused_by_name(cursor: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        read_cursor(cursor)
    assert [error.field for error in caught.value.errors] == ["cursor"]
