"""What all commands have in common: how they are told of a data folder, of JSON, of how many rows.

The options of the commands about the books are `pixeltoll.commands.common`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pixeltoll import settings
from pixeltoll.state import Connection

DEFAULT_DIR = Path(".pixeltoll")
DataDir = Annotated[
    Path, typer.Option(help="Folder of the stack: its data, logs and connection.json.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Limit = Annotated[int, typer.Option(help="How many rows at most.", min=1, max=10**9)]


def settle(data_dir: Path) -> None:
    """Take the settings from the data folder's stack, unless the environment has its own.

    Raises:
        NotRunning: Neither is there.
    """
    if not settings.UpSettings().database_url:
        settings.adopt(Connection.read(data_dir).environment())
