"""Models from `s3://`: fetched once from a real store, refused when pickled, kept afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.catalog import Catalog, ModelSpec
from tasks.engine.diffusion import DiffusionEngine
from tasks.errors import ModelLoadError, StorageError
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests.engine.helpers import CASES, batch, difference, go_on, task


@pytest.fixture
def stored(demo_catalog: Catalog, store: ObjectStore, task_settings: TaskSettings) -> ModelSpec:
    """The plain demo model, as a prefix in the bucket."""
    spec = demo_catalog.get("pixeltoll/demo-sd")
    for path in Path(spec.source).rglob("*"):
        if path.is_file():
            key = f"models/demo/{path.relative_to(spec.source).as_posix()}"
            store.put(key, path.read_bytes(), "application/octet-stream")
    return replace(spec, source=f"s3://{task_settings.s3_bucket}/models/demo")


def engine(settings: TaskSettings, tmp_path: Path) -> DiffusionEngine:
    return DiffusionEngine.from_settings(settings.model_copy(update={"model_cache": tmp_path}))


def test_it_makes_the_same_pictures_as_the_folder_it_was_copied_from(
    demo_catalog: Catalog,
    diffusion: DiffusionEngine,
    stored: ModelSpec,
    task_settings: TaskSettings,
    tmp_path: Path,
) -> None:
    request = batch(demo_catalog, CASES[0], [task()])
    (local,) = diffusion.generate(request, go_on)
    remote = engine(task_settings, tmp_path).generate(replace(request, model=stored), go_on)
    assert difference(local, remote[0]) == 0


def test_once_fetched_it_needs_the_store_no_more(
    stored: ModelSpec, task_settings: TaskSettings, tmp_path: Path
) -> None:
    gone = task_settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"})
    engine(task_settings, tmp_path).load(stored, "text-to-image")
    engine(gone, tmp_path).load(stored, "text-to-image")


@pytest.mark.parametrize("bucket", ["no-such-bucket", None])
def test_a_prefix_with_nothing_below_it_is_an_error(
    bucket: str | None, stored: ModelSpec, task_settings: TaskSettings, tmp_path: Path
) -> None:
    nowhere = replace(stored, source=f"s3://{bucket or task_settings.s3_bucket}/models/dem")
    with pytest.raises((ModelLoadError, StorageError)):
        engine(task_settings, tmp_path).load(nowhere, "text-to-image")
    assert list(tmp_path.iterdir()) == []


def test_pickled_weights_are_refused_before_they_are_fetched(
    stored: ModelSpec, store: ObjectStore, task_settings: TaskSettings, tmp_path: Path
) -> None:
    safe = "models/demo/unet/diffusion_pytorch_model.safetensors"
    store.put(safe.replace(".safetensors", ".bin"), store.get(safe), "application/octet-stream")
    store.delete([safe])
    with pytest.raises(ModelLoadError, match="pickled"):
        engine(task_settings, tmp_path).load(stored, "text-to-image")
    assert list(tmp_path.iterdir()) == []
