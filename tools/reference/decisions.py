"""docs/decisions/index.md: a list of the decisions, from their pages."""

from __future__ import annotations

from pathlib import Path

from tools.reference.markdown import NOTICE, table

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
_INTRO = """\
Why things are as they are: one page for each decision, with what else was considered and what it
costs. A decision that no longer holds is superseded by another and stays.
"""


def page() -> str:
    """Return the page."""
    rows = (_row(path) for path in sorted(FOLDER.glob("0*.md")))
    return "\n\n".join((NOTICE, "# Decisions", _INTRO.strip(), table(("", "decision"), rows)))


def _row(path: Path) -> tuple[str, str]:
    """Return a decision's number, and its title as a link."""
    number, _, title = path.read_text("utf-8").partition("\n")[0].removeprefix("# ").partition(". ")
    return number, f"[{title}]({path.name})"
