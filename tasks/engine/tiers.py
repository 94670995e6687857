"""Where models are kept: in the device's memory, then in the CPU's, then on disk as files only.

Owns moving them between the two memories, each with a budget of its own and its least recently used
out first. How files become pipelines is `loading`'s; which adapters a model has, `lora`'s.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tasks import lora
from tasks.catalog import ModelSpec
from tasks.engine import loading
from tasks.engine.loading import Pipe
from tasks.engine.lora import Adapters
from tasks.engine.residency import Residency
from tasks.engine.sources import Sources
from tasks.errors import LoraNotAllowed, ModelLoadError

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Loaded:
    """A model in memory: its pipelines by name, which share every component, and its adapters."""

    model: ModelSpec
    pipelines: Mapping[str, Pipe]
    weights_bytes: int
    adapters: Adapters

    @property
    def size_bytes(self) -> int:
        return self.weights_bytes + self.adapters.size_bytes

    def move(self, device: torch.device) -> None:
        """Bring all weights, and those of the adapters, to a device."""
        for part in next(iter(self.pipelines.values())).components.values():
            if isinstance(part, torch.nn.Module):
                part.to(device)


@dataclass(frozen=True)
class Budgets:
    """Bytes for models on the device, and for those that wait beside it in the CPU's memory."""

    device_bytes: int
    waiting_bytes: int

    @classmethod
    def on(cls, device: torch.device, device_bytes: int = 0, waiting_bytes: int = 0) -> Budgets:
        """Return budgets, where 0 is a share of what there is; the rest is for computing.

        On the CPU itself, nothing waits by default: it would be in the same memory.
        """
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if device.type != "cuda":
            return cls(device_bytes or memory // 2, waiting_bytes)
        if not device_bytes:
            device_bytes = torch.cuda.get_device_properties(device).total_memory * 7 // 10
        return cls(device_bytes, waiting_bytes or memory // 2)


class Tiers:
    """The models of one device. Not for two threads at once, but for `on_device`."""

    def __init__(
        self,
        sources: Sources,
        device: torch.device,
        budgets: Budgets,
        lora_patterns: tuple[str, ...],
    ) -> None:
        self._sources = sources
        self._device = device
        self._lora_patterns = lora_patterns
        self._here: Residency[Loaded] = Residency(budgets.device_bytes)
        self._waiting: Residency[Loaded] = Residency(budgets.waiting_bytes)

    @property
    def on_device(self) -> tuple[str, ...]:
        """Return the ids of the models on the device, least recently used first."""
        return self._here.names

    @property
    def waiting(self) -> tuple[str, ...]:
        """Return the ids of the models in the CPU's memory, least recently used first."""
        return self._waiting.names

    @property
    def memory_bytes(self) -> Mapping[str, int]:
        """Return the bytes of models in both memories, and their budgets; from any thread."""
        return {
            "device": self._here.size_bytes,
            "device_budget": self._here.budget_bytes,
            "waiting": self._waiting.size_bytes,
            "waiting_budget": self._waiting.budget_bytes,
        }

    def get(self, model: ModelSpec) -> Loaded:
        """Return a model on the device, from wherever it is.

        Raises:
            ModelLoadError: It is missing, broken, pickled, of another layout, or does not fit.
            StorageError: The object store that holds it could not be read.
        """
        kept = self._here.get(model.model_id)
        if kept is not None and kept.model == model:
            return kept
        self._here.drop(model.model_id)
        kept = self._waiting.get(model.model_id)
        self._waiting.drop(model.model_id)
        if kept is None or kept.model != model:
            kept = self._read(model)
        self._settle(self._here.make_room(kept.size_bytes))
        try:
            kept.move(self._device)
        except Exception as error:  # torch has many words for a device that is full or not there
            raise ModelLoadError(
                f"{model.model_id} cannot be moved to {self._device}: {loading.brief(error)}"
            ) from error
        self._here.put(model.model_id, kept, kept.size_bytes)
        return kept

    def switch(self, kept: Loaded, loras: Mapping[str, float]) -> None:
        """Turn adapters on, and all others of the model off.

        Raises:
            LoraError, StorageError: As for `Adapters.use`; or one is not allowed here.
        """
        for source in loras:
            if not lora.is_allowed(source, self._lora_patterns):
                raise LoraNotAllowed(f"LoRA {source} is not run here.")
        name = kept.model.model_id

        def make_room(size_bytes: int) -> None:
            # Adapters first: they come back sooner than models.
            while self._here.is_over(kept.size_bytes + size_bytes, name):
                if not kept.adapters.evict(loras):
                    break
            self._settle(self._here.make_room(kept.size_bytes + size_bytes, name))

        try:
            kept.adapters.use(loras, self._sources.locate_lora, make_room)
        finally:
            self._here.resize(name, kept.size_bytes)

    def free(self, kept: Loaded, loras: Mapping[str, float]) -> None:
        """Give back what a call on the model that ran out of memory does not need."""
        while kept.adapters.evict(loras):
            pass
        self._here.resize(kept.model.model_id, kept.size_bytes)
        gc.collect()
        self._give_back()

    def _read(self, model: ModelSpec) -> Loaded:
        pipelines = loading.read(model, self._sources, self._device)
        first = next(iter(pipelines.values()))
        return Loaded(model, pipelines, loading.size_bytes(first), Adapters(first))

    def _settle(self, dropped: list[Loaded]) -> None:
        """Let models that left the device wait in the CPU's memory, as far as they fit there."""
        gone = 0
        while dropped:
            gone += self._wait(dropped.pop(0))
        if gone:
            gc.collect()  # pipelines hold themselves in cycles
        self._give_back()

    def _wait(self, kept: Loaded) -> int:
        """Move one model, and return how many are in no memory any more for it."""
        if not self._waiting.can_hold(kept.size_bytes):
            return 1
        gone = len(self._waiting.make_room(kept.size_bytes))
        kept.move(_CPU)
        self._waiting.put(kept.model.model_id, kept, kept.size_bytes)
        return gone

    def _give_back(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
