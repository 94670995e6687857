"""A demo model as one file, whose weights are named as Stable Diffusion 1 was published."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]
_Rules = tuple[tuple[str, str], ...]

_EMBEDDINGS: _Rules = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
)
_RESNETS: _Rules = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
_DECODER: _Rules = (
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.", "mid.attn_1."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_q\.", ".q."),
    (r"\.to_k\.", ".k."),
    (r"\.to_v\.", ".v."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"down_blocks\.(\d)\.resnets\.", r"down.\1.block."),
    (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
)


def write_checkpoint(model: Path, target: Path) -> Path:
    """Write a folder's model, of one layer in each block, as one file."""
    found = {f"model.diffusion_model.{_unet(name)}": one for name, one in _read(model, "unet")}
    for name, weight in _read(model, "vae"):
        new = _vae(name)
        flat = new.startswith(("encoder.mid.attn", "decoder.mid.attn")) and weight.ndim == 2
        found[f"first_stage_model.{new}"] = weight[:, :, None, None] if flat else weight
    for name, weight in _read(model, "text_encoder"):
        plain = name.removeprefix("text_model.")
        found[f"cond_stage_model.transformer.text_model.{plain}"] = weight
    save_file({name: one.contiguous() for name, one in found.items()}, target)
    return target


def _read(model: Path, part: str) -> Iterable[tuple[str, torch.Tensor]]:
    (path,) = (model / part).glob("*.safetensors")
    weights: Weights = load_file(path)
    return weights.items()


def _renamed(name: str, rules: _Rules) -> str:
    for old, new in rules:
        name = re.sub(old, new, name)
    return name


def _unet(name: str) -> str:
    name = _renamed(name, _EMBEDDINGS)
    if "resnets" in name or name.startswith(("middle_block.0.", "middle_block.2.")):
        name = _renamed(name, _RESNETS)
    # With one layer in each block: a resnet and a downsampler, two resnets and an upsampler.
    for block in range(2):
        for kind, number in (("resnets", 0), ("attentions", 1)):
            name = name.replace(
                f"down_blocks.{block}.{kind}.0.", f"input_blocks.{2 * block + 1}.{number}."
            )
            for layer in range(2):
                name = name.replace(
                    f"up_blocks.{block}.{kind}.{layer}.",
                    f"output_blocks.{2 * block + layer}.{number}.",
                )
    name = name.replace("down_blocks.0.downsamplers.0.conv.", "input_blocks.2.0.op.")
    return name.replace("up_blocks.0.upsamplers.0.", "output_blocks.1.2.")


def _vae(name: str) -> str:
    name = _renamed(name, _DECODER)
    for block in range(4):
        name = name.replace(f"up_blocks.{block}.resnets.", f"up.{3 - block}.block.")
        name = name.replace(f"up_blocks.{block}.upsamplers.0.", f"up.{3 - block}.upsample.")
    return name
