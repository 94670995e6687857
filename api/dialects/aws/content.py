"""What the content of a task asks for in our words: it is the body of a request to the web UI.

So it is read as those are, by `sdwebui`. What is a task's own is here: the scripts that are none,
the model by its runtime, and that a worker stores the results, which nobody puts together later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from flask import g

from api import orders, parsing
from api.dialects.aws.requests import Asked
from api.dialects.sdwebui import asking, extras, options, pictures
from api.dialects.sdwebui.fields import ExtraSingleImage, ImageToImage, TextToImage
from api.runtime import Runtime
from api.schemas import JobFields
from tasks.catalog import Catalog, ModelSpec
from tasks.errors import FieldError, InvalidParams
from tasks.finer import Finer

_CHECKPOINT = "sd_model_checkpoint"
# Among the scripts, what is none.
_ROUTING = frozenset(
    {
        *("task", "id_task", "uid", "save_dir", "image_link"),
        *(_CHECKPOINT, "sd_vae", "override_settings"),
    }
)


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn: a job's fields, its picture, and what is asked for beyond that."""

    fields: JobFields
    given: orders.Given
    beside: orders.Beside = field(default_factory=orders.Beside)


def read(runtime: Runtime, gateway_id: UUID, asked: Asked) -> Drawing:
    """Return what a task asks for; a link to its picture is followed.

    Raises:
        UnknownRuntime, UnknownModel: There is no such runtime or model.
        InvalidParams: A field is wrong, or asks for what is not done here.
        InvalidImage, LinksBusy, LinkLimit: The picture cannot be used.
    """
    scripts = _object(asked.content, "alwayson_scripts", "alwayson_scripts")
    settings = {
        **_object(asked.content, "override_settings", "override_settings"),
        **_object(scripts, "override_settings", "alwayson_scripts.override_settings"),
    }
    spec = _model(asked, _named(scripts, settings), runtime.catalog)
    others = {name: one for name, one in scripts.items() if name not in _ROUTING}
    if asked.kind == "extra-single-image":
        return _larger(runtime, gateway_id, asked, others, settings)
    body = {
        **asked.content,
        "alwayson_scripts": others,
        "override_settings": {**settings, _CHECKPOINT: spec.model_id},
    }
    link = scripts.get("image_link")
    if link not in (None, ""):
        body["init_images"] = [link]
    if asked.kind == "text-to-image":
        return _drawing(runtime, gateway_id, asked, parsing.checked(TextToImage, body))
    fields = parsing.checked(ImageToImage, body)
    if fields.mask and fields.inpaint_full_res:
        said = "must be false: what is drawn of a task is stored as it is"
        raise InvalidParams([FieldError("inpaint_full_res", said)])
    return _drawing(runtime, gateway_id, asked, fields)


def _larger(
    runtime: Runtime,
    gateway_id: UUID,
    asked: Asked,
    scripts: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Drawing:
    """Return what makes a picture larger, which the web UI's own route has no settings for."""
    g.picture_field = "image"  # where errors are told
    asking.check_scripts(scripts)
    format_, others = options.format_in(settings)
    options.model_in(runtime, others)
    fields = parsing.checked(ExtraSingleImage, asked.content)
    larger = extras.read(runtime, gateway_id, fields)
    beside = orders.Beside(finer=Finer(format=format_))
    return Drawing(_with_context(larger.job, asked), larger.picture, beside)


def _drawing(
    runtime: Runtime,
    gateway_id: UUID,
    asked: Asked,
    fields: TextToImage | ImageToImage,
) -> Drawing:
    job = asking.read(runtime, gateway_id, fields)
    given = pictures.read(runtime, gateway_id, fields) if isinstance(fields, ImageToImage) else None
    # Here a worker stores what is asked for: nobody encodes it anew.
    finer = replace(job.finer, format=job.format)
    return Drawing(
        _with_context(job.job, asked),
        None if given is None else given.picture,
        orders.Beside(None if given is None else given.fit, finer=finer),
    )


def _with_context(job: JobFields, asked: Asked) -> JobFields:
    return job.model_copy(update={"context": asked.context})


def _object(found: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = found.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidParams([FieldError(where, "must be an object")])
    return value


def _model(asked: Asked, named: str | None, catalog: Catalog) -> ModelSpec:
    """Return the model that is run: the one named, if the runtime has it, or its first."""
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


def _named(scripts: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Return the checkpoint that a task names in either place."""
    found = {
        f"alwayson_scripts.{_CHECKPOINT}": scripts.get(_CHECKPOINT),
        f"override_settings.{_CHECKPOINT}": settings.get(_CHECKPOINT),
    }
    given = {where: name for where, name in found.items() if name not in (None, "")}
    for where, name in given.items():
        if not isinstance(name, str):
            raise InvalidParams([FieldError(where, "must be a string")])
    if len(set(given.values())) > 1:
        said = "is not the model that alwayson_scripts names"
        raise InvalidParams([FieldError(f"override_settings.{_CHECKPOINT}", said)])
    return next(iter(given.values()), None)
