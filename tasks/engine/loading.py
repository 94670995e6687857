"""Reads a model's files into diffusers pipelines.

Owns what each layout is made of, its precision and scheduler, and the checks that a model is whole:
the libraries fill some gaps with random weights, and nobody should pay for those. Where files come
from is `sources`'.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import diffusers
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tasks import samplers
from tasks.catalog import ModelSpec
from tasks.engine import configs
from tasks.engine.quiet import quieten
from tasks.engine.sources import Sources
from tasks.errors import ModelLoadError, StorageError

quieten()

Pipe: TypeAlias = Any  # diffusers is untyped
_Part: TypeAlias = Any

TEXT_TO_IMAGE = "text-to-image"
IMAGE_TO_IMAGE = "image-to-image"
UPSCALE = "upscale"
PIX2PIX = "instruct-pix2pix"
UPSCALER = "upscaler"
# No network: nothing is read.
RESAMPLING = "resampling"
# Image-to-image of what a mask shows.
INPAINTING = "inpainting"

# What a layout's pipelines must turn out to be. AutoPipeline goes by the model's own files, the
# catalog by what the operator wrote: where they disagree, prices and bounds were meant for another
# kind of model.
_CLASSES: Mapping[tuple[str, str], type[Any]] = {
    ("stable-diffusion", TEXT_TO_IMAGE): diffusers.StableDiffusionPipeline,
    ("stable-diffusion", IMAGE_TO_IMAGE): diffusers.StableDiffusionImg2ImgPipeline,
    ("stable-diffusion-xl", TEXT_TO_IMAGE): diffusers.StableDiffusionXLPipeline,
    ("stable-diffusion-xl", IMAGE_TO_IMAGE): diffusers.StableDiffusionXLImg2ImgPipeline,
    (PIX2PIX, IMAGE_TO_IMAGE): diffusers.StableDiffusionInstructPix2PixPipeline,
    ("stable-diffusion-3", TEXT_TO_IMAGE): diffusers.StableDiffusion3Pipeline,
    ("stable-diffusion-3", IMAGE_TO_IMAGE): diffusers.StableDiffusion3Img2ImgPipeline,
    ("flux", TEXT_TO_IMAGE): diffusers.FluxPipeline,
    ("flux", IMAGE_TO_IMAGE): diffusers.FluxImg2ImgPipeline,
    (UPSCALER, UPSCALE): diffusers.StableDiffusionUpscalePipeline,
}
# How many latents' channels a layout's denoiser sees: those of the noisy picture, with the input's
# beside them, or folded into patches of two by two.
_LATENTS: Mapping[str, int] = {PIX2PIX: 2, "flux": 4}
# Channels of a small picture that a denoiser sees beside the latents.
_COLOURS: Mapping[str, int] = {UPSCALER: 3}
# Layouts whose class AutoPipeline does not know, so that it has to be named.
_NAMED = frozenset({PIX2PIX, UPSCALER})

# The newer layouts read prompts with T5 beside CLIP; their image-to-image scales the input to a
# size of its own unless it is told one, and counts its steps from the other end.
_NEWER = frozenset({"stable-diffusion-3", "flux"})
SIZED_BY_ARGUMENT = WITH_LONG_PROMPTS = ROUNDS_STRENGTH_UP = _NEWER

# Layouts that carry a safety checker, which paints pictures black. A picture is delivered as it
# was made.
_WITH_CHECKER = frozenset({"stable-diffusion", PIX2PIX, UPSCALER})
_NO_CHECKER = {"safety_checker": None, "feature_extractor": None}
# What those that can be told are told, so that they do not warn of it.
_TOLD = {"requires_safety_checker": False}


# Those of each model's own scheduler: some take a second to be made.
_SAMPLERS: WeakKeyDictionary[Any, dict[samplers.Choice, Any]] = WeakKeyDictionary()


def read(model: ModelSpec, sources: Sources, device: torch.device) -> dict[str, Pipe]:
    """Read a model from a folder or the hub: its pipelines by name, sharing every component.

    They are in the precision that suits the device, but still in the CPU's memory.

    Raises:
        ModelLoadError: A file is missing, broken or pickled, or the model is of another layout.
        StorageError: The object store that holds it could not be read.
    """
    names = [name for name in (TEXT_TO_IMAGE, IMAGE_TO_IMAGE, UPSCALE) if does(model, name)]
    try:
        first = _from_files(model, names[0], sources, dtype_on(device, model.dtype))
        _check_whole(first, has_files=model.checkpoint is None)
        pipelines = {name: _auto(name).from_pipe(first) for name in names[1:]}
        if does(model, IMAGE_TO_IMAGE) and model.layout != PIX2PIX:
            pipelines[INPAINTING] = diffusers.AutoPipelineForInpainting.from_pipe(first)
    except StorageError:
        raise
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


def denoiser(pipe: Pipe) -> _Part:
    """Return the network that runs at every step, whatever its layout calls it."""
    return pipe.unet if "unet" in pipe.components else pipe.transformer


def _from_files(model: ModelSpec, name: str, sources: Sources, dtype: torch.dtype) -> Pipe:
    expected = _CLASSES[model.layout, name]
    pipe = (
        _from_folder(model, name, sources, dtype)
        if model.checkpoint is None
        else _from_checkpoint(model, name, sources, dtype)
    )
    # The class alone does not tell: naming InstructPix2Pix's makes one of any model's files.
    channels = pipe.vae.config.latent_channels * _LATENTS.get(model.layout, 1)
    channels += _COLOURS.get(model.layout, 0)
    if not isinstance(pipe, expected) or denoiser(pipe).config.in_channels != channels:
        raise ModelLoadError(f"the catalog says {model.layout}, but the files are for another.")
    pipe.scheduler = _scheduler(model, pipe.scheduler)
    return pipe


def _from_checkpoint(model: ModelSpec, name: str, sources: Sources, dtype: torch.dtype) -> Pipe:
    """Read a checkpoint, whose configuration is shipped with us, or is the catalog's.

    Raises:
        ModelLoadError: The file lacks weights, or is for another layout.
    """
    path, config = sources.locate_checkpoint(model)
    parts: dict[str, _Part] = {}
    if config is None:
        with safe_open(path, "pt") as weights:
            folder = configs.folder_of(model.layout, weights.keys())
        config, parts = str(folder), configs.tokenizers(folder)
    pipe = _CLASSES[model.layout, name].from_single_file(
        path,
        config=config,
        revision=model.config and model.config.revision,
        dtype=dtype,
        # As far as they are kept; what is not is still fetched from the hub.
        local_files_only=True,
        **parts,
        **_replaced(model, config, sources, dtype),
        **_without_checker(model),
    )
    for part, module in pipe.components.items():
        if isinstance(module, torch.nn.Module) and any(
            weight.is_meta for weight in module.parameters()
        ):
            raise ModelLoadError(f"the checkpoint lacks weights of the {part}.")
    # Any class is made of any file. SDXL's UNet alone is told sizes beside the prompt.
    is_xl = pipe.unet.config.addition_embed_type is not None
    if is_xl != (model.layout == "stable-diffusion-xl"):
        raise ModelLoadError(f"the catalog says {model.layout}, but the files are for another.")
    return pipe


def _from_folder(model: ModelSpec, name: str, sources: Sources, dtype: torch.dtype) -> Pipe:
    expected = _CLASSES[model.layout, name]
    source = sources.locate(model)
    reader = expected if model.layout in _NAMED else _auto(name)
    return reader.from_pretrained(
        source,
        revision=model.revision,
        variant=model.variant,
        dtype=dtype,
        use_safetensors=True,
        **_replaced(model, source, sources, dtype),
        **_without_checker(model),
    )


def _without_checker(model: ModelSpec) -> dict[str, object]:
    if model.layout not in _WITH_CHECKER:
        return {}
    return {**_NO_CHECKER, **({} if model.layout == UPSCALER else _TOLD)}


def _replaced(
    model: ModelSpec, source: str, sources: Sources, dtype: torch.dtype
) -> dict[str, _Part]:
    """Return the components that come from elsewhere; the model's own are then not even read."""
    parts: dict[str, _Part] = {}
    if model.unet is not None:
        path = sources.locate_part(model.unet)
        config = diffusers.UNet2DConditionModel.load_config(
            source,
            subfolder="unet",
            revision=(model.config or model).revision,
        )
        with torch.device("meta"):  # drawing random weights first would take longer than all else
            unet = diffusers.UNet2DConditionModel.from_config(config)
        unet.load_state_dict(load_file(path), assign=True)
        parts["unet"] = unet.to(dtype=dtype)
    if model.vae is not None:
        parts["vae"] = diffusers.AutoencoderKL.from_pretrained(
            sources.locate_part(model.vae),
            revision=model.vae.revision,
            dtype=dtype,
            use_safetensors=True,
        )
    return parts


def dtype_on(device: torch.device, name: str) -> torch.dtype:
    """Return the precision to use: half of it is slow on a CPU, where it is implemented at all."""
    dtype: torch.dtype = getattr(torch, "float32" if device.type == "cpu" else name)
    return dtype


def _auto(pipeline: str) -> _Part:
    if pipeline == TEXT_TO_IMAGE:
        return diffusers.AutoPipelineForText2Image
    return diffusers.AutoPipelineForImage2Image


def _scheduler(model: ModelSpec, current: _Part) -> _Part:
    wanted = {
        "timestep_spacing": model.timestep_spacing,
        "prediction_type": model.prediction_type,
    }
    changes = {key: value for key, value in wanted.items() if value is not None}
    name = model.scheduler
    if name is None:
        return type(current).from_config(current.config, **changes) if changes else current
    compatible = {candidate.__name__: candidate for candidate in current.compatibles}
    if name not in compatible:
        raise ModelLoadError(
            f"there is no scheduler {name!r} for it. "
            f"Those that fit: {', '.join(sorted(compatible))}."
        )
    return compatible[name].from_config(current.config, **changes)


@contextlib.contextmanager
def sampled(pipe: Pipe, choice: samplers.Choice) -> Iterator[None]:
    """Let a pipeline run by another sampler than its own for as long as the block lasts."""
    if not choice.sampler:
        yield
        return
    own = pipe.scheduler
    made = _SAMPLERS.setdefault(own, {})
    if choice not in made:
        kind, changes = samplers.recipe(choice)
        made[choice] = getattr(diffusers, kind).from_config(own.config, **changes)
    pipe.scheduler = made[choice]
    try:
        yield
    finally:
        pipe.scheduler = own


def _check_whole(pipe: Pipe, *, has_files: bool) -> None:
    """Find what transformers makes up without a word; diffusers refuses a model with gaps itself.

    Raises:
        ModelLoadError: A text encoder's weights or a tokenizer's vocabulary are not in the files.
    """
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    for name, part in parts.items():
        if has_files and name.startswith("text_encoder"):
            missing = _gaps(part.state_dict(), _keys_in_files(Path(part.name_or_path)))
            if missing:
                raise ModelLoadError(f"{name} lacks {len(missing)} weights, as {min(missing)}.")
        # Without its files, a tokenizer starts with these alone, and every word is unknown.
        if name.startswith("tokenizer") and set(part.get_vocab()) <= set(part.all_special_tokens):
            raise ModelLoadError(f"{name} has no vocabulary.")


def _gaps(weights: Mapping[str, torch.Tensor], stored: set[str]) -> set[str]:
    """Return the names that no file has; of weights that are one under two names, one will do."""
    named = {next(iter(_keys([name]))): tensor.data_ptr() for name, tensor in weights.items()}
    found = {where for name, where in named.items() if name in stored}
    return {name for name, where in named.items() if name not in stored and where not in found}


def _keys_in_files(folder: Path) -> set[str]:
    found: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            found |= _keys(weights.keys())
    return found


def _keys(names: Iterable[str]) -> set[str]:
    # Older files prefix what newer classes do not, and the library maps one to the other.
    return {name.removeprefix("text_model.") for name in names}
