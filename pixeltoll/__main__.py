"""`python -m pixeltoll`: the same as the `pixeltoll` command."""

from __future__ import annotations

from pixeltoll.cli import main

main()
