"""`python -m tools.reference` writes the pages that are made from the code into docs."""

from __future__ import annotations

from tools.reference.pages import DOCS, PAGES


def main() -> None:
    """Write every page."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), "utf-8")
        print(DOCS / name)


if __name__ == "__main__":
    main()
