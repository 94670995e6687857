"""An engine that sleeps instead of working, and the models that tell it how long.

It lets a bench subtract the inference from a job exactly, and see what the house adds to it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import redis
from PIL import Image

from tasks.catalog import ModelSpec
from tasks.engine.protocol import Batch, StepCallback
from tasks.engine.protocol import Engine as EngineProtocol
from tasks.errors import Interrupted
from tasks.settings import TaskSettings

SIDE = 64
# A list in Redis where calls for the IDLE model leave the time at which they began.
CALLS = "bench-calls"


@dataclass(frozen=True)
class Model:
    """A model of the bench's catalog: how many pictures a call makes, and how long it takes."""

    model_id: str
    max_batch: int
    sleep_s: float


SUBMITTED = Model("bench/submitted", 8, 0.0)  # No worker serves it: its jobs stay queued.
IDLE = Model("bench/idle", 1, 0.0)
BACKLOGS = (
    Model("bench/one-by-one", 1, 0.0),
    Model("bench/one-by-one-50ms", 1, 0.05),
    Model("bench/by-eight", 8, 0.0),
    Model("bench/by-eight-50ms", 8, 0.05),
)
# As a GPU is: it takes far longer than all else.
SLOW = Model("bench/by-eight-1s", 8, 1.0)
SERVED = (IDLE, *BACKLOGS, SLOW)

_TOML = """
[[model]]
model_id = "{0.model_id}"
source = "none"
layout = "stable-diffusion"
pipelines = ["text-to-image"]
default_width = {1}
default_height = {1}
default_steps = 4
max_batch = {0.max_batch}
"""


def write_catalog(path: Path) -> None:
    """Write the models as a catalog file."""
    path.write_text("".join(_TOML.format(one, SIDE) for one in (SUBMITTED, *SERVED)), "utf-8")


class SleepingEngine(EngineProtocol):
    """Implements `tasks.engine.protocol.Engine`: sleeps, and returns the same picture each time."""

    def __init__(self, settings: TaskSettings) -> None:
        self._sleeps = {model.model_id: model.sleep_s for model in SERVED}
        self._picture = Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB")
        self._redis = redis.Redis.from_url(settings.redis_url)

    @property
    def loaded(self) -> tuple[str, ...]:
        return tuple(self._sleeps)

    def load(self, model: ModelSpec, pipeline: str) -> None:
        """Load nothing: every model is in memory from the start."""

    def generate(self, batch: Batch, on_step: StepCallback) -> list[Image.Image]:
        began_at = time.time()
        if batch.model.model_id == IDLE.model_id:
            self._redis.rpush(CALLS, began_at)
        # One sleep for the whole call: every sleep is a little too long, and the bench would take
        # the sum of that for our overhead.
        time.sleep(self._sleeps[batch.model.model_id])
        for step in range(batch.num_inference_steps):
            if not on_step(step + 1, batch.num_inference_steps):
                raise Interrupted
        return [self._picture for _ in batch.tasks]
