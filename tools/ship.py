"""Writes trained parts as models that anyone can load with `from_pretrained`, in half precision.

Owns the folders' layout and their model cards. Measures nothing: the cards take their figures from
what `evaluate` wrote.
"""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from peft.utils import get_peft_model_state_dict
from transformers import CLIPTextModel, CLIPTokenizer

from tools import networks
from tools.networks import Network

DRAW = "shapes"
EDIT = "shapes-edit"
STYLE = "shapes-outline-lora"
_LORA_FILE = "pytorch_lora_weights.safetensors"
_WITHOUT_CHECKER = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
}


def write(work: Path, target: Path) -> None:
    """Write the models whose denoisers are in the working folder. Model cards stay as they are."""
    if (work / "draw").is_dir():
        pipe = diffusers.StableDiffusionPipeline(**_parts(work, "draw"), **_WITHOUT_CHECKER)
        pipe.to(torch.float16).save_pretrained(target / DRAW)
    if (work / "edit").is_dir():
        pipe = diffusers.StableDiffusionInstructPix2PixPipeline(
            **_parts(work, "edit"), **_WITHOUT_CHECKER
        )
        pipe.to(torch.float16).save_pretrained(target / EDIT)
    if (work / "style").is_dir():
        weights = (work / "style" / _LORA_FILE).read_bytes()
        (target / STYLE).mkdir(parents=True, exist_ok=True)
        (target / STYLE / _LORA_FILE).write_bytes(weights)


def write_style(unet: Network, folder: Path) -> None:
    """Write a denoiser's adapter in diffusers' LoRA format."""
    weights = get_peft_model_state_dict(unet)
    diffusers.StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers={name: each.half() for name, each in weights.items()}
    )


def load_style(unet: Network, folder: Path) -> None:
    """Give a denoiser the adapter that `write_style` wrote."""
    unet.load_lora_adapter(folder, prefix="unet", weight_name=_LORA_FILE, adapter_name="default")


def _parts(work: Path, denoiser: str) -> dict[str, Network]:
    unet = diffusers.UNet2DConditionModel.from_pretrained(work / denoiser)
    vae = diffusers.AutoencoderKL.from_pretrained(work / "vae")
    for part in (unet, vae):  # They would name the working folder.
        part.register_to_config(_name_or_path=None)
    return {
        "unet": unet,
        "vae": vae,
        "text_encoder": CLIPTextModel.from_pretrained(work / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(work / "tokenizer"),
        "scheduler": networks.scheduler(),
    }
