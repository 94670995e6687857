"""Switching adapters and models, against loading them anew each time: what keeping them is worth.

On the demo's SDXL, whose weights are small: what is compared is the libraries' work around them,
which grows with the number of layers. No step is drawn, and no server is asked for anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.measure import Row, compare, interleave
from bench.parts import Parts
from tasks import catalog
from tasks.catalog import ModelSpec
from tasks.engine.demo import make_demo
from tasks.engine.loading import Pipe
from tasks.engine.sources import Sources
from tasks.engine.tiers import Budgets, Tiers

_RANK = 16
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_CPU = torch.device("cpu")
_MANY = 2**40


def rows(parts: Parts, rounds: int) -> list[Row]:
    """Measure both switches on the CPU."""
    folder = parts.data_dir / "models"
    models = catalog.load(make_demo(folder / "demo"))
    sdxl, other = (models.get(f"pixeltoll/demo-{name}") for name in ("sdxl", "sd"))
    return [_adapters(folder, sdxl, rounds), _models(folder, sdxl, other, rounds)]


def _adapters(folder: Path, model: ModelSpec, rounds: int) -> Row:
    """Two sets that alternate: both in memory, or each loaded when its job comes."""
    tiers = _tiers(folder, _MANY)
    kept = tiers.get(model)
    pipe = next(iter(kept.pipelines.values()))
    sets = [{str(_lora(pipe, folder / f"{name}.safetensors")): 1.0} for name in "ab"]

    def switch() -> None:
        for one in sets:
            tiers.switch(kept, one)

    def load() -> None:
        for one in sets:
            while kept.adapters.evict(()):
                pass
            tiers.switch(kept, one)

    # Loading leaves one of the two out, which is brought back before the clock runs.
    taken = interleave(rounds, {"ours": _timed(switch, before=switch), "baseline": _timed(load)})
    return compare(
        "LoRA switches, resident (baseline: loaded for each job)",
        "ms",
        "lower",
        *(taken[arm] for arm in ("ours", "baseline")),
    )


def _models(folder: Path, model: ModelSpec, other: ModelSpec, rounds: int) -> Row:
    """Two models that alternate, with room for one: the other waits, or is read from its files."""
    arms: dict[str, Callable[[], float]] = {}
    for arm, waiting_bytes in (("ours", _MANY), ("baseline", 1)):
        tiers = _tiers(folder, 1, waiting_bytes)

        def switch(tiers: Tiers = tiers) -> None:
            tiers.get(other)
            tiers.get(model)

        switch()
        arms[arm] = _timed(switch)
    taken = interleave(rounds, arms)
    return compare(
        "model switches, from CPU memory (baseline: from_pretrained)",
        "ms",
        "lower",
        *(taken[arm] for arm in ("ours", "baseline")),
    )


def _tiers(folder: Path, device_bytes: int, waiting_bytes: int = 1) -> Tiers:
    return Tiers(Sources(folder), _CPU, Budgets(device_bytes, waiting_bytes), ("/*",))


def _timed(
    act: Callable[[], None], before: Callable[[], None] = lambda: None
) -> Callable[[], float]:
    """Return what does two switches, and says how many milliseconds one took."""

    def measure() -> float:
        before()
        began = time.perf_counter()
        act()
        return 1e3 * (time.perf_counter() - began) / 2

    return measure


def _lora(pipe: Pipe, path: Path) -> Path:
    """Write an adapter of all attention layers, as trainers make them by default."""
    weights: dict[str, torch.Tensor] = {}
    for name, module in pipe.unet.named_modules():
        if name.endswith(_ATTENTION):
            weights[f"unet.{name}.lora_A.weight"] = torch.randn(_RANK, module.in_features)
            weights[f"unet.{name}.lora_B.weight"] = torch.randn(module.out_features, _RANK)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return path
