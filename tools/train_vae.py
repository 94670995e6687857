"""Teaches the autoencoder to draw scenes from their latents.

Owns the autoencoder's loss, and the scale of its latents: each channel has mean 0 and variance 1,
so that neither the scaling factor nor InstructPix2Pix, which does not apply it, needs another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL.Image import Image

from tools import networks, scenes
from tools.learning import Run, learn
from tools.networks import Network

_POOL = 6000  # scenes drawn once
_BATCH = 16
_CROP = scenes.SIDE // 2
_CROPS = 0.6  # of the steps; a crop costs a quarter of a picture and shows as much of an edge
_OUTLINED = 0.2
_SPREAD = 16  # more than the denoisers see: a picture of the user's own has its own colours
_KL = 5e-4
_POLISH_POOL = 3000
_OFF = 0.1  # of the latents' deviation


def tensor(pictures: Sequence[Image]) -> torch.Tensor:
    """Return pictures as the networks take them: (number, 3, side, side) from -1 to 1."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(run: Run, device: str, vae: Network | None = None) -> Network:
    """Return an autoencoder of scenes; one that is given learns on."""
    rng = run.rng
    pool = tensor(
        [
            scenes.render(scenes.draw_any(rng, spread=_SPREAD, outlined=rng.random() < _OUTLINED))
            for _ in range(_POOL)
        ]
    )
    vae = networks.vae() if vae is None else vae.train()
    vae.to(device, memory_format=torch.channels_last)

    def loss(step: int) -> torch.Tensor:
        if step < _CROPS * run.schedule.steps:
            batch = _crops(pool[torch.randint(len(pool), (2 * _BATCH,))]).to(device)
        else:
            batch = pool[torch.randint(len(pool), (_BATCH,))].to(device)
        posterior = vae.encode(batch.contiguous(memory_format=torch.channels_last)).latent_dist
        error = vae.decode(posterior.sample()).sample - batch
        value: torch.Tensor = error.square().mean() + 0.5 * error.abs().mean()
        return value + _KL * posterior.kl().mean() / posterior.mean[0].numel()

    learn(run, [vae], loss)
    with torch.no_grad():
        _normalise(vae, pool[:1000].to(device))
    return vae.eval()


def polish(run: Run, vae: Network, device: str) -> Network:
    """Teach only the decoder on, from latents that are a little off, as a denoiser's are.

    The latents stay what they were, and with them every denoiser that was trained on them.
    """
    rng = run.rng
    pool = tensor(
        [
            scenes.render(scenes.draw_any(rng, outlined=rng.random() < _OUTLINED))
            for _ in range(_POLISH_POOL)
        ]
    ).to(device)
    vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(requires_grad=False)
    latents = encode(vae, pool)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(requires_grad=True)

    def loss(_step: int) -> torch.Tensor:
        chosen = torch.randint(len(pool), (_BATCH,)).to(device)
        given = latents[chosen]
        error = vae.decode(given + _OFF * torch.randn_like(given)).sample - pool[chosen]
        value: torch.Tensor = error.square().mean() + 0.5 * error.abs().mean()
        return value

    learn(run, [vae], loss)
    return vae


def encode(vae: Network, pictures: torch.Tensor) -> torch.Tensor:
    """Return the most likely latents of pictures, in portions."""
    with torch.no_grad():
        return torch.cat([vae.encode(part).latent_dist.mode() for part in pictures.split(64)])


def _crops(pictures: torch.Tensor) -> torch.Tensor:
    """Return a part of each picture, at random but on the latents' grid."""
    grain = networks.FACTOR
    places = torch.randint((scenes.SIDE - _CROP) // grain + 1, (len(pictures), 2)) * grain
    return torch.stack(
        [
            picture[:, row : row + _CROP, column : column + _CROP]
            for picture, (row, column) in zip(pictures, places.tolist(), strict=True)
        ]
    )


def _normalise(vae: Network, pictures: torch.Tensor) -> None:
    """Fold the mean and the deviation of every latent channel into the convolutions beside it."""
    latents = encode(vae, pictures)
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    into, out_of = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] /= deviation[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.bias[channels:] -= 2 * deviation.log()  # the logarithm of the posterior's variance
    out_of.bias += out_of.weight[:, :, 0, 0] @ mean
    out_of.weight *= deviation[None, :, None, None]
