"""LoRA adapters on a loaded model: kept in memory, switched between jobs, dropped when rarely used.

Owns which adapters a pipeline has and which of them are on. Whatever goes wrong, the pipeline is
left with none on, and the caller gets an error: the base model's picture is never passed off as the
adapter's. Where files come from is `sources`'.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.peft_utils import delete_adapter_layers
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from tasks import metrics
from tasks.engine.loading import Pipe, brief, denoiser
from tasks.errors import LoraError, LoraIncompatible

MAX_RESIDENT = 12

_Weights = dict[str, torch.Tensor]


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """Keep peft from warning that there are other adapters, and that others are on afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@dataclass(frozen=True)
class _Resident:
    name: str
    size_bytes: int


class Adapters:
    """The adapters of one model's pipelines, which share the networks that adapters change."""

    def __init__(self, pipe: Pipe, max_resident: int = MAX_RESIDENT) -> None:
        self._pipe = pipe
        self._max_resident = max_resident
        self._residents: OrderedDict[str, _Resident] = OrderedDict()
        # None: unknown, because a change was not finished.
        self._on: Mapping[str, float] | None = {}
        # The layers that adapters change, until there are others.
        self._found: list[Any] | None = None

    @property
    def resident(self) -> tuple[str, ...]:
        """Return the sources of the adapters in memory, least recently used first."""
        return tuple(self._residents)

    @property
    def size_bytes(self) -> int:
        return sum(one.size_bytes for one in self._residents.values())

    def use(
        self,
        loras: Mapping[str, float],
        locate: Callable[[str], Path],
        make_room: Callable[[int], None],
    ) -> None:
        """Turn these adapters on, with their weights, and all others off.

        `locate` finds an adapter's file; `make_room` is told how many bytes are about to come into
        memory.

        Raises:
            LoraError: One cannot be had, read, or used with this model; then all are off.
            StorageError: An object store that holds one could not be read; then all are off.
        """
        if self._on == loras:
            metrics.LORA_LOOKUPS.labels("hit").inc(len(loras))
            self._touch(loras)
            return
        self._on = None
        try:
            for source in loras:
                is_resident = source in self._residents
                metrics.LORA_LOOKUPS.labels("hit" if is_resident else "miss").inc()
                if not is_resident:
                    self._add(source, locate(source), loras, make_room)
            self._touch(loras)
            self._turn_on({self._residents[source].name: loras[source] for source in loras})
            self._on = dict(loras)
        finally:
            if self._on is None:
                self._turn_on({})

    def evict(self, needed: Collection[str]) -> bool:
        """Drop the least recently used adapter that is not needed; False when there is none."""
        oldest = next((source for source in self._residents if source not in needed), None)
        if oldest is None:
            return False
        if self._on and oldest in self._on:
            self._on = None
            self._turn_on({})
        self._remove(self._residents.pop(oldest).name)
        return True

    def _add(
        self,
        source: str,
        path: Path,
        needed: Collection[str],
        make_room: Callable[[int], None],
    ) -> None:
        try:
            weights = load_file(path)
        except Exception as error:  # a broken file raises anything
            raise LoraError(f"LoRA {source} cannot be read: {brief(error)}") from error
        while len(self._residents) >= self._max_resident and self.evict(needed):
            pass
        dtype = denoiser(self._pipe).dtype
        weights = {
            key: value.to(dtype) if value.is_floating_point() else value
            for key, value in weights.items()
        }
        size_bytes = sum(value.nbytes for value in weights.values())
        make_room(size_bytes)
        name = f"lora_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
        added = False
        try:
            self._load(source, name, weights)
            added = True
        finally:
            if not added:
                self._remove(name)
        self._residents[source] = _Resident(name, size_bytes)

    def _load(self, source: str, name: str, weights: _Weights) -> None:
        if any("dora_scale" in key for key in weights):
            raise LoraIncompatible(f"LoRA {source} is a DoRA, whose magnitudes would be left out.")
        try:
            wanted = self._count_in_file(weights)
            self._found = None
            with _unwarned():
                self._pipe.load_lora_weights(weights, adapter_name=name)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # what does not fit makes any of two libraries raise anything
            raise LoraIncompatible(
                f"LoRA {source} does not fit the base model: {brief(error)}"
            ) from error
        # Layers that the base model does not have are left out with no more than a warning.
        found = sum(name in layer.lora_A for layer in self._layers() if hasattr(layer, "lora_A"))
        if wanted == 0 or found != wanted:
            raise LoraIncompatible(
                f"LoRA {source} does not fit the base model: {found} of its {wanted} layers do."
            )
        device = denoiser(self._pipe).device
        for part in self._parts():
            part.to(device)

    def _count_in_file(self, weights: _Weights) -> int:
        """Return how many layers a file changes, after the renaming that its dialect needs."""
        options = {}
        if "unet" in self._pipe.components:
            options["unet_config"] = self._pipe.unet.config
        named = self._pipe.lora_state_dict(dict(weights), **options)
        named = named[0] if isinstance(named, tuple) else named
        return sum(key.endswith(("lora_A.weight", "down.weight")) for key in named)

    def _touch(self, loras: Collection[str]) -> None:
        for source in loras:
            self._residents.move_to_end(source)

    def _remove(self, name: str) -> None:
        with _unwarned():
            for part in self._parts():
                delete_adapter_layers(part, name)

    def _turn_on(self, weights: Mapping[str, float]) -> None:
        """Do what a pipeline's `set_adapters` does, without looking for the layers each time."""
        for layer in self._layers():
            if weights:
                layer.set_adapter(list(weights))
                for name, weight in weights.items():
                    layer.set_scale(name, weight)
            layer.enable_adapters(enabled=bool(weights))

    def _layers(self) -> list[Any]:
        if self._found is None:
            self._found = [
                module
                for part in self._parts()
                for module in part.modules()
                if isinstance(module, BaseTunerLayer)
            ]
        return self._found

    def _parts(self) -> list[torch.nn.Module]:
        names = [*self._pipe._lora_loadable_modules, "text_encoder_3"]  # noqa: SLF001  no other list
        parts = (self._pipe.components.get(name) for name in names)
        return [part for part in parts if part is not None]
