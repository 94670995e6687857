"""The command that lists the catalog's models, and which of them can be had now."""

from __future__ import annotations

import typer

from ledger import offers
from pixeltoll.commands.common import AsJson, books
from pixeltoll.console import show_all
from pixeltoll.run import DEFAULT_DIR, DataDir, models_app, settle
from tasks import availability, catalog, workers
from tasks.settings import TaskSettings

_COLUMNS = ("model_id", "pipeline", "state", "offers", "aliases", "reason")


def add_to(_app: typer.Typer) -> None:
    """Add the command to those about models, which the main one has already."""
    models_app.command("list")(list_models)


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
