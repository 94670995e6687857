"""`python -m pixeltoll.health URL`: status 0 if a process says that it is well, else 1.

What a container's health check runs, every few seconds: it needs the standard library alone.
"""

from __future__ import annotations

import sys
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import urlopen

_TIMEOUT_S = 5.0


def answer(url: str) -> tuple[bool, str]:
    """Return whether an address answers that all is well, and what it said."""
    try:
        with urlopen(url, timeout=_TIMEOUT_S) as response:  # noqa: S310  the operator's own address
            return True, response.read(1000).decode("utf-8", "replace").strip()
    except HTTPError as error:
        return False, f"{error.code}: {error.read(1000).decode('utf-8', 'replace').strip()}"
    except (OSError, HTTPException, ValueError) as error:
        return False, f"{type(error).__name__}: {error}"


def main(arguments: list[str]) -> int:
    """Ask, say what was answered, and return the exit status."""
    if len(arguments) != 1:
        sys.stderr.write("Usage: python -m pixeltoll.health URL\n")
        return 2
    is_well, said = answer(arguments[0])
    sys.stdout.write(f"{said}\n")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
