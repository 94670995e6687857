"""The demo models' parts, untrained: real diffusers and transformers classes of small sizes.

Owns shapes and sizes. What is learned, and how, is `train`'s.
"""

from __future__ import annotations

from typing import Any

import diffusers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.scenes import SIDE

LATENT_CHANNELS = 4
FACTOR = 4  # between pictures and latents: with 8, corners and thin strokes are lost
LATENT_SIDE = SIDE // FACTOR
TOKENS = 48  # of a prompt; what is beyond is cut off, as CLIP does after 77
LAYOUT_SIDE = 4  # the last tokens' states tell the shape's outline, each its part of a grid
TEXT_WIDTH = 128

Network = Any  # the libraries are untyped


def vae() -> Network:
    """Return an autoencoder of pictures."""
    return diffusers.AutoencoderKL(
        sample_size=SIDE,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(16, 16, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=2,  # small groups would lose the colour of flat surfaces
        mid_block_add_attention=False,
        scaling_factor=1.0,  # training ends with latents of unit variance
    )


def text_encoder(tokenizer: CLIPTokenizer) -> Network:
    """Return a text encoder of two layers for the words of this tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=3 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def unet(in_channels: int = LATENT_CHANNELS) -> Network:
    """Return a denoiser; one that edits takes the input picture's latents as more channels."""
    return diffusers.UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=in_channels,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        # Attention at the lower resolutions only: half the time for the same pictures.
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers' name for the number of heads
        norm_num_groups=8,
    )


def scheduler() -> Network:
    """Return the sampler: velocities, down from pure noise, in few steps."""
    return diffusers.DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # of no effect with this spacing, but others are warned of
    )
