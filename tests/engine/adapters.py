"""LoRA files for small models, in the dialects that are found in the wild."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from tasks.engine.loading import Pipe, denoiser

RANK = 4
_ATTENTION = ("to_q", "to_k", "to_v", "q_proj", "v_proj")


def make_lora(pipe: Pipe, path: Path, *, seed: int = 0, text: bool = False) -> Path:
    """Write a LoRA of the attention of a pipeline's denoiser, and if asked of its text encoder."""
    generator = torch.Generator().manual_seed(seed)
    name = "unet" if "unet" in pipe.components else "transformer"
    weights = _layers(denoiser(pipe), f"{name}.", generator, ("lora_A", "lora_B"))
    if text:
        # As diffusers' own trainers wrote them until transformers dropped a level of names.
        weights |= _layers(
            pipe.text_encoder,
            "text_encoder.",
            generator,
            ("lora_linear_layer.down", "lora_linear_layer.up"),
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, {"format": "pt"})
    return path


def _layers(
    model: torch.nn.Module, prefix: str, generator: torch.Generator, names: tuple[str, str]
) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    strength = 1.0 if prefix == "transformer." else 0.3  # its own weights are weaker
    for path, module in model.named_modules():
        name = path.removesuffix(".base_layer")  # where there are adapters already
        if name.endswith(_ATTENTION) and isinstance(module, torch.nn.Linear):
            down = torch.randn(RANK, module.in_features, generator=generator)
            up = torch.randn(module.out_features, RANK, generator=generator)
            if prefix == "text_encoder." and not name.startswith("text_model."):
                name = f"text_model.{name}"
            weights[f"{prefix}{name}.{names[0]}.weight"] = strength * down
            weights[f"{prefix}{name}.{names[1]}.weight"] = strength * up
    return weights
