"""The engine that makes pictures: diffusers pipelines on one device.

Owns seeding, stopping, and what counts as a failed call. Where files come from is `sources`', how
they are read `loading`'s, and what stays in which memory `tiers`'; which requests
may share a batch is decided before it gets here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image, composite

from tasks import lora
from tasks.catalog import ModelSpec
from tasks.engine import latents, loading, upscaling
from tasks.engine.loading import Pipe
from tasks.engine.protocol import Batch, ImageTask, StepCallback
from tasks.engine.safety import SafetyChecker
from tasks.engine.sources import Download, Sources
from tasks.engine.tiers import Budgets, Loaded, Tiers
from tasks.errors import (
    EngineError,
    InferenceError,
    Interrupted,
    ModelLoadError,
    OutOfMemory,
    StorageError,
)
from tasks.params import prompts
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore


class DiffusionEngine:
    """Runs diffusers on one device, keeping as many models as fit into a budget."""

    def __init__(
        self,
        cache_dir: Path,
        device: str | None = None,
        download: Download | None = None,
        memory_bytes: int = 0,
        waiting_bytes: int = 0,
        lora_patterns: Sequence[str] = ("*/*",),
        safety_checker: str = "",
    ) -> None:
        """Take a folder for what comes from `s3://`, and the function that copies it there.

        `device` is one that torch knows, by default CUDA's first or else the CPU. `memory_bytes`
        bounds the models on it, and `waiting_bytes` those that wait in the CPU's memory; 0 is a
        share of what there is. `lora_patterns` are of the adapters that may be used.
        `safety_checker` says where that is; "" is none.
        """
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        sources = Sources(cache_dir, download)
        self._checker = (
            SafetyChecker(safety_checker, sources, self._device) if safety_checker else None
        )
        self._weightless: tuple[str, ...] = ()
        self._tiers = Tiers(
            sources,
            self._device,
            Budgets.on(self._device, memory_bytes, waiting_bytes),
            tuple(lora_patterns),
        )

    @classmethod
    def from_settings(cls, settings: TaskSettings) -> DiffusionEngine:
        """Return the engine that the settings describe; loads nothing yet."""
        return cls(
            settings.model_cache,
            download=ObjectStore.from_settings(settings).fetch_tree,
            memory_bytes=settings.model_memory_bytes,
            waiting_bytes=settings.model_waiting_bytes,
            lora_patterns=lora.patterns(settings.loras),
            safety_checker=settings.safety_checker,
        )

    @property
    def loaded(self) -> tuple[str, ...]:
        """Return the ids of the models in memory, least recently used first.

        Those without weights count from their first use on: nothing has to be loaded for them.
        """
        return (*self._weightless, *self._tiers.on_device)

    @property
    def memory_bytes(self) -> Mapping[str, int]:
        """Return the bytes of models in each memory, and how many there may be."""
        return self._tiers.memory_bytes

    def load(self, model: ModelSpec, pipeline: str) -> None:
        """Bring a model into memory.

        Raises:
            ModelLoadError: It is missing, broken, pickled, of another layout, or does not fit.
            StorageError: The object store that holds it could not be read.
        """
        if model.layout != loading.RESAMPLING:
            self._loaded(model, pipeline)
        elif model.model_id not in self._weightless:
            self._weightless = (*self._weightless, model.model_id)

    def generate(self, batch: Batch, on_step: StepCallback) -> list[Image]:
        """Make one picture for each task, in the order of the tasks.

        Raises:
            ModelLoadError, StorageError: As for `load`.
            LoraError: An adapter cannot be had, or does not fit the model.
            Interrupted: `on_step` asked to stop.
            OutOfMemory: The batch does not fit; a smaller one may.
            InferenceError: The pipeline failed, or a picture is not finite.
        """
        if batch.model.layout == loading.RESAMPLING:
            return upscaling.resampled(batch, on_step)
        kept = self._loaded(batch.model, batch.pipeline)
        masked = batch.tasks[0].mask is not None
        pipe = kept.pipelines[loading.INPAINTING if masked else batch.pipeline]
        try:
            self._tiers.switch(kept, batch.loras)
            with loading.sampled(pipe, batch.sampling):
                # All within the guard: a device reports its errors when results are fetched.
                return _made(kept.pipelines, pipe, batch, on_step)
        except (EngineError, StorageError):
            raise
        except Exception as error:  # whatever a pipeline raises, the job learns of it
            with contextlib.suppress(RuntimeError):  # on a device that is beyond help
                # SDXL's decoder may run in float32, and is cast back at an end that did not come.
                pipe.vae.to(dtype=loading.denoiser(pipe).dtype)
            if not _is_out_of_memory(error):
                raise InferenceError(loading.brief(error)) from error
        # Not in the handler: there, the traceback still holds the tensors that are to be freed.
        self._tiers.free(kept, batch.loras)
        raise OutOfMemory(
            f"A batch of {len(batch.tasks)} at {batch.width}x{batch.height} does not fit into "
            f"the memory of {self._device}."
        )

    def verdicts(self, pictures: Sequence[Image]) -> list[bool | None]:
        """Tell for each picture whether the safety checker flags it; None: there is no checker.

        May be called from another thread while `generate` runs.

        Raises:
            ModelLoadError, StorageError: The checker cannot be loaded.
            InferenceError: It failed.
        """
        if self._checker is None:
            return [None] * len(pictures)
        return list(self._checker.verdicts(pictures))

    def _loaded(self, model: ModelSpec, pipeline: str) -> Loaded:
        if not loading.does(model, pipeline):
            raise ModelLoadError(f"{model.model_id} does not do {pipeline}.")
        return self._tiers.get(model)


def _made(
    pipelines: Mapping[str, Pipe], pipe: Pipe, batch: Batch, on_step: StepCallback
) -> list[Image]:
    """Make the pictures of a batch on a loaded model, whose sampler is set."""
    if batch.pipeline == loading.UPSCALE:
        return upscaling.drawn(pipe, batch, on_step)
    if batch.first_pass is not None:
        return _made_twice(pipelines, pipe, batch, on_step)
    arguments = _arguments(batch)
    if batch.start != "picture":
        begun = latents.beginning(pipe, batch)
        # Beside a mask, the pipeline would encode what the picture is without it.
        beside = {"masked_image_latents": begun} if "mask_image" in arguments else {}
        arguments |= {"image": begun, **beside}
    elif latents.are_varied(batch.tasks):
        size = (batch.width, batch.height)
        arguments["latents"] = latents.noise(pipe, batch, arguments["generator"], size)
    return _finished(pipe, _called(pipe, arguments, on_step), batch)


def _made_twice(
    pipelines: Mapping[str, Pipe], pipe: Pipe, batch: Batch, on_step: StepCallback
) -> list[Image]:
    """Draw small pictures, and draw over what they are in the batch's size."""
    first = batch.first_pass
    assert first is not None  # noqa: S101  asked by the caller
    small = replace(batch, width=first.width, height=first.height, first_pass=None)
    arguments = _arguments(small)
    if latents.are_varied(batch.tasks):
        size = (first.width, first.height)
        arguments["latents"] = latents.noise(pipe, batch, arguments["generator"], size)
    if not latents.is_of_pixels(first.between):
        arguments["output_type"] = "latent"
    second = replace(
        batch, pipeline=loading.IMAGE_TO_IMAGE, num_inference_steps=first.steps, first_pass=None
    )
    more = max(1, int(first.steps * batch.strength))
    before = batch.num_inference_steps
    made = _called(pipe, arguments, lambda step, steps: on_step(step, steps + more))
    image = latents.enlarged(pipe, made, (batch.width, batch.height), first.between)
    over = pipelines[loading.IMAGE_TO_IMAGE]
    with loading.sampled(over, batch.sampling):
        pictures = _called(
            over,
            {**_arguments(second), "image": image},
            lambda step, steps: on_step(before + step, before + steps),
        )
    return _finished(over, pictures, second)


def _called(pipe: Pipe, arguments: Mapping[str, Any], on_step: StepCallback) -> torch.Tensor:
    images: torch.Tensor = pipe(**arguments, callback_on_step_end=_reporter(on_step)).images
    return images


def _arguments(batch: Batch) -> dict[str, Any]:
    """Return a pipeline's arguments: lists of what differs between pictures, and the rest."""
    model, taken = batch.model, batch.model.takes(batch.pipeline)
    arguments: dict[str, Any] = {
        **_prompts(batch, "prompt"),
        # One generator each, on the CPU: a picture then depends neither on its neighbours nor on
        # the device's noise.
        "generator": [torch.Generator("cpu").manual_seed(task.seed) for task in batch.tasks],
        "num_inference_steps": batch.num_inference_steps,
        "guidance_scale": batch.guidance_scale,
        "output_type": "pt",
    }
    optional: dict[str, Any] = {
        "image_guidance_scale": batch.image_guidance_scale,
        "strength": _usable_strength(batch),
    }
    arguments |= {name: value for name, value in optional.items() if name in taken}
    if "negative_prompt" in taken:
        arguments |= _prompts(batch, "negative_prompt")
    if batch.pipeline == loading.IMAGE_TO_IMAGE:
        arguments["image"] = [task.image for task in batch.tasks]
    masks = [task.mask for task in batch.tasks if task.mask is not None]
    if masks:
        arguments["mask_image"] = masks
    if (
        masks
        or batch.pipeline == loading.TEXT_TO_IMAGE
        or model.layout in loading.SIZED_BY_ARGUMENT
    ):
        arguments |= {"width": batch.width, "height": batch.height}
    if model.max_sequence_tokens is not None and model.layout in loading.WITH_LONG_PROMPTS:
        arguments["max_sequence_length"] = model.max_sequence_tokens
    return arguments


def _prompts(batch: Batch, name: str) -> dict[str, list[str]]:
    """Return the prompts of a batch by argument: `prompt`, and `prompt_2` for a second encoder.

    An encoder without a prompt of its own reads the first. Always strings, never None: a pipeline
    treats None differently, and then for the batch as a whole.
    """
    texts: list[str] = [getattr(task, name) for task in batch.tasks]
    most = batch.model.prompts(batch.pipeline)
    if most == 1 or not any("|" in text for text in texts):
        return {name: texts}
    split = [prompts(text, most) or ("",) for text in texts]
    return {
        name if encoder == 0 else f"{name}_{encoder + 1}": [
            parts[encoder] if encoder < len(parts) else parts[0] for parts in split
        ]
        for encoder in range(most)
    }


def _usable_strength(batch: Batch) -> float:
    """Return the strength with which a pipeline does `strength` of the steps, rounded down.

    But not less than one, on which pipelines fail. Those that count from the other end round up:
    four steps at 0.8 would be four, from noise alone, and the input picture ignored.
    """
    steps = batch.num_inference_steps
    done = max(1, int(steps * batch.strength))
    rounds_up = batch.model.layout in loading.ROUNDS_STRENGTH_UP
    return min(1.0, (done - 0.5 if rounds_up else done + 0.5) / steps)


def _reporter(
    on_step: StepCallback,
) -> Callable[[Pipe, int, object, dict[str, Any]], dict[str, Any]]:
    def report(
        pipe: Pipe,
        step: int,
        _timestep: object,
        tensors: dict[str, Any],
    ) -> dict[str, Any]:
        # num_timesteps, not the steps asked for: image-to-image does only `strength` of them.
        if not on_step(step + 1, pipe.num_timesteps):
            # An exception, and not the pipeline's `_interrupt` flag: InstructPix2Pix does not look
            # at it, and the others go on to decode pictures that nobody wants.
            raise Interrupted(f"Stopped after step {step + 1} of {pipe.num_timesteps}.")
        return tensors

    return report


def _finished(pipe: Pipe, pictures: torch.Tensor, batch: Batch) -> list[Image]:
    """Turn the pipeline's tensor into pictures, after checking that it is what was asked for."""
    wanted = (len(batch.tasks), 3, batch.height, batch.width)
    if tuple(pictures.shape) != wanted:
        raise InferenceError(f"The pipeline made {tuple(pictures.shape)} where {wanted} was asked.")
    finite = torch.isfinite(pictures).flatten(1).all(dim=1).tolist()
    if not all(finite):
        # Left alone, NaN would become a black picture that looks like a result.
        bad = [str(number) for number, good in enumerate(finite, 1) if not good]
        raise InferenceError(
            f"Picture {', '.join(bad)} of {len(finite)} has values that are not finite."
        )
    processor = pipe.image_processor
    images: list[Image] = processor.numpy_to_pil(processor.pt_to_numpy(pictures))
    return [_unmasked(*one) for one in zip(images, batch.tasks, strict=True)]


def _unmasked(made: Image, task: ImageTask) -> Image:
    """Return what was drawn, and around the mask the input picture: the decoder changes all."""
    if task.mask is None or task.image is None:
        return made
    return composite(made, task.image, task.mask)


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU's allocator has no exception class of its own.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
