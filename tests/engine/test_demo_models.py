"""The shipped demo models draw what the prompt says.

Measured on a fast part of the held-out list, made by the engine. The whole list is measured by
`python -m tools.evaluate`. The bounds here are a little below the measured figures, since a part of
a list varies more than the list.
"""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from tasks.catalog import Catalog, ModelSpec, load
from tasks.engine.diffusion import DiffusionEngine
from tasks.engine.protocol import ImageTask
from tools import checker, evaluate, held_out, scenes

PROMPTS = held_out.prompts()[::6][:48]
EDITS = held_out.edits()[:36]
MODELS = Path(evaluate.__file__).parents[1] / "tasks" / "models"


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


@pytest.fixture(scope="module")
def draw(catalog: Catalog) -> ModelSpec:
    return catalog.get(evaluate.DRAW_ID)


@pytest.fixture(scope="module")
def edit(catalog: Catalog) -> ModelSpec:
    return catalog.get(evaluate.EDIT_ID)


@pytest.fixture(scope="module")
def drawn(diffusion: DiffusionEngine, draw: ModelSpec) -> list[Image.Image]:
    return evaluate.run(diffusion, draw, [ImageTask(each.text, "", each.seed) for each in PROMPTS])


def test_pictures_show_the_colours_and_the_shape_that_were_asked_for(
    drawn: list[Image.Image],
) -> None:
    rights = [
        evaluate.drawn_right(prompt, checker.read(picture))
        for prompt, picture in zip(PROMPTS, drawn, strict=True)
    ]
    right = evaluate.share(rights)
    assert right["colour"] >= 90, right
    assert right["background"] >= 90, right
    assert right["shape"] >= 80, right


def test_a_picture_does_not_depend_on_its_neighbours(
    diffusion: DiffusionEngine, draw: ModelSpec, drawn: list[Image.Image]
) -> None:
    task = ImageTask(PROMPTS[5].text, "", PROMPTS[5].seed)
    (alone,) = evaluate.run(diffusion, draw, [task])
    assert checker.difference(alone, drawn[5]) < 1


def test_edits_do_what_they_are_told_and_leave_the_rest(
    diffusion: DiffusionEngine, edit: ModelSpec
) -> None:
    given = [scenes.render(each.before) for each in EDITS]
    tasks = [
        ImageTask(each.text, "", each.seed, picture)
        for each, picture in zip(EDITS, given, strict=True)
    ]
    made = evaluate.run(diffusion, edit, tasks)
    right = evaluate.share(
        [evaluate.edited_right(*each) for each in zip(EDITS, given, made, strict=True)]
    )
    assert right["both"] >= 80, right


def test_the_lora_outlines_at_weight_one_and_does_nothing_at_weight_zero(draw: ModelSpec) -> None:
    measured = evaluate.measure_style(draw, MODELS / evaluate.STYLE, 12, None)
    assert measured["outlined_percent"]["weight 1"] >= 90
    assert measured["outlined_percent"]["weight 0"] == 0
    assert measured["weight_0_differs_at_most"] < 1


def test_the_autoencoder_keeps_what_a_scene_shows(draw: ModelSpec) -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(
        draw.source, subfolder="vae", torch_dtype=torch.float32
    )
    pictures = [scenes.render(each.after) for each in EDITS[:24]]
    processor = VaeImageProcessor()
    with torch.no_grad():
        latents = vae.encode(processor.preprocess(pictures)).latent_dist.mode()
        again = processor.postprocess(vae.decode(latents).sample)
    same = 0
    for before, after in zip(map(checker.read, pictures), map(checker.read, again), strict=True):
        same += (before.shape, before.colour, before.background) == (
            after.shape,
            after.colour,
            after.background,
        )
    assert same >= 22
    # Unit variance is what lets both pipelines do without a scaling factor.
    assert vae.config.scaling_factor == 1.0
    assert 0.7 < float(latents.std()) < 1.4


@pytest.mark.parametrize("prompt", ["", "Ünïcödé, 漢字 & 🐈‍⬛!", "a red star " * 40])
def test_any_prompt_gives_a_picture(
    prompt: str, diffusion: DiffusionEngine, draw: ModelSpec
) -> None:
    (picture,) = evaluate.run(diffusion, draw, [ImageTask(prompt, "", 1)])
    assert picture.size == (draw.default_width, draw.default_height)


def test_all_of_it_is_small_half_precision_and_has_cards() -> None:
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    assert all((folder / "README.md").is_file() for folder in MODELS.iterdir())
