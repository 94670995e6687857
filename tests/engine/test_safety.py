"""The safety checker: its verdict on each picture, whatever folder it comes from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil

from tasks.engine.diffusion import DiffusionEngine
from tasks.errors import ModelLoadError
from tests.engine.helpers import sketch

_WIDE = 16
BAD, GOOD = sketch("white"), Image.new("RGB", (64, 96), "navy")


@pytest.fixture(scope="module")
def checker_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checker with random weights, and one concept: to look like BAD rather than GOOD."""
    target = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    small = {"hidden_size": _WIDE, "intermediate_size": _WIDE, "num_hidden_layers": 1}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(
            vision_config={**small, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
            text_config={**small, "num_attention_heads": 2},
            projection_dim=_WIDE,
        )
    ).eval()
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    with torch.no_grad():
        pixels = processor([BAD, GOOD], return_tensors="pt").pixel_values
        seen = checker.visual_projection(checker.vision_model(pixels)[1])
        bad, good = torch.nn.functional.normalize(seen)
        checker.concept_embeds_weights.fill_(2.0)  # beyond any cosine
        checker.special_care_embeds_weights.fill_(2.0)
        checker.concept_embeds[0] = bad - good
        checker.concept_embeds_weights[0] = 0.0
    checker.save_pretrained(target / "safety_checker")
    processor.save_pretrained(target / "feature_extractor")
    return target


def engine(tmp_path: Path, source: Path) -> DiffusionEngine:
    return DiffusionEngine(tmp_path, "cpu", safety_checker=str(source))


def test_each_picture_gets_its_own_verdict_and_stays_as_it_is(
    checker_dir: Path, tmp_path: Path
) -> None:
    careful = engine(tmp_path, checker_dir)
    before = BAD.tobytes()
    assert careful.verdicts([BAD, GOOD, BAD]) == [True, False, True]
    assert careful.verdicts([GOOD]) == [False]
    assert careful.verdicts([]) == []
    assert BAD.tobytes() == before


def test_without_a_checker_nobody_has_looked(tmp_path: Path) -> None:
    assert DiffusionEngine(tmp_path, "cpu").verdicts([BAD, GOOD]) == [None, None]


def test_the_checker_s_own_folder_will_do(checker_dir: Path, tmp_path: Path) -> None:
    """As in CompVis' repository, where both are in the root."""
    for part in ("safety_checker", "feature_extractor"):
        shutil.copytree(checker_dir / part, tmp_path / "flat", dirs_exist_ok=True)
    assert engine(tmp_path, tmp_path / "flat").verdicts([BAD, GOOD]) == [True, False]


def test_older_names_of_the_weights_are_read(checker_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(checker_dir, tmp_path / "old")
    path = tmp_path / "old" / "safety_checker" / "model.safetensors"
    save_file(
        {
            name.replace("vision_model.", "vision_model.vision_model.", 1): one
            for name, one in load_file(path).items()
        },
        path,
        {"format": "pt"},
    )
    assert engine(tmp_path, tmp_path / "old").verdicts([BAD, GOOD]) == [True, False]


def test_a_checker_with_gaps_or_without_files_is_refused(checker_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(checker_dir, tmp_path / "gaps")
    path = tmp_path / "gaps" / "safety_checker" / "model.safetensors"
    weights = load_file(path)
    weights.pop("concept_embeds")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelLoadError, match="lacks 1"):
        engine(tmp_path, tmp_path / "gaps").verdicts([BAD])
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(ModelLoadError, match="safety checker"):
        engine(tmp_path, tmp_path / "gaps").verdicts([BAD])
    (tmp_path / "gaps" / "feature_extractor" / "preprocessor_config.json").write_text(
        json.dumps([])
    )
    with pytest.raises(ModelLoadError, match="safety checker"):
        engine(tmp_path, tmp_path / "gaps").verdicts([BAD])


@pytest.mark.parametrize("source", ["acme/checker", "acme/checker@main"])
def test_a_checker_on_the_hub_needs_its_commit(source: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="pinned revision"):
        DiffusionEngine(tmp_path, "cpu", safety_checker=source).verdicts([BAD])
