"""Which texts can be kept as a name or a reference, and how what cannot is told of."""

from __future__ import annotations

from ledger.errors import InvalidName

MAX_NAME = 200


def checked(field: str, name: str) -> str:
    """Return a name when it can be kept.

    Raises:
        InvalidName: It is not 1 to 200 printable characters; names the field.
    """
    if not (1 <= len(name) <= MAX_NAME and name.isprintable()):
        raise InvalidName(f"{field}: must be 1 to {MAX_NAME} printable characters.")
    return name


def shown(text: str) -> str:
    """Return a text to print: what is not printable in it, such as half a surrogate, is escaped."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
