"""JSON with the line of each value, to tell whoever wrote a file where it is wrong.

Numbers stay as they are written, so that no float changes a digit. What the values mean is not
known here.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from ledger.errors import InvalidFile

_SPACE = re.compile(r"[ \t\n\r]*")


class Number(str):
    """A number, or what JavaScript takes for one (`NaN`), as it is written."""

    __slots__ = ()


@dataclass(frozen=True)
class Located:
    """A value, and the line that it begins on; lists and objects hold such values again."""

    value: Any
    line: int


_decoder = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant=Number)


def read(text: str, file: str) -> Located:
    """Return what a file's text says.

    Raises:
        InvalidFile: It is no JSON, or an object says something twice; names the line.
    """
    try:
        _decoder.decode(text)  # says what is no JSON; so below, every value is well formed
        return _Reader(text, file).document()
    except json.JSONDecodeError as error:
        raise InvalidFile(file, error.lineno, f"is not JSON: {error.msg}") from error
    except RecursionError as error:
        raise InvalidFile(file, 1, "is nested too deeply") from error


class _Reader:
    """Walks through a text that is known to be JSON."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._breaks = [found.start() for found in re.finditer("\n", text)]
        self._at = 0

    def document(self) -> Located:
        self._take("")
        return self._value()

    def _value(self) -> Located:
        line = bisect_left(self._breaks, self._at) + 1
        if self._text[self._at] == "{":
            return Located(self._object(), line)
        if self._text[self._at] == "[":
            return Located(self._list(), line)
        value, self._at = _decoder.raw_decode(self._text, self._at)
        return Located(value, line)

    def _list(self) -> list[Located]:
        values = []
        self._take("[")
        while not self._take("]"):
            values.append(self._value())
            self._take(",")
        return values

    def _object(self) -> dict[str, Located]:
        fields: dict[str, Located] = {}
        self._take("{")
        while not self._take("}"):
            name = self._value()
            self._take(":")
            if name.value in fields:
                raise InvalidFile(self._file, name.line, f"{name.value}: is said twice")
            fields[name.value] = self._value()
            self._take(",")
        return fields

    def _take(self, mark: str) -> bool:
        """Pass white space, and a mark with the white space after it, if that comes next."""
        self._pass_space()
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        self._pass_space()
        return True

    def _pass_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at
