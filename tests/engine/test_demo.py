"""Demo models: repeatable, small, real, and worth looking at."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from tasks.catalog import Catalog
from tasks.engine.demo import make_demo
from tasks.engine.diffusion import DiffusionEngine
from tests.engine.helpers import CASES, batch, difference, go_on, sketch, task


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    demo_dir: Path, tmp_path: Path
) -> None:
    moved: list[tuple[int, int]] = []
    again = digests(make_demo(tmp_path / "again", move=lambda *at: moved.append(at)).parent)
    assert again == digests(demo_dir)
    assert moved == [(1, 3), (2, 3), (3, 3)]
    other = digests(make_demo(tmp_path / "other", seed=1).parent)
    weights = {name for name in again if name.endswith(".safetensors")}
    assert len(weights) == 10
    assert all(again[name] != other[name] for name in weights)


def test_all_of_it_is_small_and_safe(demo_dir: Path) -> None:
    files = [path for path in demo_dir.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors", ".toml"}


def test_the_catalog_names_three_models_with_their_bounds(demo_catalog: Catalog) -> None:
    ours = [spec for spec in demo_catalog.models() if spec.model_id.startswith("pixeltoll/demo-")]
    assert [(spec.model_id, spec.layout, spec.pipelines) for spec in ours] == [
        ("pixeltoll/demo-sd", "stable-diffusion", ("text-to-image", "image-to-image")),
        ("pixeltoll/demo-sdxl", "stable-diffusion-xl", ("text-to-image", "image-to-image")),
        ("pixeltoll/demo-pix2pix", "instruct-pix2pix", ("image-to-image",)),
    ]
    for spec in ours:
        assert Path(spec.source).is_dir()
        assert (spec.min_size, spec.max_size, spec.size_multiple) == (64, 1024, 8)
        assert (spec.default_width, spec.default_height) == (256, 256)
        assert (spec.default_steps, spec.max_steps) == (8, 100)
        assert (spec.max_images, spec.max_batch) == (16, 8)
    runtime = demo_catalog.runtime("sdruntime")
    assert (runtime.models, runtime.dynamic) == (("pixeltoll/demo-sd", "pixeltoll/demo-sdxl"), True)
    found = demo_catalog.resolve("v1-5-pruned-emaonly.safetensors")
    assert found.model_id == "pixeltoll/demo-sd"


def test_every_text_has_tokens_and_common_words_have_one(demo_dir: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(demo_dir / "demo-sd" / "tokenizer")
    for text in ("a red cat", "Ünïcödé, 漢字 & 🐈‍⬛!"):
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids[1:-1]
    assert len(tokenizer("a red cat on the sea").input_ids) == 6 + 2
    assert tokenizer.decode(tokenizer("the red cat").input_ids[1:-1]).strip() == "the red cat"


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_pictures_are_no_flat_colour_and_follow_what_was_asked(
    case: tuple[str, str], demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    plain, prompt, negative, seed = diffusion.generate(
        batch(
            demo_catalog,
            case,
            [
                task("a cat"),
                task("the red sun over a dark sea"),
                task("a cat", negative_prompt="bright colors"),
                task("a cat", seed=2),
            ],
        ),
        go_on,
    )
    assert np.asarray(plain).std() > 10
    assert min(difference(plain, other) for other in (prompt, negative, seed)) > 20


@pytest.mark.parametrize("case", CASES[1::2] + CASES[4:], ids="-".join)
def test_pictures_follow_the_input_picture(
    case: tuple[str, str], demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    request = batch(demo_catalog, case, [task()])
    (plain,) = diffusion.generate(request, go_on)
    changed = batch(demo_catalog, case, [type(task())("a cat", "", 1, sketch("white"))])
    assert difference(plain, diffusion.generate(changed, go_on)[0]) > 20
