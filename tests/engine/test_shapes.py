"""The shipped models do what they are told: drawn, edited, outlined, and each job its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from PIL import Image
from sqlalchemy.orm import Session, sessionmaker

from tasks import catalog
from tasks.catalog import DEMO, DEMO_LORA, Catalog
from tasks.engine.diffusion import DiffusionEngine
from tasks.engine.protocol import Batch, ImageTask, StepCallback
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests import stage as stages
from tests.invariants import assert_sound
from tests.shapes import PROMPTS, assert_own_pictures, with_shapes
from tools import checker, evaluate, held_out, scenes
from tools.evaluate import DRAW_ID, EDIT_ID

FEW = 10
RIGHT_MIN = 8  # of the few: docs/explanation/demo-model.md has the shares of all
ADAPTER = str(DEMO_LORA)
Each = TypeVar("Each")


@pytest.fixture(scope="module")
def shipped() -> Catalog:
    return catalog.load(DEMO)


@pytest.fixture(scope="module")
def artist(tmp_path_factory: pytest.TempPathFactory) -> DiffusionEngine:
    return DiffusionEngine(tmp_path_factory.mktemp("cache"), device="cpu", lora_patterns=("/*",))


@pytest.fixture(scope="module")
def plain(artist: DiffusionEngine, shipped: Catalog) -> list[Image.Image]:
    """What the model draws of a few prompts that it was not trained on."""
    return drawn(artist, shipped)


def some(everything: Sequence[Each]) -> Sequence[Each]:
    """A few, from all over a list."""
    return everything[:: len(everything) // FEW][:FEW]


def drawn(
    artist: DiffusionEngine, shipped: Catalog, loras: dict[str, float] | None = None
) -> list[Image.Image]:
    tasks = [ImageTask(each.text, "", each.seed) for each in some(held_out.prompts())]
    return evaluate.run(artist, shipped.get(DRAW_ID), tasks, loras)


def outlined(pictures: Sequence[Image.Image]) -> int:
    return sum(checker.read(picture).outlined for picture in pictures)


def test_prompts_that_were_held_out_are_drawn_right(plain: list[Image.Image]) -> None:
    rights = [
        evaluate.drawn_right(prompt, checker.read(picture))
        for prompt, picture in zip(some(held_out.prompts()), plain, strict=True)
    ]

    assert sum(right["colour"] and right["shape"] for right in rights) >= RIGHT_MIN


def test_edits_that_were_held_out_do_what_they_are_told(
    artist: DiffusionEngine, shipped: Catalog
) -> None:
    chosen = some(held_out.edits())
    given = [scenes.render(each.before) for each in chosen]
    tasks = [
        ImageTask(each.text, "", each.seed, picture)
        for each, picture in zip(chosen, given, strict=True)
    ]

    made = evaluate.run(artist, shipped.get(EDIT_ID), tasks)

    rights = [evaluate.edited_right(*each) for each in zip(chosen, given, made, strict=True)]
    assert sum(right["both"] for right in rights) >= RIGHT_MIN


def test_the_lora_outlines_at_weight_one_and_changes_nothing_at_zero(
    artist: DiffusionEngine, shipped: Catalog, plain: list[Image.Image]
) -> None:
    assert outlined(plain) == 0
    assert outlined(drawn(artist, shipped, {ADAPTER: 1.0})) >= RIGHT_MIN
    for before, after in zip(plain, drawn(artist, shipped, {ADAPTER: 0.0}), strict=True):
        assert checker.difference(before, after) < 1


def test_all_that_is_shipped_is_small_and_has_its_card() -> None:
    files = [path for path in DEMO.parent.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) <= 20_000_000
    # Nothing names a folder of the machine that it was trained on.
    assert not [path for path in files if path.name == "config.json" and '"/' in path.read_text()]
    for folder in (DEMO.with_name("shapes"), DEMO.with_name("shapes-edit"), DEMO_LORA):
        assert "license: apache-2.0" in (folder / "README.md").read_text()


class Watched(DiffusionEngine):
    """Remembers the sizes of its batches."""

    def __init__(self, cache: Path) -> None:
        super().__init__(cache, device="cpu")
        self.sizes: list[int] = []

    def generate(self, batch: Batch, on_step: StepCallback) -> list[Image.Image]:
        self.sizes.append(len(batch.tasks))
        return super().generate(batch, on_step)


def test_jobs_of_one_batch_each_get_their_own_picture(
    session_factory: sessionmaker[Session],
    task_settings: TaskSettings,
    store: ObjectStore,
    tmp_path: Path,
) -> None:
    # Nothing renews leases here, and a busy machine may take long.
    settings = task_settings.model_copy(update={"lease_s": 600.0})
    stage = with_shapes(stages.furnish(session_factory, settings, DEMO))
    jobs = [stage.submit(prompt, model_id=DRAW_ID) for prompt in PROMPTS]
    engine = Watched(tmp_path)

    stage.runner(engine, store, models=(DRAW_ID,))[0].serve()

    assert engine.sizes == [len(PROMPTS)] == [24]
    assert_own_pictures(stage, store, jobs)
    assert_sound(stage.sessions, store)
