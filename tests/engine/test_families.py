"""Every family of the catalog, small: it loads, batches, and does what its own rules say."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.catalog import Catalog, Part
from tasks.engine.diffusion import DiffusionEngine
from tasks.errors import ModelLoadError
from tests.engine.helpers import TOLERANCE, batch, difference, go_on, pipeline_of, sketch, task
from tests.engine.models import Zoo, make_zoo

NEW = ("demo-lightning", "demo-stable-diffusion-3", "demo-flux")
FROM_A_PICTURE = ("demo-sd", "demo-sdxl", *NEW)


@pytest.fixture(scope="module")
def zoo(demo_catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(demo_catalog, tmp_path_factory.mktemp("zoo"))


def distance(first: Image.Image, second: Image.Image) -> float:
    """The mean difference of all pixels."""
    pixels = [np.asarray(picture).astype(float) for picture in (first, second)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("pipeline", ["text-to-image", "image-to-image"])
def test_a_mixed_batch_equals_its_single_runs(
    name: str, pipeline: str, zoo: Zoo, diffusion: DiffusionEngine
) -> None:
    tasks = [task("a cat", 1), task("the red sun over a dark sea", 2, "ugly")]
    request = batch(zoo, (name, pipeline), tasks)
    together = diffusion.generate(request, go_on)
    assert difference(*together) > 20
    for number, picture in enumerate(together):
        (alone,) = diffusion.generate(replace(request, tasks=request.tasks[number:][:1]), go_on)
        assert difference(picture, alone) <= TOLERANCE


@pytest.mark.parametrize("name", [*FROM_A_PICTURE, "demo-pix2pix"])
def test_image_to_image_follows_the_input_picture(
    name: str, zoo: Zoo, diffusion: DiffusionEngine
) -> None:
    tasks = [replace(task(), image=sketch(colour)) for colour in ("orange", "white")]
    request = replace(batch(zoo, (name, "image-to-image"), tasks), strength=0.5)
    assert difference(*diffusion.generate(request, go_on)) > 20


@pytest.mark.parametrize("name", FROM_A_PICTURE)
def test_a_low_strength_stays_closer_to_the_input_picture(
    name: str, zoo: Zoo, diffusion: DiffusionEngine
) -> None:
    """The decoder's own loss is in both, so what counts is the distance to strength zero."""
    request = batch(zoo, (name, "image-to-image"), [task()], steps=10)
    request = replace(request, guidance_scale=1.0)  # random weights overdo it
    pipe = pipeline_of(diffusion, request.model, "image-to-image")
    image = pipe.image_processor.preprocess(request.tasks[0].image)
    latents = pipe.vae.encode(image).latent_dist.mode()
    unchanged = pipe.image_processor.postprocess(pipe.vae.decode(latents).sample.detach())[0]
    weak, strong = (
        diffusion.generate(replace(request, strength=strength), go_on)[0] for strength in (0.1, 0.9)
    )
    assert distance(unchanged, weak) < 0.9 * distance(unchanged, strong)


@pytest.mark.parametrize("name", FROM_A_PICTURE)
@pytest.mark.parametrize(
    ("strength", "steps", "expected"), [(0.8, 4, 3), (1.0, 4, 4), (0.5, 9, 4), (0.3, 2, 1)]
)
def test_every_family_rounds_its_strength_down_to_a_step(
    name: str, strength: float, steps: int, expected: int, zoo: Zoo, diffusion: DiffusionEngine
) -> None:
    seen: list[tuple[int, int]] = []

    def on_step(done: int, total: int) -> bool:
        seen.append((done, total))
        return True

    request = batch(zoo, (name, "image-to-image"), [task()], size=(64, 64), steps=steps)
    diffusion.generate(replace(request, strength=strength), on_step)
    assert seen == [(number, expected) for number in range(1, expected + 1)]


def test_a_swapped_unet_makes_other_pictures_with_its_own_steps(
    zoo: Zoo, diffusion: DiffusionEngine
) -> None:
    base, swapped = zoo.get("pixeltoll/demo-sdxl"), zoo.get("pixeltoll/demo-lightning")
    request = batch(zoo, ("demo-sdxl", "text-to-image"), [task()])
    ours, theirs = (
        diffusion.generate(replace(request, model=model), go_on)[0] for model in (base, swapped)
    )
    assert difference(ours, theirs) > 20
    pipe = pipeline_of(diffusion, swapped, "image-to-image")
    assert type(pipe).__name__ == "StableDiffusionXLImg2ImgPipeline"
    assert pipe.scheduler.config.timestep_spacing == "trailing"


@pytest.mark.parametrize(
    ("file", "told"), [("missing.safetensors", "has no file"), ("broken.safetensors", "Error")]
)
def test_a_unet_file_that_cannot_be_read_is_a_load_error(
    file: str, told: str, zoo: Zoo, diffusion: DiffusionEngine, tmp_path: Path
) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    model = replace(zoo.get("pixeltoll/demo-lightning"), unet=Part(str(tmp_path), file=file))
    with pytest.raises(ModelLoadError, match=f"demo-lightning: .*{told}"):
        diffusion.load(replace(model, model_id="test/demo-lightning"), "text-to-image")


def test_a_decoder_from_elsewhere_is_used(
    zoo: Zoo, diffusion: DiffusionEngine, tmp_path: Path
) -> None:
    base = zoo.get("pixeltoll/demo-sd")
    other = Path(zoo.get("pixeltoll/demo-pix2pix").source) / "vae"
    shutil.copytree(base.source, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "vae")
    model = replace(
        base, model_id="test/no-vae", source=str(tmp_path / "model"), vae=Part(str(other))
    )
    request = batch(zoo, ("demo-sd", "text-to-image"), [task()])
    ours, theirs = (
        diffusion.generate(replace(request, model=one), go_on)[0] for one in (base, model)
    )
    assert difference(ours, theirs) > 20


@pytest.mark.parametrize("name", ["demo-sdxl", "demo-stable-diffusion-3", "demo-flux"])
def test_a_second_encoder_reads_the_prompt_after_the_bar(
    name: str, zoo: Zoo, diffusion: DiffusionEngine
) -> None:
    tasks = [
        task("a cat"),
        task("a cat | a cat"),
        task("a cat | the red sun over a dark sea", 1, "ugly | grey"),
    ]
    request = batch(zoo, (name, "text-to-image"), tasks)
    plain, twice, other = diffusion.generate(request, go_on)
    (alone,) = diffusion.generate(replace(request, tasks=request.tasks[:1]), go_on)
    assert difference(plain, twice) <= TOLERANCE
    assert difference(plain, alone) <= TOLERANCE
    assert distance(plain, other) > 0.1
