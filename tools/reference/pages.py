"""Which reference pages are made from the code, and by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tools.reference import errors, http, settings

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
PAGES: Mapping[str, Callable[[], str]] = {
    "bodies.md": http.bodies,
    "errors.md": errors.page,
    "http.md": http.routes,
    "settings.md": settings.page,
}
