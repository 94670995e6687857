"""Models of the real classes, small and random: one for each layout, to try the engine with.

Owns their shapes, weights and catalog. The weights are drawn so that pictures are smooth and
colourful rather than static: what they show is the seed, the prompt's colours, and the input
picture's outlines.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tasks.engine.quiet import quieten

quieten()

_CATALOG_NAME = "catalog.toml"
_CATALOG_HEAD = """\
# Models with random weights, written by tests and benches: patterns, not motifs.
"""
_CATALOG_ENTRY = """
[[model]]
model_id = "pixeltoll/{name}"
source = "{name}"
layout = "{layout}"
pipelines = {pipelines}
aliases = {aliases}
default_width = 256
default_height = 256
min_size = 64
max_size = 1024
size_multiple = 8
default_steps = 8
max_steps = 100
max_images = 16
max_batch = 8
"""
# So that the examples of the AWS task API run as they are written.
_CATALOG_RUNTIME = """
[[runtime]]
name = "sdruntime"
models = ["pixeltoll/demo-sd", "pixeltoll/demo-sdxl"]
dynamic = true
"""

_TEXT_WIDTH = 64
_CONTEXT_TOKENS = 77  # CLIP's, which the pipelines' users know
# What the tokenizer merges into few tokens. Anything else still works, as bytes.
_WORDS = """
a an the and of in on at with over under by from to no as is one two three photo picture painting
portrait drawing sketch oil watercolor digital art style light dark bright soft warm cold red green
blue yellow orange purple pink black white golden silver cat dog horse bird fish fox bear astronaut
robot woman man child face house castle city street forest tree flower garden mountain river lake
sea ocean beach island sky cloud sun moon star night day sunset sunrise winter summer spring autumn
snow rain fire water wind old new small large tiny giant riding flying running sitting standing
make it look like turn into add remove detailed beautiful colorful abstract blurry ugly
"""

# The kernel of every 3x3 convolution: neighbours are averaged, which is what makes the pictures
# smooth.
_KERNEL = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
# Above 1, so that prompts and inputs are not drowned by what the layers add on their own.
_GAIN = 2.0


@dataclass(frozen=True)
class _Recipe:
    """One demo model: its layout and what sets it apart from the plain one."""

    name: str
    layout: str
    pipelines: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    scheduler: str = "EulerDiscreteScheduler"
    unet: Mapping[str, Any] = field(default_factory=dict)


_POOLED_WIDTH = 32
_TIME_WIDTH = 8
_RECIPES = (
    _Recipe(
        "demo-sd",
        "stable-diffusion",
        ("text-to-image", "image-to-image"),
        aliases=("v1-5-pruned-emaonly.safetensors",),
    ),
    _Recipe(
        "demo-sdxl",
        "stable-diffusion-xl",
        ("text-to-image", "image-to-image"),
        unet={
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _TIME_WIDTH,
            # SDXL is told six numbers beside the prompt: the original size, the crop, and the
            # target size.
            "projection_class_embeddings_input_dim": _POOLED_WIDTH + 6 * _TIME_WIDTH,
            "use_linear_projection": True,
        },
    ),
    _Recipe(
        "demo-pix2pix",
        "instruct-pix2pix",
        ("image-to-image",),
        scheduler="EulerAncestralDiscreteScheduler",
        unet={"in_channels": 8},  # the noisy latents and the input picture's
    ),
)


def make_demo(
    target: Path, seed: int = 0, move: Callable[[int, int], None] = lambda _done, _total: None
) -> Path:
    """Write the demo models and their catalog into a folder, and return the catalog's path.

    The same seed gives the same bytes. The catalog is written last: where it is, the models are
    complete. `move` is told how many models are done, and of how many.
    """
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    for number, recipe in enumerate(_RECIPES):
        generator = torch.Generator().manual_seed(seed * len(_RECIPES) + number)
        pipe = _pipeline(recipe, tokenizer, generator)
        pipe.save_pretrained(target / recipe.name, safe_serialization=True)
        move(number + 1, len(_RECIPES))
    catalog = target / _CATALOG_NAME
    entries = "".join(map(_catalog_entry, _RECIPES))
    catalog.write_text(_CATALOG_HEAD + entries + _CATALOG_RUNTIME, "utf-8")
    return catalog


def _catalog_entry(recipe: _Recipe) -> str:
    return _CATALOG_ENTRY.format(
        name=recipe.name,
        layout=recipe.layout,
        pipelines=json.dumps(recipe.pipelines),
        aliases=json.dumps(recipe.aliases),
    )


def _pipeline(
    recipe: _Recipe,
    tokenizer: CLIPTokenizer,
    generator: torch.Generator,
) -> diffusers.DiffusionPipeline:
    parts: dict[str, Any] = {
        "unet": _unet(recipe.unet),
        "vae": _vae(),
        "tokenizer": tokenizer,
        "scheduler": getattr(diffusers, recipe.scheduler)(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
    }
    if recipe.layout == "stable-diffusion-xl":
        half = _TEXT_WIDTH // 2  # the UNet sees both encoders' outputs side by side
        parts["text_encoder"] = _text_encoder(CLIPTextModel, tokenizer, half)
        parts["text_encoder_2"] = _text_encoder(CLIPTextModelWithProjection, tokenizer, half)
        parts["tokenizer_2"] = tokenizer
        cls = diffusers.StableDiffusionXLPipeline
    else:
        parts["text_encoder"] = _text_encoder(CLIPTextModel, tokenizer, _TEXT_WIDTH)
        parts |= {"safety_checker": None, "feature_extractor": None}
        parts["requires_safety_checker"] = False
        cls = (
            diffusers.StableDiffusionInstructPix2PixPipeline
            if recipe.layout == "instruct-pix2pix"
            else diffusers.StableDiffusionPipeline
        )
    for _, part in sorted(parts.items()):
        if isinstance(part, torch.nn.Module):
            with torch.no_grad():
                _draw(part, generator)
    return cls(**parts)


def _unet(extra: Mapping[str, Any]) -> diffusers.UNet2DConditionModel:
    plain: dict[str, Any] = {
        "sample_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        # Attention at the lower resolution only: its cost grows with the fourth power of the
        # picture's side.
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": _TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return diffusers.UNet2DConditionModel(**{**plain, **extra})


def _vae() -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        sample_size=256,
        latent_channels=4,
        # Four levels, hence a factor of eight between pictures and latents, as in the models that
        # are imitated.
        block_out_channels=(8, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )


def _text_encoder(cls: type[Any], tokenizer: CLIPTokenizer, width: int) -> torch.nn.Module:
    model: torch.nn.Module = cls(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=_POOLED_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=_CONTEXT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return model


def _tokenizer() -> CLIPTokenizer:
    return tokenizer_of(_WORDS.split())


def tokenizer_of(words: Sequence[str], context_tokens: int = _CONTEXT_TOKENS) -> CLIPTokenizer:
    """Return a byte-level tokenizer in CLIP's form: every text has tokens, common words few."""
    merges = _merges(words)
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [
        *alphabet,
        *(letter + "</w>" for letter in alphabet),
        *(first + second for first, second in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(dict.fromkeys(tokens))},
        merges=merges,
        model_max_length=context_tokens,
    )


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges learned from words, in the order in which they apply.

    The tokenizers library could learn them as well, but breaks ties differently every time.
    """
    spellings = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for letters in spellings for pair in pairwise(letters)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        spellings = [_merged(letters, best) for letters in spellings]
    return merges


def _merged(letters: Sequence[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for letter in letters:
        if merged and (merged[-1], letter) == pair:
            merged[-1] += letter
        else:
            merged.append(letter)
    return merged


def _draw(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Fill a model's weights from the generator, in the order of their names."""
    for name, weight in sorted(model.named_parameters()):
        if weight.ndim == 1:
            centre = 1.0 if name.endswith("weight") else 0.0  # a norm's scale, or a bias
            weight.copy_(centre + 0.1 * torch.randn(weight.shape, generator=generator))
        elif weight.shape[2:] == _KERNEL.shape:
            mix = _GAIN * torch.randn(weight.shape[:2], generator=generator)
            weight.copy_(mix[:, :, None, None] / math.sqrt(weight.shape[1]) * _KERNEL)
        else:
            drawn = _GAIN * torch.randn(weight.shape, generator=generator)
            weight.copy_(drawn / math.sqrt(weight[0].numel()))
    if isinstance(model, diffusers.AutoencoderKL):
        _balance_colours(model)


def _balance_colours(vae: diffusers.AutoencoderKL) -> None:
    """Centre the last layer, so that pictures spread around grey instead of into one colour."""
    last = vae.decoder.conv_out
    mix = last.weight.sum(dim=(2, 3))
    mix -= mix.mean(dim=1, keepdim=True)
    mix /= mix.norm(dim=1, keepdim=True)
    last.weight.copy_(mix[:, :, None, None] * _KERNEL)
    last.bias.zero_()
