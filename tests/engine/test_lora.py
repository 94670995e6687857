"""LoRA adapters on real pipelines: on, off, never on for the next job, never silently missing."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tasks.catalog import Catalog
from tasks.engine.diffusion import DiffusionEngine
from tasks.engine.lora import MAX_RESIDENT, Adapters
from tasks.errors import LoraError, LoraIncompatible, LoraNotAllowed, LoraNotFound, StorageError
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests.engine.adapters import make_lora
from tests.engine.helpers import CASES, TOLERANCE, batch, difference, go_on, pipeline_of, task
from tests.engine.models import Zoo, make_zoo

SD = ("demo-sd", "text-to-image")
FAMILIES = ("demo-sd", "demo-sdxl", "demo-pix2pix", "demo-stable-diffusion-3", "demo-flux")
ANY = ("*/*", "/*", "s3://*")


@pytest.fixture(scope="module")
def zoo(demo_catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(demo_catalog, tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> DiffusionEngine:
    return DiffusionEngine(tmp_path_factory.mktemp("cache"), device="cpu", lora_patterns=ANY)


@pytest.fixture(scope="module")
def styles(
    zoo: Zoo, engine: DiffusionEngine, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Adapters of the plain model, as paths: the first one changes its text encoder as well."""
    folder = tmp_path_factory.mktemp("styles")
    pipe = pipeline_of(engine, zoo.get("pixeltoll/demo-sd"), "text-to-image")
    return [
        str(make_lora(pipe, folder / f"{seed}.safetensors", seed=seed, text=seed == 0))
        for seed in range(3)
    ]


def draw(
    engine: DiffusionEngine, zoo: Zoo, loras: Mapping[str, float], case: tuple[str, str] = SD
) -> Image.Image:
    request = batch(zoo, case, [task()], size=(64, 64), steps=2)
    (picture,) = engine.generate(replace(request, loras=loras), go_on)
    return picture


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("text", [False, True])
def test_weight_one_changes_the_picture_and_weight_zero_does_not(
    name: str, zoo: Zoo, engine: DiffusionEngine, tmp_path: Path, *, text: bool
) -> None:
    case = (name, "image-to-image")
    pipe = pipeline_of(engine, zoo.get(f"pixeltoll/{name}"), "image-to-image")
    style = str(make_lora(pipe, tmp_path / "style.safetensors", text=text))
    plain = draw(engine, zoo, {}, case)
    styled = draw(engine, zoo, {style: 1.0}, case)
    assert difference(plain, styled) > TOLERANCE
    assert difference(plain, draw(engine, zoo, {style: 0.0}, case)) <= TOLERANCE
    assert difference(plain, draw(engine, zoo, {}, case)) == 0
    assert difference(styled, draw(engine, zoo, {style: 1.0}, case)) == 0


def test_sets_that_alternate_never_leak_into_each_other(
    zoo: Zoo, engine: DiffusionEngine, styles: list[str], tmp_path: Path
) -> None:
    first, second, third = styles
    sets: list[dict[str, float]] = [{first: 1.0}, {second: 0.5, third: 0.5}, {}, {first: 0.25}]
    expected = [
        draw(DiffusionEngine(tmp_path, "cpu", lora_patterns=ANY), zoo, loras) for loras in sets
    ]
    for one, other in ((0, 1), (1, 2), (0, 3), (2, 3)):
        assert difference(expected[one], expected[other]) > 20
    for turn in range(20):
        drawn = draw(engine, zoo, sets[turn % len(sets)])
        assert difference(drawn, expected[turn % len(sets)]) <= TOLERANCE, turn


def test_both_pipelines_of_a_model_see_the_set_of_their_own_job(
    zoo: Zoo, engine: DiffusionEngine, styles: list[str]
) -> None:
    plain = draw(engine, zoo, {}, CASES[1])
    draw(engine, zoo, {styles[0]: 1.0}, CASES[0])
    assert difference(plain, draw(engine, zoo, {}, CASES[1])) == 0
    assert difference(plain, draw(engine, zoo, {styles[0]: 1.0}, CASES[1])) > 20


def test_a_set_that_stays_is_not_set_again(
    zoo: Zoo, engine: DiffusionEngine, styles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(engine, zoo, {styles[0]: 1.0})
    monkeypatch.setattr(Adapters, "_turn_on", None)
    draw(engine, zoo, {styles[0]: 1.0})


# --- What cannot be used ------------------------------------------------------------------------


def _of_another_model(path: Path, zoo: Zoo, engine: DiffusionEngine) -> None:
    make_lora(pipeline_of(engine, zoo.get("pixeltoll/demo-sdxl"), "text-to-image"), path)
    weights = load_file(path)
    wide = {key: torch.zeros(4, 96) if "lora_A" in key else value for key, value in weights.items()}
    save_file(wide, path)


def _with_layers_of_a_larger_model(path: Path, zoo: Zoo, engine: DiffusionEngine) -> None:
    make_lora(pipeline_of(engine, zoo.get("pixeltoll/demo-sd"), "text-to-image"), path)
    weights = load_file(path)
    more = {key.replace("down_blocks.1", "down_blocks.2"): one for key, one in weights.items()}
    save_file({**{key: one.clone() for key, one in more.items()}, **weights}, path)


def _with_a_second_text_encoder(path: Path, zoo: Zoo, engine: DiffusionEngine) -> None:
    pipe = pipeline_of(engine, zoo.get("pixeltoll/demo-sd"), "text-to-image")
    weights = load_file(make_lora(pipe, path, text=True))
    save_file(
        {key.replace("text_encoder.", "text_encoder_2."): one for key, one in weights.items()}, path
    )


def _whole_checkpoint(path: Path, _zoo: Zoo, _engine: DiffusionEngine) -> None:
    save_file({"unet.conv_in.weight": torch.zeros(4, 4, 3, 3)}, path)


def _empty(path: Path, _zoo: Zoo, _engine: DiffusionEngine) -> None:
    save_file({}, path)


def _dora(path: Path, zoo: Zoo, engine: DiffusionEngine) -> None:
    make_lora(pipeline_of(engine, zoo.get("pixeltoll/demo-sd"), "text-to-image"), path)
    weights = load_file(path)
    save_file({**weights, f"{min(weights)}.dora_scale": torch.ones(4)}, path)


@pytest.mark.parametrize(
    "make",
    [
        _of_another_model,
        _with_layers_of_a_larger_model,
        _with_a_second_text_encoder,
        _whole_checkpoint,
        _empty,
        _dora,
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error_and_leaves_no_trace(
    make: Callable[[Path, Zoo, DiffusionEngine], None],
    zoo: Zoo,
    engine: DiffusionEngine,
    styles: list[str],
    tmp_path: Path,
) -> None:
    bad = tmp_path / "bad.safetensors"
    make(bad, zoo, engine)
    plain, styled = draw(engine, zoo, {}), draw(engine, zoo, {styles[0]: 1.0})
    with pytest.raises(LoraIncompatible, match=r"bad\.safetensors"):
        draw(engine, zoo, {styles[0]: 1.0, str(bad): 1.0})
    assert difference(plain, draw(engine, zoo, {})) == 0
    assert difference(styled, draw(engine, zoo, {styles[0]: 1.0})) == 0
    with pytest.raises(LoraIncompatible):
        draw(engine, zoo, {str(bad): 1.0})


def test_what_is_not_there_is_told_from_what_cannot_be_read(
    zoo: Zoo, engine: DiffusionEngine, tmp_path: Path
) -> None:
    with pytest.raises(LoraNotFound, match="nothing"):
        draw(engine, zoo, {str(tmp_path / "nothing.safetensors"): 1.0})
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoraNotFound, match="empty"):
        draw(engine, zoo, {str(tmp_path / "empty"): 1.0})
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    with pytest.raises(LoraError, match="cannot be read"):
        draw(engine, zoo, {str(tmp_path / "broken.safetensors"): 1.0})


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["lora.bin", "lora.safetensors"])
def test_pickles_are_never_opened(
    name: str, zoo: Zoo, engine: DiffusionEngine, tmp_path: Path
) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / name).write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    for source in (tmp_path / "lora", tmp_path / "lora" / name):
        with pytest.raises(LoraError):
            draw(engine, zoo, {str(source): 1.0})
    assert not (tmp_path / "sprung").exists()


def test_a_folder_with_several_files_asks_for_one(
    zoo: Zoo, engine: DiffusionEngine, styles: list[str], tmp_path: Path
) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(Path(styles[0]).read_bytes())
    with pytest.raises(LoraError, match="has 2 files: name one"):
        draw(engine, zoo, {str(tmp_path): 1.0})
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(Path(styles[1]).read_bytes())
    chosen = draw(engine, zoo, {str(tmp_path): 1.0})
    assert difference(chosen, draw(engine, zoo, {styles[1]: 1.0})) <= TOLERANCE


def test_an_orchestrator_runs_no_adapter_that_it_does_not_allow(
    zoo: Zoo, styles: list[str], tmp_path: Path
) -> None:
    careful = DiffusionEngine(tmp_path, "cpu", lora_patterns=("acme/*", "/srv/loras/*"))
    for source in (styles[0], "other/style", "s3://bucket/style.safetensors"):
        with pytest.raises(LoraNotAllowed, match="not run here"):
            draw(careful, zoo, {source: 1.0})


# --- From a store -------------------------------------------------------------------------------


@pytest.fixture
def from_store(task_settings: TaskSettings, tmp_path: Path) -> DiffusionEngine:
    return DiffusionEngine.from_settings(
        task_settings.model_copy(update={"model_cache": tmp_path / "cache", "loras": "s3://*"})
    )


@pytest.mark.parametrize("named", ["loras/style/own-name.safetensors", "loras/style"])
def test_an_adapter_from_a_store_is_the_same_as_from_a_path(
    named: str,
    zoo: Zoo,
    engine: DiffusionEngine,
    styles: list[str],
    from_store: DiffusionEngine,
    store: ObjectStore,
    task_settings: TaskSettings,
) -> None:
    key = "loras/style/own-name.safetensors"
    store.put(key, Path(styles[0]).read_bytes(), "application/octet-stream")
    store.put("loras/style/README.md", b"hello", "text/plain")
    remote = draw(from_store, zoo, {f"s3://{task_settings.s3_bucket}/{named}": 1.0})
    assert difference(remote, draw(engine, zoo, {styles[0]: 1.0})) <= TOLERANCE


def test_what_a_store_does_not_have_is_not_found_and_a_dead_store_is_another_matter(
    zoo: Zoo,
    from_store: DiffusionEngine,
    store: ObjectStore,
    task_settings: TaskSettings,
    tmp_path: Path,
) -> None:
    store.put("loras/readme.md", b"hello", "text/plain")
    missing = f"s3://{task_settings.s3_bucket}/loras/none.safetensors"
    with pytest.raises(LoraNotFound, match="none"):
        draw(from_store, zoo, {missing: 1.0})
    dead = task_settings.model_copy(
        update={"s3_endpoint": "http://127.0.0.1:1", "model_cache": tmp_path, "loras": "s3://*"}
    )
    with pytest.raises(StorageError):
        draw(DiffusionEngine.from_settings(dead), zoo, {missing: 1.0})


# --- Memory -------------------------------------------------------------------------------------


def test_twelve_stay_and_the_least_recently_used_goes(
    zoo: Zoo, styles: list[str], tmp_path: Path
) -> None:
    engine = DiffusionEngine(tmp_path, "cpu", lora_patterns=ANY)
    sources = []
    for number in range(MAX_RESIDENT + 1):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(Path(styles[number % 3]).read_bytes())
        sources.append(str(path))
    for source in (*sources[:-1], sources[0], sources[-1]):
        draw(engine, zoo, {source: 1.0})
    adapters = engine._tiers.get(zoo.get("pixeltoll/demo-sd")).adapters
    assert adapters.resident == (*sources[2:-1], sources[0], sources[-1])
    # What went comes back, the same.
    back = draw(engine, zoo, {sources[1]: 1.0})
    assert difference(back, draw(engine, zoo, {styles[1]: 1.0})) <= TOLERANCE


def test_adapters_count_against_the_memory_and_go_before_models(
    zoo: Zoo, styles: list[str], tmp_path: Path
) -> None:
    sd, sdxl = zoo.get("pixeltoll/demo-sd"), zoo.get("pixeltoll/demo-sdxl")
    probe = DiffusionEngine(tmp_path, "cpu", lora_patterns=ANY)
    both = sum(probe._tiers.get(model).size_bytes for model in (sd, sdxl))
    one = Path(styles[1]).stat().st_size
    engine = DiffusionEngine(tmp_path, "cpu", memory_bytes=both + one, lora_patterns=ANY)
    engine.load(sdxl, "text-to-image")
    draw(engine, zoo, {styles[1]: 1.0})
    draw(engine, zoo, {styles[2]: 1.0})
    kept = engine._tiers.get(sd)
    assert kept.adapters.resident == (styles[2],)
    assert set(engine.loaded) == {sdxl.model_id, sd.model_id}
    # Two at once are needed, so a model has to go.
    draw(engine, zoo, {styles[1]: 0.5, styles[2]: 0.5})
    assert engine.loaded == (sd.model_id,)
    layer = kept.adapters._layers()[0]
    weight = weakref.ref(next(iter(layer.lora_A.values())).weight)
    while kept.adapters.evict(()):
        pass
    gc.collect()
    assert weight() is None
    assert difference(draw(engine, zoo, {}), draw(probe, zoo, {})) == 0
