"""Jobs of the shipped model, each for a picture of its own, and what their pictures show."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from ledger.offers import Capability
from tasks import catalog
from tasks.catalog import DEMO
from tasks.storage import ObjectStore
from tasks.tables import Job
from tests import stage as stages
from tests.stage import PRICE, TEXT, Stage
from tools import checker
from tools.scenes import COLOURS, SHAPES

MODEL = "pixeltoll/shapes"
# 24 of them: every shape in four colours, every colour in three shapes.
_WANTED = [
    (shape, colour, ("white", "black")[row % 2])
    for row, shape in enumerate(SHAPES)
    for column, colour in enumerate(COLOURS)
    if (row + column) % 2 == 0
]
PROMPTS = [f"a {colour} {shape} on a {ground} background" for shape, colour, ground in _WANTED]
# Pictures that were mixed up would show next to none.
_SHAPES_MIN = 20


def with_shapes(stage: Stage) -> Stage:
    """Add the shipped models to the market, and an offer for drawing."""
    with stage.sessions.begin() as session:
        stages.offer(session, stage.orchestrator_id, Capability(TEXT, MODEL), PRICE)
    return replace(stage, catalog=catalog.load(DEMO))


def assert_own_pictures(stage: Stage, store: ObjectStore, jobs: Sequence[Job]) -> None:
    """Prove that jobs of `PROMPTS`, in their order, each have the picture of their own prompt.

    The model draws every colour right, and nearly every shape.
    """
    shown = [_shown(stage, store, job) for job in jobs]

    assert [told[1:] for told in shown] == [wanted[1:] for wanted in _WANTED]
    right = sum(told[0] == wanted[0] for told, wanted in zip(shown, _WANTED, strict=True))
    assert right >= _SHAPES_MIN, shown


def _shown(stage: Stage, store: ObjectStore, job: Job) -> tuple[str | None, str | None, str | None]:
    [output] = stage.outputs(job)
    with Image.open(io.BytesIO(store.get(output.key))) as picture:
        found = checker.read(picture)
    return found.shape, found.colour, found.background
