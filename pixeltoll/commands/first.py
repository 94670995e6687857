"""`pixeltoll bootstrap`: the bucket and the first rows on servers of the operator's own.

What `pixeltoll up` does by itself for what it starts; the rows are `pixeltoll.bootstrap`'s.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pixeltoll import bootstrap
from pixeltoll.commands.common import books, settlement_currency
from pixeltoll.console import tell
from pixeltoll.errors import BadArgument, NotWritten
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore

API_KEY, ORCHESTRATOR_KEY = "api-key", "orchestrator-key"


def add_to(app: typer.Typer) -> None:
    """Add this command to the main one."""
    app.command("bootstrap")(first_rows)


def first_rows(
    keys: Annotated[Path, typer.Option(help="Folder to write the keys to, a file for each.")],
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Make the bucket, and a demo gateway and orchestrator for PIXELTOLL_CATALOG's models.

    Again, it adds what is missing and changes nothing else. Keys that still work stay.
    """
    settings = TaskSettings()
    if settings.catalog is None:
        message = "PIXELTOLL_CATALOG: is not set; name the file of the models to offer."
        raise BadArgument(message)
    ObjectStore.from_settings(settings).ensure_bucket()
    served = bootstrap.capabilities(settings.catalog)
    with books(data_dir) as session:
        owner = bootstrap.demo_orchestrator(session, settlement_currency(), served)
        workers = bootstrap.worker_key(session, owner, _known(keys / ORCHESTRATOR_KEY))
        gateway = bootstrap.demo_gateway(session, settlement_currency())
        clients = bootstrap.demo_key(session, gateway, _known(keys / API_KEY))
    _write(keys / ORCHESTRATOR_KEY, workers)
    _write(keys / API_KEY, clients)
    files = {"api_key": keys / API_KEY, "orchestrator_key": keys / ORCHESTRATOR_KEY}
    tell(f"The demo gateway's key is in {keys / API_KEY}.", files, as_json=as_json)


def _known(path: Path) -> str:
    return path.read_text("utf-8").strip() if path.exists() else ""


def _write(path: Path, key: str) -> None:
    """Write a key, readable by its owner only, beside the old one and then in its place.

    Raises:
        NotWritten: It cannot be.
    """
    fresh = path.with_suffix(".new")
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{key}\n")
        fresh.replace(path)
    except OSError as error:
        raise NotWritten(path, error.strerror or str(error)) from error
