"""Small models of the layouts that the demo does not have, made with the real classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tasks.catalog import Catalog, Layout, ModelSpec, Part
from tasks.engine import demo

_LATENT_CHANNELS = 4
_WIDE = 32


@dataclass(frozen=True)
class Zoo:
    """The catalog's models, with more beside them."""

    models: dict[str, ModelSpec] = field(default_factory=dict)

    def get(self, model_id: str) -> ModelSpec:
        return self.models[model_id]


def make_zoo(catalog: Catalog, target: Path) -> Zoo:
    """Write SDXL-Lightning's layout, Stable Diffusion 3 and FLUX into a folder, all tiny."""
    base = catalog.get("pixeltoll/demo-sdxl")
    plain = catalog.get("pixeltoll/demo-sd")
    made = {model.model_id: model for model in catalog.models()}
    made["pixeltoll/demo-lightning"] = replace(
        base,
        model_id="pixeltoll/demo-lightning",
        unet=Part(str(target), file=_lightning_unet(target)),
        scheduler="EulerDiscreteScheduler",
        timestep_spacing="trailing",
        default_steps=4,
        run_steps=(4, 4),
        default_guidance_scale=0.0,
        run_guidance_scale=(0.0, 0.0),
        raise_strength=True,
    )
    newer: tuple[tuple[Layout, Callable[[], Any]], ...] = (
        ("stable-diffusion-3", _sd3),
        ("flux", _flux),
    )
    for seed, (name, make) in enumerate(newer, 22):  # drawn so that adapters show in their pictures
        torch.manual_seed(seed)
        pipe = make()
        with torch.no_grad():
            # The demo's strong weights, made for pictures, would drown what a transformer is given.
            demo._draw(pipe.vae, torch.Generator().manual_seed(7))
        pipe.save_pretrained(target / name)
        made[f"pixeltoll/demo-{name}"] = replace(
            plain,
            model_id=f"pixeltoll/demo-{name}",
            source=str(target / name),
            layout=name,
            size_multiple=16,
            max_sequence_tokens=32,
        )
    return Zoo(made)


def _lightning_unet(target: Path) -> str:
    """Write another UNet of SDXL's shape as one file, as ByteDance publishes its own."""
    name = "sdxl_lightning_4step_unet.safetensors"
    recipe = next(one for one in demo._RECIPES if one.layout == "stable-diffusion-xl")
    unet = demo._unet(recipe.unet)
    with torch.no_grad():
        demo._draw(unet, torch.Generator().manual_seed(99))
    target.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in unet.state_dict().items()}, target / name)
    return name


def _t5() -> tuple[T5Tokenizer, T5EncoderModel]:
    letters = [(letter, -3.0) for letter in sorted({*ByteLevel.alphabet(), "▁"})]
    tokenizer = T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0
    )
    config = T5Config(
        vocab_size=len(tokenizer), d_model=_WIDE, d_ff=_WIDE, d_kv=8, num_layers=1, num_heads=4
    )
    return tokenizer, T5EncoderModel(config)


def _vae() -> diffusers.AutoencoderKL:
    plain = {key: value for key, value in demo._vae().config.items() if not key.startswith("_")}
    return diffusers.AutoencoderKL(
        **{**plain, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1}
    )


def _sd3() -> diffusers.StableDiffusion3Pipeline:
    clip = demo._tokenizer()
    tokenizer, t5 = _t5()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=_LATENT_CHANNELS,
        out_channels=_LATENT_CHANNELS,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=_WIDE,
        caption_projection_dim=_WIDE,
        pooled_projection_dim=2 * demo._POOLED_WIDTH,
        pos_embed_max_size=64,
    )
    encoder: Any = demo._text_encoder(CLIPTextModelWithProjection, clip, _WIDE // 2)
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(),
        text_encoder=encoder,
        tokenizer=clip,
        text_encoder_2=demo._text_encoder(CLIPTextModelWithProjection, clip, _WIDE // 2),
        tokenizer_2=clip,
        text_encoder_3=t5,
        tokenizer_3=tokenizer,
    )


def _flux() -> diffusers.FluxPipeline:
    clip = demo._tokenizer()
    tokenizer, t5 = _t5()
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * _LATENT_CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=_WIDE,
        pooled_projection_dim=_WIDE,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    )
    return diffusers.FluxPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(),
        text_encoder=demo._text_encoder(CLIPTextModel, clip, _WIDE),
        tokenizer=clip,
        text_encoder_2=t5,
        tokenizer_2=tokenizer,
    )


def make_upscaler(target: Path) -> ModelSpec:
    """Write a small model of the layout that makes pictures four times larger."""
    clip = demo._tokenizer()
    torch.manual_seed(4)
    plain = {key: value for key, value in demo._vae().config.items() if not key.startswith("_")}
    three = {
        "block_out_channels": (8, 16, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "scaling_factor": 0.08333,
    }
    pipe = diffusers.StableDiffusionUpscalePipeline(
        vae=diffusers.AutoencoderKL(**{**plain, **three}),
        text_encoder=demo._text_encoder(CLIPTextModel, clip, demo._TEXT_WIDTH),
        tokenizer=clip,
        unet=demo._unet({"in_channels": 7, "num_class_embeds": 1000}),
        low_res_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction"),
        max_noise_level=350,
    )
    with torch.no_grad():
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            demo._draw(part, torch.Generator().manual_seed(4))
    pipe.save_pretrained(target / "upscaler")
    return ModelSpec(
        model_id="acme/upscaler",
        source=str(target / "upscaler"),
        layout="upscaler",
        pipelines=("upscale",),
        max_size=512,
        size_multiple=1,
        default_steps=4,
        max_batch=2,
    )
