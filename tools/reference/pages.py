"""Which pages of the documentation are made from the code, or from other pages, and by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tools.reference import cli, decisions, errors, http, settings

DOCS = Path(__file__).parents[2] / "docs"
PAGES: Mapping[str, Callable[[], str]] = {
    "decisions/index.md": decisions.page,
    "reference/bodies.md": http.bodies,
    "reference/cli.md": cli.page,
    "reference/errors.md": errors.page,
    "reference/http.md": http.routes,
    "reference/settings.md": settings.page,
}
