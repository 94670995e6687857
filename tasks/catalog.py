"""The models we can run, as data: what they are made of, and the bounds of a request for them.

Read from `catalog.toml` beside this file, plus one file of the operator's. Loading weights is the
engine's work.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from tasks.errors import CatalogError, UnknownModel

Layout = Literal["stable-diffusion", "stable-diffusion-xl", "instruct-pix2pix"]
Pipeline = Literal["text-to-image", "image-to-image"]

_BUILT_IN = Path(__file__).with_name("catalog.toml")


@dataclass(frozen=True)
class ModelSpec:
    """A neural network and the bounds within which it is run. Sizes are in pixels."""

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
        CatalogError: A file is missing, is not TOML, or describes an impossible model.
    """
    models = _read(_BUILT_IN)
    return Catalog(models if extra is None else [*models, *_read(extra)])


def _read(path: Path) -> list[ModelSpec]:
    try:
        rows: list[dict[str, Any]] = tomllib.loads(path.read_text("utf-8")).get("model", [])
        models = [TypeAdapter(ModelSpec).validate_python(row) for row in rows]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise CatalogError(f"The catalog {path} cannot be used: {error}") from error
    return [_anchored(model, path.parent) for model in models]


def _anchored(model: ModelSpec, folder: Path) -> ModelSpec:
    """Turn a source that names a folder beside the file into an absolute path."""
    if "://" in model.source or not (folder / model.source).is_dir():
        return model
    return ModelSpec(**{**vars(model), "source": str((folder / model.source).resolve())})
