"""What a worker asks of an engine: batches in, pictures out.

Owns the words that both sides share. Imports no torch, so that the worker's logic can be read,
typed and tested without it; how pictures are made is `diffusion`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tasks.catalog import ModelSpec
from tasks.finer import FirstPass, Start
from tasks.samplers import Choice

if TYPE_CHECKING:
    from PIL.Image import Image

StepCallback = Callable[[int, int], bool]
"""Called after every step with (steps done, steps in all); False asks the engine to stop there."""


@dataclass(frozen=True)
class Variation:
    """A second seed, and how far the first noise leaves the first seed's for its own, from 0 to 1.

    Text-to-image only.
    """

    seed: int = 0
    strength: float = 0.0


@dataclass(frozen=True)
class ImageTask:
    """One picture to make. `image` is the input picture: RGB, already of the batch's size.

    But where the batch upscales, or starts from latents: there it has a size of its own. `mask` is
    grey and of the same size: only what is white in it is drawn. Either all pictures of a batch
    have one, or none.
    """

    prompt: str
    negative_prompt: str
    seed: int
    image: Image | None = None
    mask: Image | None = None
    variation: Variation = field(default_factory=Variation)


@dataclass(frozen=True)
class Batch:
    """One pipeline call, or two with a first pass: what its pictures share, and the pictures.

    `width` and `height` are those of the pictures that come of it.
    """

    model: ModelSpec
    pipeline: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    image_guidance_scale: float
    strength: float
    tasks: tuple[ImageTask, ...]
    loras: Mapping[str, float] = field(default_factory=dict)
    sampling: Choice = field(default_factory=Choice)
    first_pass: FirstPass | None = None
    start: Start = "picture"


class Engine(Protocol):
    """Makes pictures, one batch at a time; not to be called from two threads at once."""

    @property
    def loaded(self) -> tuple[str, ...]:
        """Return the ids of the models in memory; may be read from any thread."""
        ...

    @property
    def memory_bytes(self) -> Mapping[str, int]:
        """Return the bytes of models by place, where an engine knows; from any thread."""
        return {}

    def load(self, model: ModelSpec, pipeline: str) -> None:
        """Bring a model into memory, so that the next `generate` starts at once.

        Raises:
            ModelLoadError: It is missing, broken, pickled, or does not fit into memory.
            StorageError: The object store that holds it could not be read.
        """
        ...

    def generate(self, batch: Batch, on_step: StepCallback) -> list[Image]:
        """Make one picture for each task, in the order of the tasks.

        Raises:
            ModelLoadError, StorageError: As for `load`.
            LoraError: An adapter cannot be had, or does not fit the model.
            Interrupted: `on_step` asked to stop.
            OutOfMemory: The batch does not fit; a smaller one may.
            InferenceError: The pipeline failed, or a picture is not finite.
        """
        ...

    def verdicts(self, pictures: Sequence[Image]) -> list[bool | None]:
        """Tell for each picture whether the safety checker flags it; None: there is no checker.

        May be called from another thread while `generate` runs.

        Raises:
            ModelLoadError, StorageError: The checker cannot be loaded.
            InferenceError: It failed.
        """
        return [None] * len(pictures)
