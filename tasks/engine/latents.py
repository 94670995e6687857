"""Latents that the engine makes itself: of two seeds, of a picture in another size, or of none.

For models whose denoiser sees plain latents (`ModelSpec.has_plain_latents`); everything else starts
from what the pipelines make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image, Resampling

from tasks.engine.loading import Pipe
from tasks.engine.protocol import Batch, ImageTask
from tasks.finer import Between

_Size = tuple[int, int]
# Interpolations of torch, and whether they smooth what they make smaller.
_MODES: dict[Between, tuple[str, bool]] = {
    "bilinear": ("bilinear", False),
    "bilinear-antialias": ("bilinear", True),
    "bicubic": ("bicubic", False),
    "bicubic-antialias": ("bicubic", True),
    "nearest": ("nearest", False),
    "nearest-exact": ("nearest-exact", False),
}
_PIXELS: dict[Between, Resampling] = {
    "lanczos-pixels": Resampling.LANCZOS,
    "nearest-pixels": Resampling.NEAREST,
}


def are_varied(tasks: Sequence[ImageTask]) -> bool:
    """Tell whether any picture has a second seed."""
    return any(task.variation.strength for task in tasks)


def noise(
    pipe: Pipe, batch: Batch, generators: Sequence[torch.Generator], size: _Size
) -> torch.Tensor:
    """Return the noise that pictures of two seeds start from.

    The generators are those of the call: a picture without a second seed comes out as it always
    does, whatever its neighbours have.
    """
    shape = (1, pipe.unet.config.in_channels, *_grid(pipe, size))
    drawn = []
    for task, generator in zip(batch.tasks, generators, strict=True):
        first, varied = torch.randn(shape, generator=generator), task.variation
        if varied.strength:
            second = torch.Generator("cpu").manual_seed(varied.seed)
            first = _between(first, torch.randn(shape, generator=second), varied.strength)
        drawn.append(first)
    return torch.cat(drawn).to(pipe.unet.dtype)


def _between(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """Return what lies between two noises on the sphere, where it is as loud as both."""
    cosine = torch.dot(first.flatten(), second.flatten()) / (first.norm() * second.norm())
    angle = torch.arccos(cosine.clamp(-1, 1))
    if torch.sin(angle) < 1e-3:  # noqa: PLR2004  the same seed twice: there is nothing between
        return first
    shares = torch.sin(torch.stack([(1 - share) * angle, share * angle])) / torch.sin(angle)
    return shares[0] * first + shares[1] * second


def beginning(pipe: Pipe, batch: Batch) -> torch.Tensor:
    """Return the latents that image-to-image starts from, where that is not the picture alone."""
    grid = _grid(pipe, (batch.width, batch.height))
    found = []
    for task in batch.tasks:
        assert task.image is not None  # noqa: S101  asked with the request
        latents = _encoded(pipe, task.image)
        if batch.start == "latents":
            latents = _interpolated(latents, grid, "bilinear")
        else:
            latents = _replaced(latents, task, silent=batch.start == "nothing")
        found.append(latents)
    return torch.cat(found).to(pipe.unet.dtype)


def _replaced(latents: torch.Tensor, task: ImageTask, *, silent: bool) -> torch.Tensor:
    """Return latents of which those that a mask shows are noise, or nothing."""
    assert task.mask is not None  # noqa: S101  asked with the request
    rows, columns = latents.shape[-2:]
    small = task.mask.resize((columns, rows))
    shown = torch.tensor([pixel > 127 for pixel in small.tobytes()]).reshape(rows, columns)  # noqa: PLR2004  half of white
    other = torch.zeros(latents.shape)
    if not silent:
        other = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(task.seed))
    return torch.where(shown.to(latents.device), other.to(latents), latents)


def enlarged(pipe: Pipe, made: Any, size: _Size, how: Between) -> Any:  # noqa: ANN401  diffusers is untyped
    """Return what the second pass starts from: latents or pictures of the first in another size."""
    if how in _PIXELS:
        processor = pipe.image_processor
        pictures: list[Image] = processor.numpy_to_pil(processor.pt_to_numpy(made))
        return [picture.resize(size, _PIXELS[how]) for picture in pictures]
    return _interpolated(made, _grid(pipe, size), how)


def is_of_pixels(how: Between) -> bool:
    """Tell whether the first pass has to be a picture."""
    return how in _PIXELS


def _interpolated(latents: torch.Tensor, grid: _Size, how: Between) -> torch.Tensor:
    mode, smooth = _MODES[how]
    made: torch.Tensor = torch.nn.functional.interpolate(
        latents, size=grid, mode=mode, antialias=smooth
    )
    return made


def _encoded(pipe: Pipe, picture: Image) -> torch.Tensor:
    """Return the latents of one picture, whose sides are brought to the grid's."""
    vae = pipe.vae
    before = vae.dtype
    # In half precision, some encoders overflow.
    vae.to(torch.float32)
    try:
        pixels = pipe.image_processor.preprocess(picture).to(vae.device, torch.float32)
        with torch.no_grad():
            latents: torch.Tensor = vae.encode(pixels).latent_dist.mode()
    finally:
        vae.to(before)
    config = vae.config
    if getattr(config, "latents_mean", None) is None:
        return latents * float(config.scaling_factor)
    mean, deviation = (
        torch.tensor(values).view(1, -1, 1, 1).to(latents)
        for values in (config.latents_mean, config.latents_std)
    )
    return (latents - mean) * float(config.scaling_factor) / deviation


def _grid(pipe: Pipe, size: _Size) -> _Size:
    """Return rows and columns of the latents of a picture."""
    return size[1] // pipe.vae_scale_factor, size[0] // pipe.vae_scale_factor
