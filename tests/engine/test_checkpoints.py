"""Models that are one file: the same pictures as from the folder, from a path or an object store,
without a network; and what is not whole, or not what the catalog means, is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.catalog import Catalog, ModelSpec, Part
from tasks.engine.diffusion import DiffusionEngine
from tasks.engine.loading import sampled
from tasks.errors import ModelLoadError
from tasks.samplers import Choice
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests.engine.checkpoints import write_checkpoint
from tests.engine.helpers import CASES, batch, difference, go_on, pipeline_of, task

NAME = "v1-5-pruned-emaonly.safetensors"


@pytest.fixture(scope="module")
def plain(demo_catalog: Catalog) -> ModelSpec:
    return demo_catalog.get("pixeltoll/demo-sd")


@pytest.fixture(scope="module")
def spec(plain: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    path = write_checkpoint(Path(plain.source), tmp_path_factory.mktemp("checkpoint") / NAME)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(
        plain,
        model_id="acme/checkpoint",
        source=str(path),
        config=Part(plain.source),
        sha256=digest,
    )


@pytest.fixture
def engine(tmp_path: Path) -> DiffusionEngine:
    return DiffusionEngine(tmp_path, device="cpu")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is fetched")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr("diffusers.loaders.single_file.snapshot_download", refuse)


@pytest.mark.parametrize("case", CASES[:2])
def test_a_file_makes_the_same_pictures_as_the_folder(
    demo_catalog: Catalog,
    diffusion: DiffusionEngine,
    engine: DiffusionEngine,
    spec: ModelSpec,
    case: tuple[str, str],
) -> None:
    request = batch(demo_catalog, case, [task()])
    (wanted,) = diffusion.generate(request, go_on)
    (made,) = engine.generate(replace(request, model=spec), go_on)
    assert difference(wanted, made) == 0


@pytest.mark.parametrize("predicts", [None, "epsilon", "v_prediction"])
def test_what_a_file_predicts_may_be_said(
    engine: DiffusionEngine, spec: ModelSpec, predicts: Any
) -> None:
    model = replace(spec, prediction_type=predicts)
    pipe = pipeline_of(engine, model, "text-to-image")
    assert pipe.scheduler.config.prediction_type == (predicts or "epsilon")
    with sampled(pipe, Choice("Euler", "Karras")):
        assert pipe.scheduler.config.prediction_type == (predicts or "epsilon")


def test_a_file_in_an_object_store_is_fetched_with_its_configuration(
    demo_catalog: Catalog,
    diffusion: DiffusionEngine,
    spec: ModelSpec,
    plain: ModelSpec,
    store: ObjectStore,
    task_settings: TaskSettings,
    tmp_path: Path,
) -> None:
    store.put(f"models/{NAME}", Path(spec.source).read_bytes(), "application/octet-stream")
    for path in Path(plain.source).rglob("*.json"):
        key = f"configs/sd/{path.relative_to(plain.source).as_posix()}"
        store.put(key, path.read_bytes(), "application/json")
    bucket = f"s3://{task_settings.s3_bucket}"
    stored = replace(spec, source=f"{bucket}/models/{NAME}", config=Part(f"{bucket}/configs/sd"))
    engine = DiffusionEngine.from_settings(
        task_settings.model_copy(update={"model_cache": tmp_path})
    )
    request = batch(demo_catalog, CASES[0], [task()])
    (wanted,) = diffusion.generate(request, go_on)
    (made,) = engine.generate(replace(request, model=stored), go_on)
    assert difference(wanted, made) == 0


def _without(part: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if part in name]:
            del weights[name]

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        _without("middle_block.0.in_layers.2.weight"),
        _without("text_model.encoder.layers.1.mlp.fc1.weight"),
        _without("decoder.conv_out"),
        _without("cond_stage_model"),
    ],
)
def test_a_file_that_lacks_weights_is_refused(
    engine: DiffusionEngine,
    spec: ModelSpec,
    tmp_path: Path,
    spoil: Callable[[dict[str, torch.Tensor]], None],
) -> None:
    weights = load_file(spec.source)
    spoil(weights)
    save_file(weights, tmp_path / NAME)
    with pytest.raises(ModelLoadError, match="acme/checkpoint"):
        engine.load(replace(spec, source=str(tmp_path / NAME), sha256=None), "text-to-image")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sha256": "0" * 64}, "has the SHA-256"),
        ({"source": f"/nowhere/{NAME}"}, "there is no folder"),
        ({"config": Part("/nowhere")}, "there is no folder"),
        ({"config": Part("maker/model")}, "no pinned revision"),
        ({"layout": "stable-diffusion-xl"}, "the files are for another"),
    ],
)
def test_what_is_not_what_the_catalog_means_is_refused(
    engine: DiffusionEngine, spec: ModelSpec, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ModelLoadError, match=told):
        engine.load(replace(spec, **changes), "text-to-image")
