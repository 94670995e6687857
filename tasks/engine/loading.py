"""Reads a model's files into diffusers pipelines.

Owns what each layout is made of, its precision and scheduler, and the checks that a model is whole:
the libraries fill some gaps with random weights, and nobody should pay for those. Where files come
from is `sources`'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import diffusers
import torch
from safetensors import safe_open

from tasks.catalog import ModelSpec
from tasks.engine.quiet import quieten
from tasks.errors import ModelLoadError

quieten()

Pipe: TypeAlias = Any  # diffusers is untyped
_Part: TypeAlias = Any

TEXT_TO_IMAGE = "text-to-image"
IMAGE_TO_IMAGE = "image-to-image"
PIX2PIX = "instruct-pix2pix"

# What a layout's pipelines must turn out to be. AutoPipeline goes by the model's own files, the
# catalog by what the operator wrote: where they disagree, prices and bounds were meant for another
# kind of model.
_CLASSES: Mapping[tuple[str, str], type[Any]] = {
    ("stable-diffusion", TEXT_TO_IMAGE): diffusers.StableDiffusionPipeline,
    ("stable-diffusion", IMAGE_TO_IMAGE): diffusers.StableDiffusionImg2ImgPipeline,
    ("stable-diffusion-xl", TEXT_TO_IMAGE): diffusers.StableDiffusionXLPipeline,
    ("stable-diffusion-xl", IMAGE_TO_IMAGE): diffusers.StableDiffusionXLImg2ImgPipeline,
    (PIX2PIX, IMAGE_TO_IMAGE): diffusers.StableDiffusionInstructPix2PixPipeline,
}

# Layouts that carry a safety checker, which paints pictures black. A picture is delivered as it
# was made.
_WITH_CHECKER = frozenset({"stable-diffusion", PIX2PIX})
_NO_CHECKER = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
}


def read(model: ModelSpec, source: str, device: torch.device) -> dict[str, Pipe]:
    """Read a model from a folder or the hub: its pipelines by name, sharing every component.

    They are in the precision that suits the device, but still in the CPU's memory.

    Raises:
        ModelLoadError: A file is missing, broken or pickled, or the model is of another layout.
    """
    names = [name for name in (TEXT_TO_IMAGE, IMAGE_TO_IMAGE) if does(model, name)]
    try:
        first = _from_files(model, names[0], source, _dtype(model, device))
        _check_whole(first)
        pipelines = {name: _auto(name).from_pipe(first) for name in names[1:]}
    except ModelLoadError as error:
        raise ModelLoadError(f"{model.model_id}: {error}") from error
    except Exception as error:  # a broken file can make any of three libraries raise anything
        raise ModelLoadError(f"{model.model_id}: {brief(error)}") from error
    # Decoding pictures one by one costs no time and keeps a large batch from needing its most
    # memory at the end.
    first.vae.enable_slicing()
    pipelines[names[0]] = first
    for pipe in pipelines.values():
        pipe.set_progress_bar_config(disable=True)
    return pipelines


def does(model: ModelSpec, name: str) -> bool:
    """Tell whether the model is offered, and able, to do what a pipeline's name says."""
    return name in model.pipelines and (model.layout, name) in _CLASSES


def size_bytes(pipe: Pipe) -> int:
    """Return how much memory the weights take."""
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return sum(
        tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers())
    )


def brief(error: Exception) -> str:
    """Return an error's kind and first line, cut to what fits a job's error field."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _from_files(model: ModelSpec, name: str, source: str, dtype: torch.dtype) -> Pipe:
    expected = _CLASSES[model.layout, name]
    # AutoPipeline does not know InstructPix2Pix, whose class has to be named.
    reader = expected if model.layout == PIX2PIX else _auto(name)
    pipe = reader.from_pretrained(
        source,
        revision=model.revision,
        variant=model.variant,
        dtype=dtype,
        use_safetensors=True,
        **(_NO_CHECKER if model.layout in _WITH_CHECKER else {}),
    )
    # The class alone does not tell: naming InstructPix2Pix's makes one of any model's files.
    pictures = 2 if model.layout == PIX2PIX else 1  # what the UNet sees: the noisy one, the input
    channels = pipe.vae.config.latent_channels * pictures
    if not isinstance(pipe, expected) or pipe.unet.config.in_channels != channels:
        raise ModelLoadError(f"the catalog says {model.layout}, but the files are for another.")
    if model.scheduler is not None:
        pipe.scheduler = _scheduler(model.scheduler, pipe.scheduler)
    return pipe


def _dtype(model: ModelSpec, device: torch.device) -> torch.dtype:
    # Half precision on a CPU is slow where it is implemented at all.
    name = "float32" if device.type == "cpu" else model.dtype
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _auto(pipeline: str) -> _Part:
    if pipeline == TEXT_TO_IMAGE:
        return diffusers.AutoPipelineForText2Image
    return diffusers.AutoPipelineForImage2Image


def _scheduler(name: str, current: _Part) -> _Part:
    compatible = {candidate.__name__: candidate for candidate in current.compatibles}
    if name not in compatible:
        raise ModelLoadError(
            f"there is no scheduler {name!r} for it. "
            f"Those that fit: {', '.join(sorted(compatible))}."
        )
    return compatible[name].from_config(current.config)


def _check_whole(pipe: Pipe) -> None:
    """Find what transformers makes up without a word; diffusers refuses a model with gaps itself.

    Raises:
        ModelLoadError: A text encoder's weights or a tokenizer's vocabulary are not in the files.
    """
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    for name, part in parts.items():
        if name.startswith("text_encoder"):
            missing = _keys(part.state_dict()) - _keys_in_files(Path(part.name_or_path))
            if missing:
                raise ModelLoadError(f"{name} lacks {len(missing)} weights, as {min(missing)}.")
        # Without its files, a tokenizer starts with these alone, and every word is unknown.
        if name.startswith("tokenizer") and set(part.get_vocab()) <= set(part.all_special_tokens):
            raise ModelLoadError(f"{name} has no vocabulary.")


def _keys_in_files(folder: Path) -> set[str]:
    found: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            found |= _keys(weights.keys())
    return found


def _keys(names: Iterable[str]) -> set[str]:
    # Older files prefix what newer classes do not, and the library maps one to the other.
    return {name.removeprefix("text_model.") for name in names}
