"""What the content of a task asks for in our words: the web UI's fields, as far as they have one.

Names and defaults are the web UI's. What would change the pictures there and cannot be done here is
refused by name, never left out in silence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api import parsing
from api.dialects.aws.requests import Asked
from api.orders import Beside
from api.schemas import JobFields
from tasks.catalog import Catalog, ModelSpec
from tasks.errors import FieldError, InvalidParams
from tasks.fitting import Fit, Mode
from tasks.inputs import decode_base64
from tasks.links import is_link

_MODES: Mapping[int, Mode] = {0: "stretch", 1: "crop", 2: "fill"}
_CHECKPOINT = "sd_model_checkpoint"
# Among the scripts, what is none.
_ROUTING = frozenset(
    {
        *("task", "id_task", "uid", "save_dir", "image_link"),
        *(_CHECKPOINT, "sd_vae", "override_settings"),
    }
)
# Fields of the web UI that would change the pictures, and what it takes to ask for nothing by them.
_NOT_DONE: Mapping[str, Collection[object]] = {
    "sampler_name": (None, ""),
    "sampler_index": (None, ""),
    "scheduler": (None, ""),
    "styles": (None, []),
    "subseed_strength": (None, 0),
    "seed_resize_from_h": (None, 0, -1),
    "seed_resize_from_w": (None, 0, -1),
    "enable_hr": (None, False),
    "tiling": (None, False),
    "restore_faces": (None, False),
    "refiner_checkpoint": (None, "", "None"),
    "script_name": (None, ""),
    "mask": (None, ""),
}


class Content(BaseModel):
    """The web UI's fields that say what is drawn."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    batch_size: int = Field(1, ge=1)
    n_iter: int = Field(1, ge=1)
    steps: int = 50
    cfg_scale: float = 7.0
    width: int = Field(512, ge=1)
    height: int = Field(512, ge=1)
    denoising_strength: float = 0.75
    resize_mode: int = 0
    init_images: list[str] = []
    alwayson_scripts: dict[str, Any] = {}
    override_settings: dict[str, Any] = {}


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn: a job's fields, and its picture or a link to it, with its size."""

    fields: JobFields
    given: bytes | str | None
    beside: Beside


def read(asked: Asked, catalog: Catalog) -> Drawing:
    """Return what a task asks for.

    Raises:
        UnknownRuntime, UnknownModel: There is no such runtime or model.
        InvalidParams: A field is wrong, or asks for what is not done here.
        InvalidImage: The picture is not base64.
    """
    raw = {name: value for name, value in asked.content.items() if value is not None}
    content = parsing.checked(Content, raw)
    wrong = [*_not_done(asked.content), *_not_done_by_settings(content)]
    if wrong:
        raise InvalidParams(wrong)
    spec = _model(asked, content, catalog)
    fields: dict[str, Any] = {
        "pipeline": asked.kind,
        "model_id": spec.model_id,
        "prompt": content.prompt,
        "negative_prompt": content.negative_prompt,
        "num_images_per_prompt": content.batch_size * content.n_iter,
        "num_inference_steps": content.steps,
        "guidance_scale": content.cfg_scale,
        "seed": None if content.seed < 0 else content.seed,
        "context": asked.context,
    }
    if asked.kind == "text-to-image":
        size = {"width": content.width, "height": content.height}
        return Drawing(parsing.checked(JobFields, {**fields, **size}), None, Beside())
    fields["strength"] = content.denoising_strength
    given, fit = _picture(content), _fit(content)
    return Drawing(parsing.checked(JobFields, fields), given, Beside(fit))


def _not_done(content: Mapping[str, Any]) -> Iterator[FieldError]:
    for name, nothing in _NOT_DONE.items():
        if content.get(name) not in nothing:
            yield FieldError(name, "is not done here; leave it out")


def _not_done_by_settings(content: Content) -> Iterator[FieldError]:
    for name in sorted(content.alwayson_scripts.keys() - _ROUTING):
        yield FieldError(f"alwayson_scripts.{name}", "is a script, and none are run here")
    for name in sorted(_overridden(content).keys() - {_CHECKPOINT}):
        yield FieldError(f"override_settings.{name}", "is not a setting of tasks here")


def _overridden(content: Content) -> Mapping[str, Any]:
    hidden = content.alwayson_scripts.get("override_settings") or {}
    if not isinstance(hidden, dict):
        raise InvalidParams([FieldError("alwayson_scripts.override_settings", "must be an object")])
    return {**content.override_settings, **hidden}


def _model(asked: Asked, content: Content, catalog: Catalog) -> ModelSpec:
    """Return the model that is run: the one named, if the runtime has it, or its first."""
    named = _named(content)
    if asked.runtime is None:
        return catalog.resolve(named or "")
    runtime = catalog.runtime(asked.runtime)
    models = [catalog.resolve(name) for name in runtime.models]
    if named is None:
        return models[0]
    spec = catalog.resolve(named)
    if spec not in models:
        ids = ", ".join(one.model_id for one in models)
        said = f"{named!r} is not a model of runtime {runtime.name}, which has {ids}"
        raise InvalidParams([FieldError(f"alwayson_scripts.{_CHECKPOINT}", said)])
    return spec


def _named(content: Content) -> str | None:
    """Return the checkpoint that a task names in either place."""
    found = {
        f"alwayson_scripts.{_CHECKPOINT}": content.alwayson_scripts.get(_CHECKPOINT),
        f"override_settings.{_CHECKPOINT}": _overridden(content).get(_CHECKPOINT),
    }
    given = {where: name for where, name in found.items() if name not in (None, "")}
    for where, name in given.items():
        if not isinstance(name, str):
            raise InvalidParams([FieldError(where, "must be a string")])
    if len(set(given.values())) > 1:
        said = "is not the model that alwayson_scripts names"
        raise InvalidParams([FieldError(f"override_settings.{_CHECKPOINT}", said)])
    return next(iter(given.values()), None)


def _picture(content: Content) -> bytes | str:
    link = content.alwayson_scripts.get("image_link")
    pictures = content.init_images if link in (None, "") else [link]
    if len(pictures) != 1 or not isinstance(pictures[0], str):
        said = f"must be one picture or link to one; there are {len(pictures)}"
        raise InvalidParams([FieldError("init_images", said)])
    text = pictures[0]
    return text.strip() if is_link(text) else decode_base64(text)


def _fit(content: Content) -> Fit:
    mode = _MODES.get(content.resize_mode)
    if mode is None:
        said = "must be 0 (stretch), 1 (crop) or 2 (fill)"
        raise InvalidParams([FieldError("resize_mode", said)])
    return Fit(content.width, content.height, mode)
