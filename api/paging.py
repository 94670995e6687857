"""Pages of lists whose rows have a number that grows: cutting them, and their cursors.

A cursor says where to go on, and means nothing to its reader.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from tasks.errors import FieldError, InvalidParams

Row = TypeVar("Row")
_BYTES = 8


def cut(
    rows: Sequence[Row], limit: int, number: Callable[[Row], int]
) -> tuple[Sequence[Row], str | None]:
    """Return a page of at most `limit` rows, and the cursor of the next where there are more.

    Asking for one row more than the page is what tells that there are.
    """
    page = rows[:limit]
    return page, _cursor(number(page[-1])) if len(rows) > limit else None


def read_cursor(cursor: str | None) -> int | None:
    """Return the number that a cursor goes on from; None is the first page.

    Raises:
        InvalidParams: It is no cursor.
    """
    if cursor is None:
        return None
    try:
        data = base64.b64decode(cursor + "=", altchars=b"-_", validate=True)
        number = int.from_bytes(data, signed=True)
    except (binascii.Error, ValueError):
        number = -1
    if number < 0 or _cursor(number) != cursor:
        raise InvalidParams([FieldError("cursor", "is not a `next_cursor` of this list")])
    return number


def _cursor(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(_BYTES)).decode().rstrip("=")
