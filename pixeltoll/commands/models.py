"""The commands about models: which of the catalog's can be had now, and a copy of the demo's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from ledger import offers
from pixeltoll.commands.common import books
from pixeltoll.console import show_all, tell
from pixeltoll.errors import NotWritten
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir, settle
from tasks import availability, catalog, workers
from tasks.settings import TaskSettings

models_app = typer.Typer(no_args_is_help=True, help="The models that there are.")

_COLUMNS = ("model_id", "pipeline", "state", "offers", "aliases", "reason")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(models_app, name="models")


@models_app.command("list")
def list_models(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """List the models: warm in a worker's memory, on demand, or unavailable and why."""
    settle(data_dir)
    known = catalog.load(TaskSettings().catalog)
    with books(data_dir) as session:
        candidates = workers.candidates(session, offers.live(session))
    rows = []
    for spec in known.models():
        for pipeline in spec.pipelines:
            offered = [
                one
                for one in candidates
                if (one.offer.capability.pipeline, one.offer.capability.model_id)
                == (pipeline, spec.model_id)
            ]
            found = availability.of(spec, offered)
            rows.append(
                {
                    "model_id": spec.model_id,
                    "pipeline": pipeline,
                    "state": found.state,
                    "offers": len(offered),
                    "aliases": ", ".join(spec.aliases),
                    "reason": found.reason or "",
                }
            )
    show_all(_COLUMNS, rows, as_json=as_json)


@models_app.command("copy-demo")
def copy_demo(
    target: Annotated[Path, typer.Argument(help="Folder to copy the models and catalog to.")],
    keep: Annotated[bool, typer.Option("--keep", help="Leave models that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy the demo models and their catalog, for a start of your own."""
    shipped = catalog.DEMO
    found = target / shipped.name
    if keep and found.exists():
        kept = {"catalog": found, "copied": False}
        tell(f"The models in {target} are left as they are.", kept, as_json=as_json)
        return
    try:
        shutil.copytree(
            shipped.parent,
            target,
            ignore=shutil.ignore_patterns(shipped.name),
            copy_function=shutil.copyfile,
            dirs_exist_ok=True,
        )
        # The last: where it is, the models are complete.
        shutil.copyfile(shipped, found)
    except OSError as error:
        raise NotWritten(target, error.strerror or str(error)) from error
    copied = {"catalog": found, "copied": True}
    tell(f"The catalog of the demo models is {found}", copied, as_json=as_json)
