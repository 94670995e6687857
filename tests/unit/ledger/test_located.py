"""Pins that JSON with lines says what JSON says, and where."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidFile
from ledger.located import Located, Number, read

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def without_lines(located: Located) -> Any:
    value = located.value
    if isinstance(value, list):
        return [without_lines(item) for item in value]
    if isinstance(value, dict):
        return {name: without_lines(item) for name, item in value.items()}
    return int(value) if isinstance(value, Number) else value


@given(VALUES, st.sampled_from([None, 0, 2]), st.booleans())
def test_the_values_are_those_of_json(value: Any, indent: int | None, plain: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=plain)
    assert without_lines(read(text, "f")) == value


def test_each_value_knows_its_line() -> None:
    located = read('\n[1,\n {"a":\n  "two\\n",\n\r "b": [] }, 1.50]\n', "f")

    first, entry, last = located.value
    assert (located.line, first.line, entry.line, last.line) == (2, 2, 3, 5)
    assert (entry.value["a"].line, entry.value["b"].line) == (4, 5)
    assert (last.value, type(last.value)) == ("1.50", Number)


@pytest.mark.parametrize("text", ["[1,]", "{'a': 1}", '"a', "[1] 2", "[\x00]", "\ufeff[]", "[01]"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidFile, match="line 1: is not JSON"):
        read(text, "f")
