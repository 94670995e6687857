"""The documentation is true and whole: made from the code where it can be, links that lead, and a
site that asks no other host for anything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from tools.reference import errors
from tools.reference.pages import DOCS, PAGES

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
LOADED = re.compile(r"<(?:script|link|img|iframe)[^>]*\s(?:src|href)=\"?(https?:[^\"\s>]+)")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_made_from_the_code_is_current(name: str) -> None:
    page = (DOCS / name).read_text("utf-8")

    assert page == PAGES[name](), "Run `python -m tools.reference`."


def test_every_code_needs_words_about_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    remedies = {code: words for code, words in errors._REMEDIES.items() if code != "no_offer"}
    monkeypatch.setattr(errors, "_REMEDIES", remedies)

    with pytest.raises(LookupError, match="no_offer"):
        errors.page()


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_every_link_from_outside_the_site_leads_somewhere(page: str) -> None:
    for target in LINK.findall((ROOT / page).read_text("utf-8")):
        assert (ROOT / target).exists(), f"{page} links to {target}"


def test_the_readme_is_one_screen_and_a_table_of_contents() -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    screen, contents = page.split("\n## Read on\n")

    assert len(screen.splitlines()) <= 45
    assert len(page.splitlines()) <= 60
    assert len(re.findall(r"!\[\]\(docs/images/shapes-\d\.png\)", screen)) == 4
    assert {"docs/tutorial.md", "docs/operations.md", "docs/glossary.md"} <= set(
        LINK.findall(contents)
    )


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    # A broken link or anchor, and a page that is not in the navigation, end the build.
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path)))

    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))  # the page of 404s is one more
    assert {url for page in pages for url in LOADED.findall(page.read_text("utf-8"))} == set()


@pytest.mark.parametrize("link", ["nowhere.md", "#nowhere", "/index.html"])
def test_a_link_that_leads_nowhere_ends_the_build(
    tmp_path: Path, link: str, caplog: pytest.LogCaptureFixture
) -> None:
    pages = tmp_path / "docs"
    pages.mkdir()
    (pages / "index.md").write_text(f"[a page]({link}), [itself](index.md)", "utf-8")
    config = load_config(
        str(ROOT / "mkdocs.yml"),
        docs_dir=str(pages),
        site_dir=str(tmp_path / "site"),
        nav=["index.md"],
        extra_css=[],
    )

    with pytest.raises(Abort, match="with 1 warnings"):
        build(config)

    [warning] = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert f"'{link}'" in warning
