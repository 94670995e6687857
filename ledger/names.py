"""Which texts can be kept as a name or a reference: one rule for all of them."""

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
