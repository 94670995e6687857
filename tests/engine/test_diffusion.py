"""The engine on real pipelines: loading, stopping, failing, and what stays in memory."""

from __future__ import annotations

import gc
import json
import pickle
import shutil
import socket
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.catalog import Catalog, ModelSpec
from tasks.engine.diffusion import DiffusionEngine
from tasks.engine.protocol import Engine
from tasks.errors import InferenceError, Interrupted, ModelLoadError, OutOfMemory
from tests.engine.helpers import CASES, batch, difference, go_on, pipeline_of, task

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def spec(demo_catalog: Catalog) -> ModelSpec:
    return demo_catalog.get("pixeltoll/demo-sd")


@pytest.fixture
def copied(spec: ModelSpec, tmp_path: Path) -> ModelSpec:
    """The plain demo model under its own id, in a folder that the test may damage."""
    shutil.copytree(spec.source, tmp_path / "copy")
    return replace(spec, model_id="test/copy", source=str(tmp_path / "copy"))


@pytest.fixture
def fresh(tmp_path: Path) -> DiffusionEngine:
    return DiffusionEngine(tmp_path / "cache", device="cpu")


# --- Loading ------------------------------------------------------------------------------------


def test_a_local_model_is_loaded_and_run_without_any_network(
    demo_catalog: Catalog, fresh: DiffusionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("The network was asked.")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for case in CASES:
        assert fresh.generate(batch(demo_catalog, case, [task()], steps=1), go_on)


def test_the_engine_fulfils_the_protocol(fresh: DiffusionEngine) -> None:
    engine: Engine = fresh
    assert engine.loaded == ()


def test_both_pipelines_of_a_model_share_its_weights(
    spec: ModelSpec, fresh: DiffusionEngine
) -> None:
    fresh.load(spec, "image-to-image")
    fresh.load(spec, "text-to-image")
    first, second = (pipeline_of(fresh, spec, name) for name in spec.pipelines)
    assert type(first) is not type(second)
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        assert getattr(first, part) is getattr(second, part)
    assert fresh.loaded == (spec.model_id,)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_becomes_float32_on_the_cpu(
    dtype: Literal["float16", "bfloat16"], spec: ModelSpec, fresh: DiffusionEngine
) -> None:
    pipe = pipeline_of(fresh, replace(spec, dtype=dtype), "text-to-image")
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert part.dtype == torch.float32


def test_a_variant_s_files_are_read(copied: ModelSpec, fresh: DiffusionEngine) -> None:
    for path in list(Path(copied.source).rglob("*.safetensors")):
        half = {name: tensor.half() for name, tensor in load_file(path).items()}
        save_file(half, path.with_name(f"{path.stem}.fp16.safetensors"), {"format": "pt"})
        path.unlink()
    with pytest.raises(ModelLoadError, match="test/copy"):
        fresh.load(copied, "text-to-image")
    varied = replace(copied, variant="fp16", dtype="float16")
    assert pipeline_of(fresh, varied, "text-to-image").unet.dtype == torch.float32


def test_a_scheduler_of_the_catalog_replaces_the_model_s_own(
    demo_catalog: Catalog, spec: ModelSpec, fresh: DiffusionEngine
) -> None:
    ancestral = replace(spec, scheduler="EulerAncestralDiscreteScheduler")
    pipe = pipeline_of(fresh, ancestral, "text-to-image")
    assert type(pipe.scheduler).__name__ == "EulerAncestralDiscreteScheduler"
    assert pipe.scheduler.config.beta_end == 0.012
    plain = batch(demo_catalog, CASES[0], [task()])
    pictures = [
        fresh.generate(replace(plain, model=model), go_on)[0] for model in (ancestral, spec)
    ]
    assert difference(*pictures) > 20
    assert fresh.loaded == (spec.model_id,)


@pytest.mark.parametrize("scheduler", ["NoSuchScheduler", "UNet2DConditionModel", "os"])
def test_a_scheduler_that_does_not_fit_is_refused_with_those_that_do(
    scheduler: str, spec: ModelSpec, fresh: DiffusionEngine
) -> None:
    with pytest.raises(ModelLoadError, match="EulerDiscreteScheduler"):
        fresh.load(replace(spec, scheduler=scheduler), "text-to-image")


@pytest.mark.parametrize("name", ["demo-sd", "demo-sdxl", "demo-pix2pix"])
def test_a_model_of_another_layout_than_the_catalog_says_is_refused(
    name: str, demo_catalog: Catalog, fresh: DiffusionEngine
) -> None:
    model = demo_catalog.get(f"pixeltoll/{name}")
    for other in {"demo-sd", "demo-sdxl", "demo-pix2pix"} - {name}:
        wrong = replace(model, source=demo_catalog.get(f"pixeltoll/{other}").source)
        with pytest.raises(ModelLoadError, match=model.model_id):
            fresh.load(wrong, "image-to-image")
    assert fresh.loaded == ()


def test_a_pipeline_that_the_model_does_not_do_is_refused(
    demo_catalog: Catalog, fresh: DiffusionEngine
) -> None:
    for pipeline in ("text-to-image", "upscale"):
        with pytest.raises(ModelLoadError, match=pipeline):
            fresh.load(demo_catalog.get("pixeltoll/demo-pix2pix"), pipeline)


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin"]
)
def test_pickled_weights_are_refused_and_never_opened(
    name: str, copied: ModelSpec, fresh: DiffusionEngine, tmp_path: Path
) -> None:
    pickled = Path(copied.source) / name
    pickled.write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    fresh.load(copied, "text-to-image")  # the safetensors beside it are enough

    for weights in pickled.parent.glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(ModelLoadError, match="pickled"):
        fresh.load(replace(copied, model_id="test/other"), "text-to-image")
    assert not (tmp_path / "sprung").exists()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _lose_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    tensors.pop(min(tensors))
    save_file(tensors, path, {"format": "pt"})


def _reshape(path: Path) -> None:
    tensors = load_file(path)
    name = min(tensors)
    save_file({**tensors, name: torch.zeros(3, 3)}, path, {"format": "pt"})


@pytest.mark.parametrize(
    "part", [f"unet/{WEIGHTS}", f"vae/{WEIGHTS}", "text_encoder/model.safetensors"]
)
@pytest.mark.parametrize("damage", [Path.unlink, _truncate, _lose_a_tensor, _reshape])
def test_damaged_weights_are_a_load_error(
    part: str, damage: Callable[[Path], None], copied: ModelSpec, fresh: DiffusionEngine
) -> None:
    damage(Path(copied.source) / part)
    with pytest.raises(ModelLoadError, match="test/copy"):
        fresh.load(copied, "text-to-image")
    assert fresh.loaded == ()


@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/config.json", "tokenizer/tokenizer.json"]
)
@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_damaged_configuration_is_a_load_error(
    name: str, content: str | None, copied: ModelSpec, fresh: DiffusionEngine
) -> None:
    path = Path(copied.source) / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(ModelLoadError, match="test/copy"):
        fresh.load(copied, "text-to-image")


def test_a_text_encoder_with_the_older_names_of_its_weights_is_the_same(
    demo_catalog: Catalog, copied: ModelSpec, fresh: DiffusionEngine
) -> None:
    """As in the files that the hub has had since before transformers 5."""
    path = Path(copied.source) / "text_encoder" / "model.safetensors"
    older = {f"text_model.{name}": tensor for name, tensor in load_file(path).items()}
    older["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(older, path, {"format": "pt"})
    request = batch(demo_catalog, CASES[0], [task()])
    (before,) = fresh.generate(request, go_on)
    (after,) = fresh.generate(replace(request, model=copied), go_on)
    assert difference(before, after) == 0


def test_a_model_s_own_safety_checker_is_left_out(
    copied: ModelSpec, fresh: DiffusionEngine
) -> None:
    path = Path(copied.source) / "model_index.json"
    index = json.loads(path.read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "requires_safety_checker": True,
    }
    path.write_text(json.dumps(index))
    for name in copied.pipelines:
        assert pipeline_of(fresh, copied, name).safety_checker is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device here")
def test_a_device_that_is_not_there_is_a_load_error(spec: ModelSpec, tmp_path: Path) -> None:
    engine = DiffusionEngine(tmp_path, device="cuda", memory_bytes=1)
    with pytest.raises(ModelLoadError, match="cannot be moved to cuda"):
        engine.load(spec, "text-to-image")
    assert engine.loaded == ()


# --- Memory -------------------------------------------------------------------------------------


def test_the_least_recently_used_model_makes_room_and_is_really_gone(
    demo_catalog: Catalog, tmp_path: Path
) -> None:
    sd, sdxl, pix2pix = (
        demo_catalog.get(f"pixeltoll/demo-{name}") for name in ("sd", "sdxl", "pix2pix")
    )
    engine = DiffusionEngine(tmp_path, device="cpu", memory_bytes=12_500_000)  # two of the three
    engine.load(sd, "text-to-image")
    engine.load(sdxl, "text-to-image")
    engine.load(sd, "image-to-image")
    weights = weakref.ref(pipeline_of(engine, sdxl, "text-to-image").unet)
    engine.load(sd, "text-to-image")
    assert engine.loaded == (sdxl.model_id, sd.model_id)
    engine.load(pix2pix, "image-to-image")
    assert engine.loaded == (sd.model_id, pix2pix.model_id)
    gc.collect()
    assert weights() is None


def test_a_changed_catalog_entry_is_loaded_anew(copied: ModelSpec, fresh: DiffusionEngine) -> None:
    fresh.load(copied, "text-to-image")
    before = pipeline_of(fresh, copied, "text-to-image")
    assert pipeline_of(fresh, copied, "text-to-image") is before
    assert pipeline_of(fresh, replace(copied, max_batch=1), "text-to-image") is not before
    assert fresh.loaded == (copied.model_id,)


# --- Progress and stopping ----------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("stop_at", [1, 2])
def test_a_stop_takes_effect_at_that_step_and_does_no_harm(
    case: tuple[str, str],
    stop_at: int,
    demo_catalog: Catalog,
    diffusion: DiffusionEngine,
) -> None:
    request = batch(demo_catalog, case, [task(), task(seed=2)], size=(64, 64), steps=5)
    before = diffusion.generate(request, go_on)
    seen: list[int] = []

    def on_step(done: int, _steps: int) -> bool:
        seen.append(done)
        return done < stop_at

    with pytest.raises(Interrupted, match=f"step {stop_at} of"):
        diffusion.generate(request, on_step)
    assert seen == list(range(1, stop_at + 1))
    after = diffusion.generate(request, go_on)
    assert [difference(*pair) for pair in zip(before, after, strict=True)] == [0, 0]


@pytest.mark.parametrize(
    ("case", "strength", "steps", "expected"),
    [
        (CASES[0], 0.5, 8, 8),
        (CASES[2], 0.5, 8, 8),
        (CASES[1], 1.0, 8, 8),
        (CASES[1], 0.5, 8, 4),
        (CASES[3], 0.5, 9, 4),
        (CASES[1], 0.01, 8, 1),
        (CASES[3], 0.0, 8, 1),
        (CASES[1], 0.3, 1, 1),
        (CASES[1], 1 / 49, 49, 1),
        (CASES[4], 0.5, 8, 8),
    ],
)
def test_progress_counts_the_steps_that_are_really_done(
    case: tuple[str, str],
    strength: float,
    steps: int,
    expected: int,
    demo_catalog: Catalog,
    diffusion: DiffusionEngine,
) -> None:
    seen: list[tuple[int, int]] = []

    def on_step(done: int, total: int) -> bool:
        seen.append((done, total))
        return True

    request = batch(demo_catalog, case, [task()], size=(64, 64), steps=steps)
    diffusion.generate(replace(request, strength=strength), on_step)
    assert seen == [(number, expected) for number in range(1, expected + 1)]


# --- Failing ------------------------------------------------------------------------------------


def test_a_picture_that_is_not_finite_is_an_error_not_a_black_picture(
    demo_catalog: Catalog, copied: ModelSpec, fresh: DiffusionEngine
) -> None:
    path = Path(copied.source) / "vae" / WEIGHTS
    tensors = load_file(path)
    tensors["decoder.conv_out.bias"][0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    request = replace(batch(demo_catalog, CASES[0], [task(), task()]), model=copied)
    with pytest.raises(InferenceError, match=r"Picture 1, 2 of 2 .* not finite"):
        fresh.generate(request, go_on)


def test_a_batch_beyond_the_memory_says_so_and_the_next_one_runs(
    demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    small = batch(demo_catalog, CASES[0], [task()], size=(64, 64), steps=1)
    side = 8 * 10**7  # more bytes than addresses, so that it fails wherever this runs
    with pytest.raises(OutOfMemory, match=f"A batch of 1 at {side}x{side}"):
        diffusion.generate(replace(small, width=side, height=side), go_on)
    assert diffusion.generate(small, go_on)


def test_a_pipeline_s_failure_is_short_and_leaves_the_model_usable(
    demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    request = batch(demo_catalog, CASES[0], [task()], size=(64, 64), steps=1)
    pipe = pipeline_of(diffusion, request.model, request.pipeline)

    def on_step(_done: int, _steps: int) -> bool:
        pipe.vae.double()  # as SDXL's decoder in float32 when it fails half way
        raise RuntimeError("device-side assert\n" + "a long explanation\n" * 100)

    with pytest.raises(InferenceError) as caught:
        diffusion.generate(request, on_step)
    assert str(caught.value) == "RuntimeError: device-side assert"
    assert diffusion.generate(request, go_on)


def test_an_input_picture_of_another_size_is_an_error(
    demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    request = batch(demo_catalog, CASES[1], [task()], size=(64, 64), steps=2)
    with pytest.raises(InferenceError, match=r"\(1, 3, 64, 64\) where \(1, 3, 128, 64\)"):
        diffusion.generate(replace(request, height=128), go_on)
