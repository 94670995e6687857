"""What a WebUI request asks for in our words: its model, adapters, and what cannot be done here.

What would change the picture and cannot be done is refused: nothing else is made in its place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from uuid import UUID

from api import parsing
from api.dialects.sdwebui import hires, options, seeds
from api.dialects.sdwebui.fields import Fields, ImageToImage, TextToImage
from api.runtime import Runtime
from api.schemas import JobFields
from tasks import lora
from tasks.catalog import ModelSpec, Pipeline
from tasks.errors import FieldError, InvalidParams
from tasks.finer import Finer, Format, Start

_EXTRA = re.compile(r"<(\w+):([^<>]*)>")
# What a field must be, because nothing is done with it.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "styles": ([],),
    "restore_faces": (False,),
    "tiling": (False,),
    "refiner_checkpoint": ("", "None"),
    "initial_noise_multiplier": (1,),
    # Every sampler has its own; 1 is what the published client sends.
    "eta": (0, 1),
    "s_churn": (0,),
    "s_tmin": (0,),
    "s_tmax": (0, math.inf),
    "s_noise": (1,),
    "s_min_uncond": (0,),
    "infotext": ("",),
}
_STARTS: Mapping[int, Start] = {2: "noise", 3: "nothing"}
_LATENT_UPSCALE = 3


@dataclass(frozen=True)
class Asked:
    """A request as every job is asked for, and the model that it is for.

    `finer` is what is asked for beyond the job's fields, and `format` how the pictures are encoded.
    `stays` says that later requests run the model, too, when they name none.
    """

    job: JobFields
    spec: ModelSpec
    finer: Finer
    format: Format
    stays: bool


def read(runtime: Runtime, gateway_id: UUID, fields: TextToImage | ImageToImage) -> Asked:
    """Return what a request asks for.

    Raises:
        InvalidParams: A field is wrong, or asks for what cannot be done here.
        UnknownModel: There is no such model.
        NoOffer: It names none, and there is none to take.
    """
    pipeline: Pipeline = "text-to-image" if isinstance(fields, TextToImage) else "image-to-image"
    _check(fields)
    format_, settings = options.format_in(fields.override_settings)
    named = options.model_in(runtime, settings)
    spec = named or options.model_of(runtime, gateway_id, pipeline)
    stays = named is not None and not fields.override_settings_restore_afterwards
    _check_size(spec, fields)
    prompt, loras = _without_loras(fields.prompt, runtime.task_settings.loras)
    finer, own = _own(spec, fields)
    asked = {
        "pipeline": pipeline,
        "model_id": spec.model_id,
        "prompt": prompt,
        "negative_prompt": fields.negative_prompt,
        "loras": json.dumps(loras) if loras else "",
        "guidance_scale": fields.cfg_scale,
        "seed": None if fields.seed == -1 else fields.seed,
        "num_inference_steps": fields.steps,
        "num_images_per_prompt": fields.batch_size * fields.n_iter,
        "sampler": fields.sampler_name or fields.sampler_index,
        "schedule": fields.scheduler or None,
        **own,
    }
    return Asked(parsing.checked(JobFields, asked), spec, finer, format_, stays)


def _own(spec: ModelSpec, fields: TextToImage | ImageToImage) -> tuple[Finer, dict[str, object]]:
    """Return what is asked for beyond a job's fields, and the fields that one route has."""
    finer = seeds.of(spec, fields)
    if isinstance(fields, TextToImage):
        if not fields.enable_hr:
            return finer, {"width": fields.width, "height": fields.height}
        larger = hires.of(spec, fields)
        return replace(finer, first_pass=larger.first_pass), {
            "width": larger.width,
            "height": larger.height,
            "strength": fields.denoising_strength,
        }
    own: dict[str, object] = {
        "strength": fields.denoising_strength,
        "image_guidance_scale": fields.image_cfg_scale,
    }
    return replace(finer, start=_start(spec, fields)), own


def _start(spec: ModelSpec, fields: ImageToImage) -> Start:
    """Return what the picture is at first.

    Raises:
        InvalidParams: The model cannot start from that.
    """
    name, value = "inpainting_fill", fields.inpainting_fill
    start = _STARTS.get(value, "picture") if fields.mask else "picture"
    if fields.resize_mode == _LATENT_UPSCALE:
        if fields.mask:
            said = "3 is for pictures without a mask; use 0, 1 or 2"
            raise InvalidParams([FieldError("resize_mode", said)])
        name, value, start = "resize_mode", _LATENT_UPSCALE, "latents"
    if start != "picture" and not spec.has_plain_latents:
        said = f"{value} cannot be had of {spec.model_id}, whose layout is {spec.layout}"
        raise InvalidParams([FieldError(name, said)])
    return start


def _check(fields: Fields) -> None:
    """Refuse what would change the pictures and cannot be done.

    Raises:
        InvalidParams: Names every such field.
    """
    errors = [
        FieldError(name, f"cannot be done here; leave it at {allowed[0]!r}")
        for name, allowed in _NEUTRAL.items()
        if getattr(fields, name, None) not in (None, *allowed)
    ]
    errors += [
        FieldError(name, "cannot be done here; leave it at 0")
        for name in ("seed_resize_from_w", "seed_resize_from_h")
        if getattr(fields, name) > 0
    ]
    errors += [
        FieldError(name, "must be at least 1")
        for name in ("batch_size", "n_iter")
        if getattr(fields, name) < 1
    ]
    scripts = [*fields.alwayson_scripts, *([fields.script_name] if fields.script_name else [])]
    named = "alwayson_scripts" if fields.alwayson_scripts else "script_name"
    errors += _not_found(named, scripts)
    if errors:
        raise InvalidParams(errors)


def check_scripts(names: Iterable[str]) -> None:
    """Refuse every script: there are none.

    Raises:
        InvalidParams: Names them.
    """
    if errors := _not_found("alwayson_scripts", names):
        raise InvalidParams(errors)


def _not_found(field: str, names: Iterable[str]) -> list[FieldError]:
    return [FieldError(field, f"Script {name[:100]!r} not found") for name in names]


def _check_size(spec: ModelSpec, fields: Fields) -> None:
    """Refuse a size before a picture is brought to it.

    Raises:
        InvalidParams: The model cannot do it.
    """
    low, high = spec.min_size, spec.max_size
    errors = [
        FieldError(name, f"is {pixels}; {spec.model_id} takes {low} to {high}")
        for name, pixels in (("width", fields.width), ("height", fields.height))
        if not low <= pixels <= high
    ]
    if errors:
        raise InvalidParams(errors)


# --- adapters ---------------------------------------------------------------------------------


def known_loras(setting: str) -> dict[str, str]:
    """Return the adapters that are allowed one by one, by the name of their file."""
    return {
        PurePosixPath(source).stem if source.endswith(".safetensors") else source.split("/")[-1]: (
            source
        )
        for source in lora.patterns(setting)
        if not any(letter in source for letter in "*?[")
    }


def _without_loras(prompt: str, setting: str) -> tuple[str, dict[str, float]]:
    """Return a prompt without its adapters, and their weights.

    Raises:
        InvalidParams: One is not known, stands twice, or has a weight that is none.
    """
    known = known_loras(setting)
    found: dict[str, float] = {}
    for kind, words in _EXTRA.findall(prompt):
        if kind != "lora":
            raise _refused(f"<{kind}:...> is not understood; <lora:name:weight> is")
        # An address has colons of its own.
        name, _, weight = words.rpartition(":")
        if not name or weight.startswith("//"):
            name, weight = words, "1"
        source = known.get(name, name)
        if lora.kind(source) is None:
            raise _refused(f"there is no adapter {name[:100]!r} here; see GET /sdapi/v1/loras")
        if source in found:
            raise _refused(f"names the adapter {name[:100]!r} twice")
        found[source] = _number(weight)
    return _EXTRA.sub("", prompt).strip(), found


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _refused(f"{text[:100]!r} is no weight; write <lora:name:0.8>")
    return number


def _refused(said: str) -> InvalidParams:
    return InvalidParams([FieldError("prompt", said)])
