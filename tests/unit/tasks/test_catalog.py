"""Catalog files: what a good one gives, and how a mistake is told by the name of its model."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest

from tasks import catalog, names
from tasks.catalog import Catalog
from tasks.errors import CatalogError, UnknownModel, UnknownRuntime

MODEL: dict[str, Any] = {
    "model_id": "acme/turbo",
    "source": "acme/turbo",
    "layout": "stable-diffusion",
    "pipelines": ["text-to-image"],
}
LISTED = {
    "SG161222/Realistic_Vision_V6.0_B1_noVAE",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "runwayml/stable-diffusion-v1-5",
    "prompthero/openjourney-v4",
    "ByteDance/SDXL-Lightning",
    "SG161222/RealVisXL_V4.0",
    "SG161222/RealVisXL_V4.0_Lightning",
    "stabilityai/sd-turbo",
    "stabilityai/sdxl-turbo",
    "stabilityai/stable-diffusion-3-medium-diffusers",
    "stabilityai/stable-diffusion-3.5-medium",
    "stabilityai/stable-diffusion-3.5-large",
    "black-forest-labs/FLUX.1-schnell",
    "black-forest-labs/FLUX.1-dev",
    "timbrooks/instruct-pix2pix",
}


def write(folder: Path, *models: dict[str, Any]) -> Path:
    path = folder / "catalog.toml"
    tables = ("\n".join(f"{key} = {_toml(value)}" for key, value in one.items()) for one in models)
    path.write_text("".join(f"[[model]]\n{table}\n\n" for table in tables), "utf-8")
    return path


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(one)}' for key, one in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def test_the_built_in_catalog_is_sound_and_pins_every_hub_revision() -> None:
    models = catalog.load().models()
    assert {model.layout for model in models} == set(get_args(catalog.Layout))
    # What upstream lists, under the ids that its users send.
    assert {model.model_id for model in models} >= LISTED
    for model in models:
        assert model.license
        if model.layout == "resampling":  # without weights, there is nothing to pin
            assert model.unavailable is None
            assert model.recommended_price_usd == Decimal("1e-11")
            continue
        revisions = [part.revision for part in (model, model.unet, model.vae) if part is not None]
        pinned = all(map(catalog.is_commit, revisions))
        assert pinned == (model.unavailable is None)
        assert model.vram_gib
        assert model.recommended_price_usd == Decimal("1.9073484e-08")


def test_a_hub_model_without_a_commit_says_where_to_pin_it() -> None:
    why = catalog.load().get("SG161222/RealVisXL_V4.0_Lightning").unavailable
    assert why is not None
    assert "PIXELTOLL_CATALOG" in why


@pytest.mark.parametrize(
    ("revision", "unet", "available"),
    [
        ("a" * 40, None, True),
        ("main", None, False),
        ("a" * 40, "", False),
        ("a" * 40, "b" * 40, True),
    ],
)
def test_every_part_from_the_hub_needs_its_commit(
    tmp_path: Path, revision: str, unet: str | None, *, available: bool
) -> None:
    path = write(tmp_path, {**MODEL, "revision": revision})
    if unet is not None:
        pin = f'revision = "{unet}"\n' if unet else ""
        with path.open("a") as file:
            file.write(f'[model.unet]\nsource = "acme/fast"\nfile = "u.safetensors"\n{pin}')
    found = catalog.load(path).get("acme/turbo").unavailable
    assert (found is None) is available


def test_parts_beside_the_file_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    path = write(tmp_path, MODEL)
    with path.open("a") as file:
        file.write('[model.unet]\nsource = "parts"\nfile = "u.safetensors"\n')
        file.write('[model.vae]\nsource = "parts"\n')
    model = catalog.load(path).get("acme/turbo")
    assert (model.unet, model.vae) == (
        catalog.Part(str(tmp_path / "parts"), file="u.safetensors"),
        catalog.Part(str(tmp_path / "parts")),
    )


def test_an_operators_file_adds_models_and_replaces_built_in_ones(tmp_path: Path) -> None:
    built_in = catalog.load().models()
    again = {**MODEL, "model_id": built_in[0].model_id, "max_batch": 2}
    loaded = catalog.load(write(tmp_path, MODEL, again))
    assert len(loaded.models()) == len(built_in) + 1
    assert loaded.get(built_in[0].model_id).max_batch == 2
    assert loaded.get("acme/turbo").default_steps == 50


def test_an_unknown_model_is_told_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="acme/turbo") as refused:
        catalog.load(write(tmp_path, MODEL)).get("acme/nothing")
    assert "acme/turbo" in refused.value.known


def test_a_folder_beside_the_file_becomes_absolute(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    here = {**MODEL, "model_id": "acme/here", "source": "weights"}
    loaded = catalog.load(write(tmp_path, MODEL, here))
    assert loaded.get("acme/here").source == str(tmp_path / "weights")
    assert loaded.get("acme/turbo").source == "acme/turbo"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"min_sise": 64}, "min_sise: Unexpected keyword argument"),
        ({"layout": "stable-cascade"}, "layout: "),
        ({"pipelines": []}, "pipelines must be some of"),
        ({"pipelines": ["text-to-video"]}, "pipelines.0: "),
        ({"layout": "instruct-pix2pix"}, "pipelines must be some of image-to-image"),
        ({"model_id": "acme/turbo v2"}, "model_id must be a hub id"),
        ({"model_id": "../turbo"}, "model_id must be a hub id"),
        ({"sha256": "6CE0"}, "sha256 must be 64 hexadecimal digits"),
        ({"sha256": "a" * 64}, "config and sha256 are for a source that is one .safetensors"),
        ({"config": {"source": "a/b"}}, "config and sha256 are for a source that is one"),
        (
            {"source": "a.safetensors", "config": {"source": "a/b", "file": "c.json"}},
            "config must be a folder",
        ),
        ({"source": "a.safetensors", "layout": "flux", "size_multiple": 16}, "a checkpoint must"),
        ({"source": ""}, "source must not be empty"),
        ({"dtype": "int8"}, "dtype: "),
        ({"max_batch": "4"}, "max_batch: Input should be a valid integer"),
        ({"max_batch": True}, "max_batch: Input should be a valid integer"),
        ({"max_batch": 0}, "max_batch must be at least 1"),
        ({"max_images": 0}, "max_images must be at least 1"),
        ({"max_prompt_chars": 0}, "max_prompt_chars must be at least 1"),
        ({"min_size": 2048}, "min_size must be from 1 to max_size"),
        ({"min_size": 0}, "min_size must be from 1 to max_size"),
        ({"size_multiple": 0}, "size_multiple must be at least 1"),
        ({"max_size": 1020}, "max_size must be a multiple of size_multiple"),
        ({"default_width": 1032}, "default_width must be a multiple"),
        ({"default_width": 56}, "default_width must be a multiple"),
        ({"default_height": 511}, "default_height must be a multiple"),
        ({"default_steps": 0}, "default_steps must be from 1 to max_steps"),
        ({"default_steps": 151}, "default_steps must be from 1 to max_steps"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"default_guidance_scale": -1}, "default_guidance_scale must be from 0 to 100"),
        ({"default_image_guidance_scale": 101}, "default_image_guidance_scale must be from 0"),
        ({"default_strength": 0}, "default_strength must be above 0"),
        ({"default_strength": 1.5}, "default_strength must be above 0"),
        ({"default_strength": 0.01}, "default_strength must be above 0"),
        ({"run_steps": [4, 2]}, "run_steps must be two numbers in order"),
        ({"run_steps": [0, 50]}, "run_steps must be two numbers in order"),
        ({"run_steps": [1, 4]}, "default_steps must be from 1 to 4, as run_steps"),
        ({"run_steps": [1]}, "run_steps.1: "),
        ({"run_guidance_scale": [2.0, 1.0]}, "run_guidance_scale must be two numbers in order"),
        ({"run_guidance_scale": [0.0, 1.0]}, "about default_guidance_scale"),
        ({"layout": "flux", "size_multiple": 8}, "size_multiple must be a multiple of 16 for flux"),
        ({"unet": {"source": "a/b", "file": "u.bin"}}, "unet must name a .safetensors file"),
        ({"layout": "flux", "prediction_type": "epsilon"}, "prediction_type is for Stable"),
        ({"unet": {"source": "a/b"}}, "unet must name a .safetensors file"),
        ({"vae": {"source": "a/b", "file": "v.safetensors"}}, "vae must be a folder"),
        ({"vae": {"sauce": "a/b"}}, "vae.sauce: "),
    ],
)
def test_an_impossible_model_is_refused_by_name(
    tmp_path: Path, wrong: dict[str, Any], told: str
) -> None:
    with pytest.raises(CatalogError) as refused:
        catalog.load(write(tmp_path, {**MODEL, **wrong}))
    assert told in str(refused.value)
    assert wrong.get("model_id", "acme/turbo") in str(refused.value)


def test_all_faults_of_a_model_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"max_batch.*default_steps"):
        catalog.load(write(tmp_path, {**MODEL, "max_batch": 0, "default_steps": 0}))


def test_a_model_without_a_name_is_told_by_its_place(tmp_path: Path) -> None:
    nameless = {key: value for key, value in MODEL.items() if key != "model_id"}
    with pytest.raises(CatalogError, match="number 2: model_id"):
        catalog.load(write(tmp_path, MODEL, nameless))


def test_a_file_may_not_describe_a_model_twice(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="'acme/turbo' more than once"):
        catalog.load(write(tmp_path, MODEL, MODEL))


def test_two_models_may_not_share_their_queues(tmp_path: Path) -> None:
    alike = {**MODEL, "model_id": "acme/turbo."}
    with pytest.raises(CatalogError, match="share the queue name 'acme-turbo'"):
        catalog.load(write(tmp_path, MODEL, alike))


@pytest.mark.parametrize(
    "content",
    [
        "[[models]]\n",
        "runtime = 3\n",
        "model = 3\n",
        "model = [3]\n",
        "[model]\n",
        "nonsense",
        "\ufffe",
        'x = "y"',
    ],
)
def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(content, "utf-16" if content == "\ufffe" else "utf-8")
    with pytest.raises(CatalogError, match=r"catalog\.toml"):
        catalog.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot be read"):
        catalog.load(tmp_path / "nothing.toml")


def test_a_request_may_use_an_alias_and_what_is_stored_may_not(tmp_path: Path) -> None:
    found = catalog.load(write(tmp_path, {**MODEL, "aliases": ["turbo", "acme:turbo"]}))
    assert found.resolve("acme:turbo") is found.resolve("acme/turbo") is found.get("acme/turbo")
    for ask in (found.get, found.resolve):
        with pytest.raises(UnknownModel):
            ask("turbo2" if ask == found.resolve else "turbo")


@pytest.mark.parametrize("taken", ["acme/turbo", "stabilityai/sd-turbo"])
def test_an_alias_names_one_model(tmp_path: Path, taken: str) -> None:
    with pytest.raises(CatalogError, match="more than one model"):
        catalog.load(write(tmp_path, {**MODEL, "aliases": [taken]}))


def test_what_an_operators_model_is_called_is_no_built_in_alias_any_more(tmp_path: Path) -> None:
    eight = "ByteDance/SDXL-Lightning-8step"
    found = catalog.load(write(tmp_path, {**MODEL, "model_id": eight}))
    assert found.resolve(eight).source == MODEL["source"]
    assert found.resolve("ByteDance/SDXL-Lightning:8step").model_id == "ByteDance/SDXL-Lightning"


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_livepeers_names_of_sdxl_lightning_find_the_unet_of_their_steps(steps: int) -> None:
    spec = catalog.load().resolve(f"ByteDance/SDXL-Lightning-{steps}step")
    assert spec.run_steps == (steps, steps)
    assert catalog.load().resolve(f"ByteDance/SDXL-Lightning_{steps}step") == spec


# --- names and runtimes -----------------------------------------------------------------------

DIGEST = "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa"
FILE = "v1-5-pruned-emaonly.safetensors"


@pytest.mark.parametrize(
    "name",
    [
        "acme/turbo",
        FILE,
        "v1-5-pruned-emaonly",
        f"{FILE} [6ce0161689]",
        "v1-5-pruned-emaonly [6ce0161689]",
        "6ce0161689",
    ],
)
def test_a_checkpoint_is_found_by_every_name_that_it_has_elsewhere(
    tmp_path: Path, name: str
) -> None:
    for one in (
        {"aliases": [FILE], "source": "s3://models/a.safetensors"},
        {"source": f"s3://m/{FILE}"},
    ):
        found = catalog.load(write(tmp_path, {**MODEL, **one, "sha256": DIGEST}))
        assert found.resolve(name).model_id == "acme/turbo"
        assert found.resolve(name).unavailable is None


@pytest.mark.parametrize(
    "name", ["", "v1-5", FILE.upper(), f"{FILE} [0000000000]", f" {FILE}", f"models/{FILE}"]
)
def test_no_model_is_guessed(tmp_path: Path, name: str) -> None:
    found = catalog.load(write(tmp_path, {**MODEL, "source": f"s3://m/{FILE}", "sha256": DIGEST}))
    with pytest.raises(UnknownModel):
        found.resolve(name)


def test_a_file_name_that_two_models_share_finds_neither_and_an_alias_decides(
    tmp_path: Path,
) -> None:
    first = {**MODEL, "source": f"s3://a/{FILE}"}
    second = {**MODEL, "model_id": "acme/other", "source": f"s3://b/{FILE}"}
    with pytest.raises(UnknownModel):
        catalog.load(write(tmp_path, first, second)).resolve(FILE)
    chosen = catalog.load(write(tmp_path, first, {**second, "aliases": [FILE]}))
    assert chosen.resolve(FILE).model_id == "acme/other"


def test_weights_that_are_no_checkpoint_have_a_hash_of_what_pins_them(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    here = write(tmp_path, {**MODEL, "source": "there"})
    first = names.weights_hash(catalog.load(here).get("acme/turbo"))
    assert len(first) == 10
    (tmp_path / "elsewhere" / "there").mkdir(parents=True)
    moved = write(tmp_path / "elsewhere", {**MODEL, "source": "there"})
    assert names.weights_hash(catalog.load(moved).get("acme/turbo")) == first
    pinned = write(tmp_path, {**MODEL, "source": "there", "revision": "a" * 40})
    assert names.weights_hash(catalog.load(pinned).get("acme/turbo")) != first


def runtimes(folder: Path, text: str) -> Catalog:
    path = write(folder, MODEL, {**MODEL, "model_id": "acme/other", "aliases": [FILE]})
    path.write_text(path.read_text("utf-8") + f"[[runtime]]\n{text}\n", "utf-8")
    return catalog.load(path)


def test_a_runtime_names_models_by_id_or_alias(tmp_path: Path) -> None:
    text = f'name = "sdruntime"\nmodels = ["acme/turbo", "{FILE}"]\ndynamic = true'
    runtime = runtimes(tmp_path, text).runtime("sdruntime")
    assert (runtime.models, runtime.dynamic) == (("acme/turbo", FILE), True)
    assert runtime.orchestrator is None
    bound = f'{text}\norchestrator = "north"'
    assert runtimes(tmp_path, bound).runtime("sdruntime").orchestrator == "north"
    with pytest.raises(UnknownRuntime, match="sdruntime"):
        runtimes(tmp_path, text).runtime("other")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('name = "a b"\nmodels = ["acme/turbo"]', "name must be letters"),
        ('name = "a"\nmodels = []', "models must name one model"),
        ('name = "a"\nmodels = ["acme/turbo", "acme/other"]', "must be `dynamic = true`"),
        ('name = "a"\nmodels = ["acme/nothing"]', "'a' cannot be had. There is no model"),
        ('models = ["acme/turbo"]', "without a name: name: "),
        ('name = "a"\nmodel = "acme/turbo"', "model: Unexpected keyword argument"),
        (
            'name = "a"\nmodels = ["acme/turbo"]\n[[runtime]]\nname = "a"\nmodels = ["acme/turbo"]',
            "'a' more than once",
        ),
    ],
)
def test_an_impossible_runtime_is_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(CatalogError) as refused:
        runtimes(tmp_path, text)
    assert told in str(refused.value)


def test_a_checkpoint_beside_the_file_becomes_absolute(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    (tmp_path / "config").mkdir()
    path = write(tmp_path, {**MODEL, "source": FILE, "config": {"source": "config"}})
    found = catalog.load(path).get("acme/turbo")
    assert found.checkpoint == catalog.Part(str(tmp_path), None, FILE)
    assert found.config == catalog.Part(str(tmp_path / "config"))
    assert names.title(found).startswith(f"{FILE} [")


def test_a_checkpoint_on_the_hub_needs_its_commit(tmp_path: Path) -> None:
    hub = {**MODEL, "source": f"acme/turbo/{FILE}"}
    assert catalog.load(write(tmp_path, hub)).get("acme/turbo").unavailable
    pinned = catalog.load(write(tmp_path, {**hub, "revision": "a" * 40})).get("acme/turbo")
    assert pinned.unavailable is None
