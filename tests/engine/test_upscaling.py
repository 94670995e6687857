"""Upscaling: a network draws what was not there, resampling does not, and both give the size that
is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tasks import catalog
from tasks.catalog import ModelSpec
from tasks.engine.diffusion import DiffusionEngine
from tasks.engine.protocol import Batch, ImageTask
from tasks.errors import Interrupted, ModelLoadError
from tests.engine.helpers import difference, go_on, sketch
from tests.engine.models import make_upscaler


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return make_upscaler(tmp_path_factory.mktemp("upscaler"))


def asked(model: ModelSpec, size: tuple[int, int], *pictures: Image.Image, seed: int = 1) -> Batch:
    return Batch(
        model=model,
        pipeline="upscale",
        width=size[0],
        height=size[1],
        num_inference_steps=2,
        guidance_scale=9.0,
        image_guidance_scale=1.5,
        strength=0.8,
        tasks=tuple(ImageTask("a cat", "", seed, picture) for picture in pictures),
    )


def test_pictures_of_any_size_are_drawn_larger(diffusion: DiffusionEngine, spec: ModelSpec) -> None:
    # One whose sides are no multiple of anything, and two of different sizes in one batch.
    first, second = sketch(size=(30, 21)), sketch("teal", (60, 42))
    made = diffusion.generate(asked(spec, (120, 84), first, second), go_on)
    assert [one.size for one in made] == [(120, 84)] * 2

    (again,) = diffusion.generate(asked(spec, (120, 84), first), go_on)
    assert difference(made[0], again) == 0
    (other,) = diffusion.generate(asked(spec, (120, 84), first, seed=2), go_on)
    assert difference(made[0], other) > 0


def test_every_step_is_told_and_may_be_the_last(
    diffusion: DiffusionEngine, spec: ModelSpec
) -> None:
    told: list[tuple[int, int]] = []

    def stop(done: int, steps: int) -> bool:
        told.append((done, steps))
        return done < 3

    with pytest.raises(Interrupted):
        diffusion.generate(asked(spec, (64, 64), *[sketch(size=(16, 16))] * 2), stop)
    assert told == [(1, 4), (2, 4), (3, 4)]


@pytest.mark.parametrize(
    ("name", "filtering"),
    [("Lanczos", Image.Resampling.LANCZOS), ("Nearest", Image.Resampling.NEAREST)],
)
def test_resampling_needs_no_network(
    diffusion: DiffusionEngine, name: str, filtering: Image.Resampling
) -> None:
    model = catalog.load().resolve(name)
    picture = sketch(size=(30, 20))
    diffusion.load(model, "upscale")
    assert model.model_id in diffusion.loaded
    (made,) = diffusion.generate(asked(model, (75, 50), picture), go_on)
    assert difference(made, picture.resize((75, 50), filtering)) == 0
    with pytest.raises(Interrupted):
        diffusion.generate(asked(model, (75, 50), picture), lambda _done, _steps: False)


def test_another_layouts_files_are_no_upscaler(
    diffusion: DiffusionEngine, spec: ModelSpec, demo_dir: Path
) -> None:
    with pytest.raises(ModelLoadError):
        diffusion.load(
            replace(spec, model_id="acme/wrong", source=str(demo_dir / "demo-sd")), "upscale"
        )
