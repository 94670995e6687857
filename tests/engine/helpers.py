"""Batches, input pictures and comparisons for the engine's tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from tasks.catalog import ModelSpec
from tasks.engine.diffusion import DiffusionEngine
from tasks.engine.loading import Pipe
from tasks.engine.protocol import Batch, ImageTask

CASES = [
    ("demo-sd", "text-to-image"),
    ("demo-sd", "image-to-image"),
    ("demo-sdxl", "text-to-image"),
    ("demo-sdxl", "image-to-image"),
    ("demo-pix2pix", "image-to-image"),
]
# A batch sums in another order than single calls do, which flips the last bit of some pixels: one
# was the most that was ever seen. Anything systematic is far above two.
TOLERANCE = 2


class Models(Protocol):
    """Models by id: a catalog, or what a test puts in its place."""

    def get(self, model_id: str) -> ModelSpec: ...


def sketch(colour: str = "orange", size: tuple[int, int] = (128, 128)) -> Image.Image:
    """An input picture: a disc on a striped ground."""
    picture = Image.new("RGB", size, "navy")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, size[1] * 3 // 4, *size), fill="green")
    draw.ellipse((size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4), fill=colour)
    return picture


def batch(
    catalog: Models,
    case: tuple[str, str],
    tasks: Sequence[ImageTask],
    *,
    size: tuple[int, int] = (128, 128),
    steps: int = 4,
) -> Batch:
    """A batch with the demo's defaults; image-to-image gets the sketch where a task has none."""
    name, pipeline = case
    if pipeline == "image-to-image":
        tasks = [replace(task, image=task.image or sketch(size=size)) for task in tasks]
    return Batch(
        model=catalog.get(f"pixeltoll/{name}"),
        pipeline=pipeline,
        width=size[0],
        height=size[1],
        num_inference_steps=steps,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        strength=0.8,
        tasks=tuple(tasks),
    )


def pipeline_of(engine: DiffusionEngine, model: ModelSpec, name: str) -> Pipe:
    """The pipeline that an engine runs for a model."""
    return engine._loaded(model, name).pipelines[name]


def task(prompt: str = "a cat", seed: int = 1, negative_prompt: str = "") -> ImageTask:
    return ImageTask(prompt, negative_prompt, seed)


def go_on(_done: int, _steps: int) -> bool:
    """An `on_step` that never stops."""
    return True


def difference(first: Image.Image, second: Image.Image) -> int:
    """The largest difference of any channel of any pixel, of 255."""
    pixels = (np.asarray(picture).astype(int) for picture in (first, second))
    return int(np.abs(next(pixels) - next(pixels)).max())
