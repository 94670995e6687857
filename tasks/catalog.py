"""The models we can run, as data: what they are made of, and the bounds of a request for them.

Read from `catalog.toml` beside this file, plus one file of the operator's. A mistake in a file is
found when it is read, not by the first job that runs into it. Loading weights is the engine's work.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks import routing
from tasks.errors import CatalogError, UnknownModel

Layout = Literal["stable-diffusion", "stable-diffusion-xl", "instruct-pix2pix"]
Pipeline = Literal["text-to-image", "image-to-image"]

MAX_GUIDANCE = 100.0

_BUILT_IN = Path(__file__).with_name("catalog.toml")
# Hub ids, which also stand in URLs, queue names and object metadata.
_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_PIPELINES: dict[Layout, frozenset[Pipeline]] = {
    "stable-diffusion": frozenset({"text-to-image", "image-to-image"}),
    "stable-diffusion-xl": frozenset({"text-to-image", "image-to-image"}),
    "instruct-pix2pix": frozenset({"image-to-image"}),
}


@dataclass(frozen=True)
class ModelSpec:
    """A neural network and the bounds within which it is run. Sizes are in pixels."""

    # A misspelt key would leave its default in force without a word, and "true" is no number.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    model_id: str
    source: str
    layout: Layout
    pipelines: tuple[Pipeline, ...]
    revision: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    variant: str | None = None
    scheduler: str | None = None
    default_width: int = 512
    default_height: int = 512
    min_size: int = 64
    max_size: int = 1024
    size_multiple: int = 8
    default_steps: int = 50
    max_steps: int = 150
    default_guidance_scale: float = 7.5
    default_image_guidance_scale: float = 1.5
    default_strength: float = 0.8
    max_images: int = 16
    max_batch: int = 4
    max_prompt_chars: int = 2000


class Catalog:
    """The models by id, in the order of the files."""

    def __init__(self, models: Iterable[ModelSpec]) -> None:
        self._models = {model.model_id: model for model in models}

    def get(self, model_id: str) -> ModelSpec:
        """Return the model.

        Raises:
            UnknownModel: The catalog has no such id.
        """
        try:
            return self._models[model_id]
        except KeyError:
            raise UnknownModel(model_id, tuple(self._models)) from None

    def models(self) -> tuple[ModelSpec, ...]:
        """Return every model."""
        return tuple(self._models.values())


def load(extra: Path | None = None) -> Catalog:
    """Read the built-in catalog and then the operator's; a repeated id replaces the earlier one.

    Raises:
        CatalogError: A file is missing, is not TOML, or describes an impossible model; or two
            models would share their queues.
    """
    models = {model.model_id: model for model in _read(_BUILT_IN)}
    if extra is not None:
        models |= {model.model_id: model for model in _read(extra)}
    _check_slugs(models)
    return Catalog(models.values())


def _check_slugs(model_ids: Iterable[str]) -> None:
    slugs: dict[str, str] = {}
    for model_id in model_ids:
        slug = routing.slug(model_id)
        if slug in slugs:
            raise CatalogError(
                f"Models {slugs[slug]!r} and {model_id!r} would share the queue name {slug!r}; "
                "give one of them another model_id."
            )
        slugs[slug] = model_id


def _read(path: Path) -> list[ModelSpec]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(f"The catalog {path} cannot be read: {error}") from error
    rows = content.pop("model", [])
    if content or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CatalogError(f"The catalog {path} may hold nothing but [[model]] tables.")
    models = [_model(path, number, row) for number, row in enumerate(rows, 1)]
    ids = [model.model_id for model in models]
    for model_id in ids:
        if ids.count(model_id) > 1:
            raise CatalogError(f"The catalog {path} describes {model_id!r} more than once.")
    return [_anchored(model, path.parent) for model in models]


def _model(path: Path, number: int, row: dict[str, Any]) -> ModelSpec:
    """Build one model from its table; an error names the model, and everything that is wrong."""
    try:
        # Through JSON, which has lists but no tuples, as TOML: strict on numbers, not on those.
        model = TypeAdapter(ModelSpec).validate_json(json.dumps(row, default=str))
        faults = list(_faults(model))
    except ValidationError as error:
        faults = [f"{_dotted(one['loc'])}: {one['msg']}" for one in error.errors()]
    if faults:
        name = row.get("model_id", f"number {number}")
        raise CatalogError(
            f"The catalog {path} describes an impossible model, {name}: {'; '.join(faults)}."
        )
    return model


def _dotted(location: Iterable[int | str]) -> str:
    return ".".join(str(part) for part in location)


def _faults(model: ModelSpec) -> Iterator[str]:
    """Yield what no request could ever fit, or every default request would break."""
    if not _MODEL_ID.fullmatch(model.model_id):
        yield "model_id must be a hub id, such as owner/name"
    if not model.source:
        yield "source must not be empty"
    impossible = set(model.pipelines) - _PIPELINES[model.layout]
    if not model.pipelines or impossible:
        yield f"pipelines must be some of {', '.join(sorted(_PIPELINES[model.layout]))}"
    yield from _size_faults(model)
    for field in ("max_steps", "max_images", "max_batch", "max_prompt_chars"):
        if getattr(model, field) < 1:
            yield f"{field} must be at least 1"
    if not 1 <= model.default_steps <= model.max_steps:
        yield "default_steps must be from 1 to max_steps"
    for field in ("default_guidance_scale", "default_image_guidance_scale"):
        if not 0 <= getattr(model, field) <= MAX_GUIDANCE:
            yield f"{field} must be from 0 to {MAX_GUIDANCE:g}"
    if (
        not 0 < model.default_strength <= 1
        or math.floor(model.default_strength * max(model.default_steps, 1)) < 1
    ):
        yield "default_strength must be above 0, at most 1, and leave a step of default_steps"


def _size_faults(model: ModelSpec) -> Iterator[str]:
    if model.size_multiple < 1:
        yield "size_multiple must be at least 1"
        return
    if not 1 <= model.min_size <= model.max_size:
        yield "min_size must be from 1 to max_size"
    # Sizes are rounded up to the multiple, and must not leave the bounds by it.
    if model.max_size % model.size_multiple:
        yield "max_size must be a multiple of size_multiple"
    for field in ("default_width", "default_height"):
        size = getattr(model, field)
        if not model.min_size <= size <= model.max_size or size % model.size_multiple:
            yield f"{field} must be a multiple of size_multiple from min_size to max_size"


def _anchored(model: ModelSpec, folder: Path) -> ModelSpec:
    """Turn a source that names a folder beside the file into an absolute path."""
    if "://" in model.source or not (folder / model.source).is_dir():
        return model
    return replace(model, source=str((folder / model.source).resolve()))
