"""docs/reference/settings.md: every variable of the environment, from the settings classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from api.settings import ApiSettings
from ledger.settings import LedgerSettings
from pixeltoll.settings import ClientSettings, UpSettings
from tasks.settings import TaskSettings
from tools.reference.markdown import NOTICE, table

_INTRO = """\
Read from the environment, by each process when it starts. A value that cannot be is an error that
names its variable, and the process does not start. Durations are seconds, sizes bytes. What is an
option instead is in [the command line](cli.md).
"""
_GROUPS: dict[str, tuple[type[BaseSettings], str]] = {
    "Books": (LedgerSettings, "Read by every process."),
    "Broker, storage and jobs": (TaskSettings, "Read by every process."),
    "API": (
        ApiSettings,
        "Read by `pixeltoll api`; schedulers need `PIXELTOLL_PUBLIC_URL`, too.",
    ),
    "What an operator brings along": (
        UpSettings,
        "Read by `pixeltoll up` and `demo`, where empty means one of their own, and by commands.",
    ),
    "A gateway's own commands": (ClientSettings, "Read by `pixeltoll submit` and `jobs`."),
}


def page() -> str:
    """Return the page."""
    parts = [NOTICE, "# Settings", _INTRO.strip()]
    for title, (settings, who) in _GROUPS.items():
        rows = table(("variable", "default", "what it does"), _rows(settings))
        parts += [f"## {title}", who, rows.rstrip()]
    return "\n\n".join(parts) + "\n"


def _rows(settings: type[BaseSettings]) -> Iterator[tuple[str, str, str]]:
    for name, field in settings.model_fields.items():
        variable = field.validation_alias or name.upper()
        default = _shown(field.default)
        yield f"`{variable}`", f"`{default}`" if default else "", field.description or ""


def _shown(default: object) -> str:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, Path):
        return f"~/{default.relative_to(Path.home())}"
    return "" if default is None else str(default)
