"""Makes pictures larger: by a network that draws what was not there, or by resampling alone.

Pictures are made one by one, since each has a size of its own. What the network makes is brought to
the size that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL.Image import Image, Resampling

from tasks.engine.loading import Pipe
from tasks.engine.protocol import Batch, ImageTask, StepCallback
from tasks.errors import InferenceError, Interrupted

_FILTERS = {"lanczos": Resampling.LANCZOS, "nearest": Resampling.NEAREST}
# Of the input's sides: the denoiser halves them three times.
_GRAIN = 8


def resampled(batch: Batch, on_step: StepCallback) -> list[Image]:
    """Make one picture for each task, without a network.

    Raises:
        Interrupted: `on_step` asked to stop.
    """
    how = _FILTERS[batch.model.source]
    made = []
    for number, task in enumerate(batch.tasks, 1):
        made.append(_given(task).resize((batch.width, batch.height), how))
        if not on_step(number, len(batch.tasks)):
            raise Interrupted(f"Stopped after picture {number} of {len(batch.tasks)}.")
    return made


def drawn(pipe: Pipe, batch: Batch, on_step: StepCallback) -> list[Image]:
    """Make one picture for each task with the network.

    Raises:
        Interrupted: `on_step` asked to stop.
        InferenceError: A picture is not finite.
    """
    done = []
    for number, task in enumerate(batch.tasks):
        done.append(_drawn(pipe, batch, task, _reporter(batch, number, on_step)))
    return done


def _drawn(pipe: Pipe, batch: Batch, task: ImageTask, report: Callable[..., None]) -> Image:
    picture = _given(task)
    sides = [-(-side // _GRAIN) * _GRAIN for side in picture.size]
    pictures: Any = pipe(
        prompt=task.prompt,
        negative_prompt=task.negative_prompt,
        image=picture.resize((sides[0], sides[1]), Resampling.LANCZOS),
        generator=torch.Generator("cpu").manual_seed(task.seed),
        num_inference_steps=batch.num_inference_steps,
        guidance_scale=batch.guidance_scale,
        output_type="pt",
        callback=report,
    ).images
    if not bool(torch.isfinite(pictures).all()):
        raise InferenceError("A picture has values that are not finite.")
    processor = pipe.image_processor
    [made] = processor.numpy_to_pil(processor.pt_to_numpy(pictures))
    large: Image = made
    return large.resize((batch.width, batch.height), Resampling.LANCZOS)


def _reporter(batch: Batch, before: int, on_step: StepCallback) -> Callable[..., None]:
    steps = batch.num_inference_steps

    def report(step: int, _timestep: object, _latents: object) -> None:
        if not on_step(before * steps + min(step + 1, steps), len(batch.tasks) * steps):
            raise Interrupted(f"Stopped after step {step + 1} of {steps}.")

    return report


def _given(task: ImageTask) -> Image:
    assert task.image is not None  # noqa: S101  asked with the request
    return task.image
