"""The documentation is true of the code: settings by name, default and line; links that lead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from api.settings import ApiSettings
from ledger.settings import LedgerSettings
from tasks.settings import TaskSettings

DOCS = Path(__file__).parents[2] / "docs"


def settings_rows(settings: type[BaseSettings]) -> list[str]:
    """The rows of a settings table: name of the variable, default, description."""
    rows = []
    for name, field in settings.model_fields.items():
        variable = field.validation_alias or name.upper()
        default = field.default
        shown = default.get_secret_value() if isinstance(default, SecretStr) else default
        if isinstance(shown, Path):
            shown = f"~/{shown.relative_to(Path.home())}"
        text = "" if shown in ("", None) else f"`{shown}`"
        rows.append(f"| `{variable}` | {text} | {field.description} |")
    return rows


@pytest.mark.parametrize("settings", [LedgerSettings, TaskSettings, ApiSettings])
def test_every_setting_is_documented_with_its_default(settings: type[BaseSettings]) -> None:
    page = (DOCS / "operations.md").read_text("utf-8")
    missing = [row for row in settings_rows(settings) if row not in page]
    assert not missing, "docs/operations.md lacks these rows:\n" + "\n".join(missing)


def test_every_link_between_pages_leads_somewhere() -> None:
    root = DOCS.parent
    for page in [root / "README.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(root)} links to {target}"
