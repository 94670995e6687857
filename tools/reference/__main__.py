"""`python -m tools.reference` writes the pages that are made from the code into docs/reference."""

from __future__ import annotations

from tools.reference.pages import FOLDER, PAGES


def main() -> None:
    """Write every page."""
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), "utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
