"""Models that leave the device wait in the CPU's memory, and come back from there as they were."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.catalog import Catalog
from tasks.engine import loading
from tasks.engine.diffusion import DiffusionEngine
from tests.engine.adapters import make_lora
from tests.engine.helpers import CASES, batch, difference, go_on, pipeline_of, task


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the models that are read from files, as they are."""
    seen: list[str] = []
    read = loading.read

    def watched(*args: object) -> object:
        seen.append(args[0].model_id)  # type: ignore[attr-defined]
        return read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "read", watched)
    return seen


def test_a_model_that_waits_is_not_read_again(
    demo_catalog: Catalog, tmp_path: Path, reads: list[str]
) -> None:
    sd, sdxl, pix2pix = (
        demo_catalog.get(f"pixeltoll/demo-{name}") for name in ("sd", "sdxl", "pix2pix")
    )
    # Room for one on the device, and for two beside it.
    engine = DiffusionEngine(tmp_path, "cpu", memory_bytes=7_000_000, waiting_bytes=12_500_000)
    request = batch(demo_catalog, CASES[0], [task()], steps=1)
    (before,) = engine.generate(request, go_on)
    engine.load(sdxl, "text-to-image")
    assert (engine.loaded, engine._tiers.waiting) == ((sdxl.model_id,), (sd.model_id,))
    engine.load(pix2pix, "image-to-image")
    assert engine._tiers.waiting == (sd.model_id, sdxl.model_id)
    (after,) = engine.generate(request, go_on)
    assert difference(before, after) == 0
    assert engine._tiers.waiting == (sdxl.model_id, pix2pix.model_id)
    assert reads == [sd.model_id, sdxl.model_id, pix2pix.model_id]


def test_what_fits_nowhere_is_gone(demo_catalog: Catalog, tmp_path: Path, reads: list[str]) -> None:
    sd, sdxl = (demo_catalog.get(f"pixeltoll/demo-{name}") for name in ("sd", "sdxl"))
    engine = DiffusionEngine(tmp_path, "cpu", memory_bytes=7_000_000, waiting_bytes=1)
    engine.load(sd, "text-to-image")
    weights = weakref.ref(pipeline_of(engine, sd, "text-to-image").unet)
    engine.load(sdxl, "text-to-image")
    gc.collect()
    assert weights() is None
    assert engine._tiers.waiting == ()
    engine.load(sd, "text-to-image")
    assert reads == [sd.model_id, sdxl.model_id, sd.model_id]


def test_a_changed_catalog_entry_is_not_taken_from_what_waits(
    demo_catalog: Catalog, tmp_path: Path, reads: list[str]
) -> None:
    sd, sdxl = (demo_catalog.get(f"pixeltoll/demo-{name}") for name in ("sd", "sdxl"))
    engine = DiffusionEngine(tmp_path, "cpu", memory_bytes=7_000_000, waiting_bytes=12_500_000)
    for model in (sd, sdxl, replace(sd, max_batch=1)):
        engine.load(model, "text-to-image")
    assert reads == [sd.model_id, sdxl.model_id, sd.model_id]
    assert engine._tiers.waiting == (sdxl.model_id,)


def test_adapters_wait_with_their_model(demo_catalog: Catalog, tmp_path: Path) -> None:
    sd, sdxl = (demo_catalog.get(f"pixeltoll/demo-{name}") for name in ("sd", "sdxl"))
    engine = DiffusionEngine(
        tmp_path,
        "cpu",
        memory_bytes=7_000_000,
        waiting_bytes=12_500_000,
        lora_patterns=("/*",),
    )
    pipe = pipeline_of(engine, sd, "text-to-image")
    style = make_lora(pipe, tmp_path / "style.safetensors")
    plain = batch(demo_catalog, CASES[0], [task()], steps=1)
    styled = replace(plain, loras={str(style): 1.0})
    before = [engine.generate(request, go_on)[0] for request in (plain, styled)]
    engine.load(sdxl, "text-to-image")
    style.unlink()
    after = [engine.generate(request, go_on)[0] for request in (plain, styled)]
    assert [difference(*pair) for pair in zip(before, after, strict=True)] == [0, 0]
    assert difference(*after) > 20
