"""What is shipped for checkpoints: the true families, CLIP's tokenizer, and enough to load a file
without a network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tasks.catalog import Catalog
from tasks.engine import configs, demo
from tasks.engine.diffusion import DiffusionEngine
from tests.engine.checkpoints import write_checkpoint
from tests.engine.helpers import CASES, batch, difference, go_on, task

V1, V2, XL = "stable-diffusion-v1-5", "stable-diffusion-2-1", "stable-diffusion-xl-base-1.0"


@pytest.mark.parametrize(
    ("layout", "weights", "name"),
    [
        ("stable-diffusion", ["cond_stage_model.transformer.text_model.x"], V1),
        ("stable-diffusion", ["cond_stage_model.model.token_embedding.weight"], V2),
        ("stable-diffusion-xl", ["conditioner.embedders.0.x"], XL),
    ],
)
def test_a_family_is_told_by_its_weights(layout: Any, weights: list[str], name: str) -> None:
    assert configs.folder_of(layout, weights).name == name


# The numbers of weights that the families are published with.
@pytest.mark.parametrize(
    ("name", "unet", "text", "second"),
    [
        (V1, 859_520_964, 123_060_480, None),
        (V2, 865_910_724, 340_387_840, None),
        (XL, 2_567_463_684, 123_060_480, 694_659_840),
    ],
)
def test_the_networks_are_those_that_were_published(
    name: str, unet: int, text: int, second: int | None
) -> None:
    folder = Path(configs.__file__).parent / name
    with torch.device("meta"):  # shapes alone
        networks: dict[int, Any] = {
            unet: diffusers.UNet2DConditionModel.from_config(
                diffusers.UNet2DConditionModel.load_config(folder / "unet")
            ),
            83_653_863: diffusers.AutoencoderKL.from_config(
                diffusers.AutoencoderKL.load_config(folder / "vae")
            ),
            text: CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
        }
        if second is not None:
            config = CLIPTextConfig.from_pretrained(folder / "text_encoder_2")
            networks[second] = CLIPTextModelWithProjection(config)
    for count, network in networks.items():
        assert sum(one.numel() for one in network.parameters()) == count


def test_the_tokenizer_is_clips() -> None:
    found = configs.tokenizers(Path(configs.__file__).parent / XL)
    first, second = found["tokenizer"], found["tokenizer_2"]
    said = "A photo of an astronaut riding a horse on mars"
    numbers = [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496, 49407]
    assert first(said).input_ids == second(said).input_ids == numbers
    assert (len(first), first.model_max_length) == (49408, 77)
    # The first family's encoder ends prompts by what the other's never does.
    assert (first.pad_token_id, second.pad_token_id) == (49407, 0)
    [only] = configs.tokenizers(Path(configs.__file__).parent / V1).values()
    assert only.pad_token_id == 49407
    assert first("naïve ☕").input_ids[-1] == 49407


def _shrink(folder: Path) -> None:
    """Make the shipped family as small as the demo's, by its numbers alone."""
    small = {
        "unet": {key: value for key, value in demo._unet({}).config.items() if key[0] != "_"},
        "vae": {key: value for key, value in demo._vae().config.items() if key[0] != "_"},
        "text_encoder": {
            "hidden_size": demo._TEXT_WIDTH,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
    }
    for part, numbers in small.items():
        path = folder / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **numbers}, default=str))


def test_a_checkpoint_needs_nothing_beside_it(
    demo_catalog: Catalog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is fetched")

    monkeypatch.setattr("diffusers.loaders.single_file.snapshot_download", refuse)
    shipped = tmp_path / "shipped"
    shutil.copytree(Path(configs.__file__).parent, shipped)
    _shrink(shipped / V1)
    monkeypatch.setattr(configs, "_FOLDER", shipped)
    whole = _pipeline(shipped / V1)
    whole.save_pretrained(tmp_path / "whole")
    file = write_checkpoint(tmp_path / "whole", tmp_path / "model.safetensors")

    plain = demo_catalog.get("pixeltoll/demo-sd")
    engine = DiffusionEngine(tmp_path / "cache", device="cpu")
    request = batch(demo_catalog, CASES[0], [task("a naïve cat")], size=(64, 64), steps=2)
    made = [
        engine.generate(
            replace(request, model=replace(plain, model_id=name, source=str(source))), go_on
        )[0]
        for name, source in (("acme/folder", tmp_path / "whole"), ("acme/file", file))
    ]
    assert difference(*made) == 0


def _pipeline(folder: Path) -> Any:
    """A model of a family, with weights that show in the pictures."""
    parts: dict[str, Any] = {
        "unet": diffusers.UNet2DConditionModel.from_config(
            diffusers.UNet2DConditionModel.load_config(folder / "unet")
        ),
        "vae": diffusers.AutoencoderKL.from_config(
            diffusers.AutoencoderKL.load_config(folder / "vae")
        ),
        "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
    }
    with torch.no_grad():
        for part in parts.values():
            demo._draw(part, torch.Generator().manual_seed(3))
    return diffusers.StableDiffusionPipeline(
        **parts,
        **configs.tokenizers(folder),
        scheduler=diffusers.PNDMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
