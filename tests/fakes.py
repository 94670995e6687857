"""Engines that stand in for a GPU, and a store with moods: real ports that fail when they are told.

What an engine makes is told by prompt and seed alone, so a picture shows whose it is.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from PIL import Image

from tasks.catalog import ModelSpec
from tasks.engine.protocol import Batch, Engine, ImageTask, StepCallback
from tasks.errors import (
    EngineError,
    InferenceError,
    Interrupted,
    ModelLoadError,
    OutOfMemory,
    StorageError,
)
from tasks.storage import ObjectStore

# What a prompt begins with, and what it then does to the call that it is in.
SPOILS, EXPLODES, KILLS = "spoils", "explodes", "kills"


class FakeEngine(Engine):
    """Makes one plain picture for each task, `step_s` seconds a step, at most `most` at once."""

    def __init__(self, step_s: float = 0.0, most: int = 1000) -> None:
        self.batches: list[Batch] = []
        self.loads: list[tuple[str, str]] = []
        self.on_step: Callable[[int], None] = lambda _step: None
        self.on_load: Callable[[], None] = lambda: None
        self.has_checker = False
        self.checker_error: Exception | None = None
        self.looked_at: list[int] = []
        self._step_s = step_s
        self._most = most
        self._loaded: tuple[str, ...] = ()

    @property
    def loaded(self) -> tuple[str, ...]:
        return self._loaded

    @property
    def sizes(self) -> list[int]:
        """How many pictures each call was asked for."""
        return [len(batch.tasks) for batch in self.batches]

    def load(self, model: ModelSpec, pipeline: str) -> None:
        self.loads.append((model.model_id, pipeline))
        self.on_load()
        if "unloadable" in model.model_id:
            raise ModelLoadError(f"{model.model_id} cannot be loaded")
        if model.model_id not in self._loaded:
            self._loaded = (*self._loaded, model.model_id)

    def generate(self, batch: Batch, on_step: StepCallback) -> list[Image.Image]:
        self.batches.append(batch)
        if len(batch.tasks) > self._most:
            raise OutOfMemory(f"{len(batch.tasks)} pictures do not fit")
        for step in range(1, batch.num_inference_steps + 1):
            time.sleep(self._step_s)
            self.on_step(step)
            for task in batch.tasks:
                _misbehave(task.prompt)
            if not on_step(step, batch.num_inference_steps):
                raise Interrupted(f"stopped after step {step}")
        return [picture(task, batch.width, batch.height) for task in batch.tasks]

    def verdicts(self, pictures: Sequence[Image.Image]) -> list[bool | None]:
        """Flag what is more red than green; without a checker, as by the port's own default."""
        self.looked_at.append(len(pictures))
        if self.checker_error is not None:
            raise self.checker_error
        if not self.has_checker:
            return super().verdicts(pictures)
        return [first[0] > first[1] for first in (one.tobytes()[:2] for one in pictures)]


class Gate:
    """A place in the work where a test lets the worker arrive, looks around, and lets it go on."""

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._open = threading.Event()

    def __call__(self, *_: object) -> None:
        self._arrived.set()
        assert self._open.wait(30), "nobody opened the gate"

    def wait_for_arrival(self) -> None:
        assert self._arrived.wait(30), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


class BrokenEngine(FakeEngine):
    """Refuses every call, as a GPU does that has faulted once."""

    def __init__(self, error: EngineError | None = None) -> None:
        super().__init__()
        self._error = error or InferenceError("CUDA error: device-side assert triggered")

    def generate(self, batch: Batch, on_step: StepCallback) -> list[Image.Image]:
        self.batches.append(batch)
        on_step(1, batch.num_inference_steps)
        raise self._error


class PickyEngine(FakeEngine):
    """Fails at every call that has a picture with one of these seeds, and makes all others."""

    def __init__(self, error: Exception, *seeds: int) -> None:
        super().__init__()
        self._error = error
        self._seeds = frozenset(seeds)

    def generate(self, batch: Batch, on_step: StepCallback) -> list[Image.Image]:
        made = super().generate(batch, on_step)
        if any(task.seed in self._seeds for task in batch.tasks):
            raise self._error
        return made


def picture(task: ImageTask, width: int, height: int) -> Image.Image:
    """The picture of a task: a colour of prompt and seed, mixed with the input picture."""
    digest = hashlib.sha256(f"{task.prompt}/{task.negative_prompt}/{task.seed}".encode()).digest()
    made = Image.new("RGB", (width, height), (digest[0], digest[1], digest[2]))
    return made if task.image is None else Image.blend(made, task.image.resize(made.size), 0.5)


def _misbehave(prompt: str) -> None:
    if prompt.startswith(SPOILS):
        raise InferenceError("a picture has values that are not finite")
    if prompt.startswith(EXPLODES):
        raise ZeroDivisionError("nobody thought of this")
    if prompt.startswith(KILLS):
        os.kill(os.getpid(), signal.SIGKILL)


class MoodyStore(ObjectStore):
    """A real store that can be told to be down, and that says when something is put into it."""

    is_down = False
    on_put: Callable[[str], None] = staticmethod(lambda _key: None)

    def get(self, key: str) -> bytes:
        self._complain(key)
        return super().get(key)

    def put(
        self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        self._complain(key)
        super().put(key, data, content_type, metadata)
        self.on_put(key)

    def delete(self, keys: Sequence[str]) -> None:
        self._complain(keys[0])
        super().delete(keys)

    def _complain(self, key: str) -> None:
        if self.is_down:
            raise StorageError(f"The object store did not answer for {key!r}.")
