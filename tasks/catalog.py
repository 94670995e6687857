"""The models we can run, as data: what they are made of, and the bounds of a request for them.

Read from `catalog.toml` beside this file, plus one file of the operator's. A mistake in a file is
found when it is read, not by the first job that runs into it. Loading weights is the engine's work.
"""

from __future__ import annotations

import functools
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks import names, routing
from tasks.errors import CatalogError, UnknownModel, UnknownRuntime
from tasks.names import ModelRuntime

Layout = Literal[
    "stable-diffusion",
    "stable-diffusion-xl",
    "instruct-pix2pix",
    "stable-diffusion-3",
    "flux",
    "upscaler",
    "resampling",
]
Pipeline = Literal["text-to-image", "image-to-image", "upscale"]

MAX_GUIDANCE = 100.0

_BUILT_IN = Path(__file__).with_name("catalog.toml")
# The catalog of the models that are shipped, in the place of an operator's own.
DEMO = Path(__file__).parent / "models" / "catalog.toml"
DEMO_LORA = DEMO.with_name("shapes-outline-lora")
# Hub ids, which also stand in URLs, queue names and object metadata.
_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_BOTH = frozenset({"negative_prompt", "guidance_scale"})
# What a layout's pipelines do, and which of the parameters that differ between layouts each takes.
# The others have no meaning there: they are dropped, and split no batch.
_TAKES: Mapping[Layout, Mapping[Pipeline, frozenset[str]]] = {
    "stable-diffusion": {"text-to-image": _BOTH, "image-to-image": _BOTH | {"strength"}},
    "stable-diffusion-xl": {"text-to-image": _BOTH, "image-to-image": _BOTH | {"strength"}},
    "instruct-pix2pix": {"image-to-image": _BOTH | {"image_guidance_scale"}},
    "stable-diffusion-3": {"text-to-image": _BOTH, "image-to-image": _BOTH | {"strength"}},
    "flux": {
        "text-to-image": frozenset({"guidance_scale"}),
        "image-to-image": frozenset({"guidance_scale", "strength"}),
    },
    "upscaler": {"upscale": _BOTH},
    "resampling": {"upscale": frozenset()},
}
# Text encoders of a layout, each of which may be given a prompt of its own.
_PROMPTS: Mapping[Layout, int] = {
    "stable-diffusion": 1,
    "stable-diffusion-xl": 2,
    "instruct-pix2pix": 1,
    "stable-diffusion-3": 3,
    "flux": 2,
    "upscaler": 1,
    "resampling": 1,
}
# Pixels per step of the denoiser's grid: the decoder's factor of eight, and a transformer's patches
# of two.
_UNET_GRAIN = 8
_SAFE = ".safetensors"
_GRAIN: Mapping[Layout, int] = {
    "stable-diffusion": _UNET_GRAIN,
    "stable-diffusion-xl": _UNET_GRAIN,
    "instruct-pix2pix": _UNET_GRAIN,
    "stable-diffusion-3": 2 * _UNET_GRAIN,
    "flux": 2 * _UNET_GRAIN,
    # What they make is brought to any size.
    "upscaler": 1,
    "resampling": 1,
}
# How many times larger a layout's network makes a picture. Without one, any size can be had.
_FACTOR: Mapping[Layout, int] = {"upscaler": 4}
# What a picture can be resampled by: the `source` of a model that has no weights.
FILTERS = ("lanczos", "nearest")
# What starts from latents that the engine makes itself: those of a picture in another size, noise
# in part, two seeds, or a first pass.
_PLAIN_LATENTS: frozenset[Layout] = frozenset({"stable-diffusion", "stable-diffusion-xl"})

# A misspelt key would leave its default in force without a word, and "true" is no number.
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Part:
    """A component that stands in for the model's own: a folder, or one `file` of weights."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    source: str
    revision: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class ModelSpec:
    """A neural network and the bounds within which it is run. Sizes are in pixels.

    `aliases` are other names that requests may use. A `source` that is one file, a checkpoint, may
    have its `sha256`, and a `config`: where the rest of what its layout needs is, if not with us.
    `prediction_type` says what a UNet predicts where its configuration says another thing.
    A request beyond a maximum is refused. `run_steps` and `run_guidance_scale` are for distilled
    models, which make good pictures within these (low, high) only: a request is brought into them,
    and told so. `raise_strength` brings a strength that would leave no step up to one step.
    `vram_gib` is an estimate, from the weights, of what one picture of the default size needs.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    model_id: str
    source: str
    layout: Layout
    pipelines: tuple[Pipeline, ...]
    aliases: tuple[str, ...] = ()
    revision: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    variant: str | None = None
    sha256: str | None = None
    config: Part | None = None
    scheduler: str | None = None
    timestep_spacing: Literal["leading", "linspace", "trailing"] | None = None
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    unet: Part | None = None
    vae: Part | None = None
    default_width: int = 512
    default_height: int = 512
    min_size: int = 64
    max_size: int = 1024
    size_multiple: int = 8
    default_steps: int = 50
    max_steps: int = 150
    run_steps: tuple[int, int] | None = None
    default_guidance_scale: float = 7.5
    run_guidance_scale: tuple[float, float] | None = None
    default_image_guidance_scale: float = 1.5
    default_strength: float = 0.8
    raise_strength: bool = False
    max_images: int = 16
    max_batch: int = 4
    max_prompt_chars: int = 2000
    max_sequence_tokens: int | None = None
    vram_gib: float | None = None
    license: str = ""
    gated: bool = False
    recommended_price_usd: Decimal | None = None

    @property
    def unavailable(self) -> str | None:
        """Say why no worker could load the model, as far as this entry tells; None: one may."""
        for part in (self.checkpoint or self, self.config, self.unet, self.vae):
            if part is not None and is_hub_id(part.source) and not is_commit(part.revision):
                return (
                    f"{self.model_id} has no pinned revision of {part.source}; put its entry, with "
                    "the commit as `revision`, into your own catalog file (PIXELTOLL_CATALOG)."
                )
        return None

    @property
    def factor(self) -> int | None:
        """How many times larger an upscaler makes a picture; None: to any size, or it is none."""
        return _FACTOR.get(self.layout)

    @property
    def has_plain_latents(self) -> bool:
        """Tell whether the engine can make the latents that a picture starts from."""
        return self.layout in _PLAIN_LATENTS

    @property
    def checkpoint(self) -> Part | None:
        """The one file that the model is, if it is one."""
        folder, _, name = self.source.rpartition("/")
        return Part(folder or ".", self.revision, name) if name.endswith(_SAFE) else None

    def prompts(self, pipeline: str) -> int:
        """Return how many prompts a `prompt` may hold, divided by `|`."""
        return _PROMPTS[self.layout] if pipeline == "text-to-image" else 1

    def takes(self, pipeline: str) -> frozenset[str]:
        """Return which of the parameters that differ between layouts have a meaning."""
        names: Mapping[Any, frozenset[str]] = _TAKES[self.layout]
        return names.get(pipeline, frozenset())


# Layouts whose checkpoints can be read: what they do not bring along is shipped with the engine.
_IN_ONE_FILE: tuple[Layout, ...] = ("stable-diffusion", "stable-diffusion-xl")


def is_hub_id(source: str) -> bool:
    """Tell whether a source is `owner/name` on the hub, and no folder that is there."""
    return _HUB_ID.fullmatch(source) is not None and not Path(source).is_dir()


def is_commit(revision: str | None) -> bool:
    """Tell whether a revision is a commit, which never changes, and no branch or tag."""
    return _COMMIT.fullmatch(revision or "") is not None


class Catalog:
    """The models by id, in the order of the files, and the runtimes that name sets of them."""

    def __init__(self, models: Iterable[ModelSpec], runtimes: Iterable[ModelRuntime] = ()) -> None:
        self._models = {model.model_id: model for model in models}
        self._named = names.by_name(self._models.values())
        self._runtimes = {runtime.name: runtime for runtime in runtimes}

    def get(self, model_id: str) -> ModelSpec:
        """Return the model.

        Raises:
            UnknownModel: The catalog has no such id.
        """
        try:
            return self._models[model_id]
        except KeyError:
            raise UnknownModel(model_id, tuple(self._models)) from None

    def resolve(self, name: str) -> ModelSpec:
        """Return the model of an id, an alias, a checkpoint's file name, or a title or its hash.

        Only what is asked by others may use anything but the id.

        Raises:
            UnknownModel: The catalog has none by that name, or more than one.
        """
        return self._named.get(name) or self.get(name)

    def runtime(self, name: str) -> ModelRuntime:
        """Return the runtime of a name.

        Raises:
            UnknownRuntime: The catalog has none.
        """
        try:
            return self._runtimes[name]
        except KeyError:
            raise UnknownRuntime(name, tuple(self._runtimes)) from None

    def models(self) -> tuple[ModelSpec, ...]:
        """Return every model."""
        return tuple(self._models.values())


def load(extra: Path | None = None) -> Catalog:
    """Read the built-in catalog and then the operator's, whose names win.

    A repeated id replaces the built-in model, and what the operator's models are called is no alias
    of a built-in one any more.

    Raises:
        CatalogError: A file is missing, is not TOML, or describes an impossible model or runtime;
            or two models would share their queues.
    """
    models, runtimes = _read(_BUILT_IN)
    own: list[ModelSpec] = []
    if extra is not None:
        own, runtimes = _read(extra)
    taken = {name for model in own for name in (model.model_id, *model.aliases)}
    named = {model.model_id: _without(model, taken) for model in models}
    named |= {model.model_id: model for model in own}
    _check_slugs(named)
    _check_aliases(named.values())
    found = Catalog(named.values(), runtimes)
    for runtime in runtimes:
        _check_runtime(found, runtime)
    return found


def _check_runtime(found: Catalog, runtime: ModelRuntime) -> None:
    try:
        for name in runtime.models:
            found.resolve(name)
    except UnknownModel as error:
        raise CatalogError(f"Runtime {runtime.name!r} cannot be had. {error}") from error


def _without(model: ModelSpec, taken: Collection[str]) -> ModelSpec:
    return replace(model, aliases=tuple(one for one in model.aliases if one not in taken))


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


def _check_aliases(models: Collection[ModelSpec]) -> None:
    names = Counter(alias for model in models for alias in model.aliases)
    names.update(model.model_id for model in models)
    for name, count in names.items():
        if count > 1:
            raise CatalogError(f"{name!r} names more than one model; an alias must be its own.")


def _read(path: Path) -> tuple[list[ModelSpec], list[ModelRuntime]]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(f"The catalog {path} cannot be read: {error}") from error
    rows, runtimes = content.pop("model", []), content.pop("runtime", [])
    lists = all(isinstance(one, list) for one in (rows, runtimes))
    if content or not lists or not all(isinstance(row, dict) for row in [*rows, *runtimes]):
        raise CatalogError(
            f"The catalog {path} may hold nothing but [[model]] and [[runtime]] tables."
        )
    models = [_model(path, number, row) for number, row in enumerate(rows, 1)]
    named = [_runtime(path, row) for row in runtimes]
    for name, count in Counter(
        [*(model.model_id for model in models), *(one.name for one in named)]
    ).items():
        if count > 1:
            raise CatalogError(f"The catalog {path} describes {name!r} more than once.")
    return [_anchored(model, path.parent) for model in models], named


def _runtime(path: Path, row: dict[str, Any]) -> ModelRuntime:
    """Build one runtime from its table; an error names it, and what is wrong."""
    try:
        runtime = TypeAdapter(ModelRuntime).validate_json(json.dumps(row, default=str))
        faults = list(runtime.faults())
    except ValidationError as error:
        faults = [f"{_dotted(one['loc'])}: {one['msg']}" for one in error.errors()]
    if faults:
        name = row.get("name", "without a name")
        raise CatalogError(
            f"The catalog {path} describes an impossible runtime, {name}: {'; '.join(faults)}."
        )
    return runtime


def _model(path: Path, number: int, row: dict[str, Any]) -> ModelSpec:
    """Build one model from its table; an error names the model, and everything that is wrong."""
    try:
        # Through JSON, which has lists but no tuples, as TOML: strict on numbers, not on those.
        model = _adapter().validate_json(json.dumps(row, default=str))
        faults = list(_faults(model))
    except ValidationError as error:
        faults = [f"{_dotted(one['loc'])}: {one['msg']}" for one in error.errors()]
    if faults:
        name = row.get("model_id", f"number {number}")
        raise CatalogError(
            f"The catalog {path} describes an impossible model, {name}: {'; '.join(faults)}."
        )
    return model


@functools.cache  # Built once, and only by those who read a catalog.
def _adapter() -> TypeAdapter[ModelSpec]:
    return TypeAdapter(ModelSpec)


def _dotted(location: Iterable[int | str]) -> str:
    return ".".join(str(part) for part in location)


def _faults(model: ModelSpec) -> Iterator[str]:
    """Yield what no request could ever fit, or every default request would break."""
    if not _MODEL_ID.fullmatch(model.model_id):
        yield "model_id must be a hub id, such as owner/name"
    if not model.source:
        yield "source must not be empty"
    possible = _TAKES[model.layout].keys()
    if not model.pipelines or set(model.pipelines) - possible:
        yield f"pipelines must be some of {', '.join(sorted(possible))}"
    if model.sha256 is not None and not _SHA256.fullmatch(model.sha256):
        yield "sha256 must be 64 hexadecimal digits, in small letters"
    if model.layout == "resampling" and model.source not in FILTERS:
        yield f"source must be {' or '.join(FILTERS)}, for resampling has no weights"
    yield from _size_faults(model)
    yield from _part_faults(model)
    for field in ("max_steps", "max_images", "max_batch", "max_prompt_chars"):
        if getattr(model, field) < 1:
            yield f"{field} must be at least 1"
    yield from _run_faults(model)


def _run_faults(model: ModelSpec) -> Iterator[str]:
    low, high = model.run_steps or (1, model.max_steps)
    if not 1 <= low <= high <= model.max_steps:
        yield "run_steps must be two numbers in order, from 1 to max_steps"
    elif not low <= model.default_steps <= high:
        named = "1 to max_steps" if model.run_steps is None else f"{low} to {high}, as run_steps"
        yield f"default_steps must be from {named}"
    for field in ("default_guidance_scale", "default_image_guidance_scale"):
        if not 0 <= getattr(model, field) <= MAX_GUIDANCE:
            yield f"{field} must be from 0 to {MAX_GUIDANCE:g}"
    least, most = model.run_guidance_scale or (0.0, MAX_GUIDANCE)
    if not 0 <= least <= most <= MAX_GUIDANCE or not least <= model.default_guidance_scale <= most:
        yield "run_guidance_scale must be two numbers in order, about default_guidance_scale"
    leaves_none = math.floor(model.default_strength * max(model.default_steps, 1)) < 1
    if not 0 < model.default_strength <= 1 or (leaves_none and not model.raise_strength):
        yield "default_strength must be above 0, at most 1, and leave a step of default_steps"


def _size_faults(model: ModelSpec) -> Iterator[str]:
    if model.size_multiple < 1:
        yield "size_multiple must be at least 1"
        return
    if model.size_multiple % _GRAIN[model.layout]:
        yield f"size_multiple must be a multiple of {_GRAIN[model.layout]} for {model.layout}"
    if not 1 <= model.min_size <= model.max_size:
        yield "min_size must be from 1 to max_size"
    # Sizes are rounded up to the multiple, and must not leave the bounds by it.
    if model.max_size % model.size_multiple:
        yield "max_size must be a multiple of size_multiple"
    for field in ("default_width", "default_height"):
        size = getattr(model, field)
        if not model.min_size <= size <= model.max_size or size % model.size_multiple:
            yield f"{field} must be a multiple of size_multiple from min_size to max_size"


def _part_faults(model: ModelSpec) -> Iterator[str]:
    if model.unet is not None and (
        _GRAIN[model.layout] != _UNET_GRAIN or not (model.unet.file or "").endswith(_SAFE)
    ):
        yield f"unet must name a {_SAFE} file, and is for layouts that have a UNet"
    if model.prediction_type is not None and _GRAIN[model.layout] != _UNET_GRAIN:
        yield "prediction_type is for Stable Diffusion 1, 2 and XL, and InstructPix2Pix"
    if model.checkpoint is not None and model.layout not in _IN_ONE_FILE:
        yield f"a checkpoint must be one of {', '.join(_IN_ONE_FILE)}"
    if model.checkpoint is None and (model.config is not None or model.sha256 is not None):
        yield f"config and sha256 are for a source that is one {_SAFE} file"
    if model.config is not None and model.config.file is not None:
        yield "config must be a folder, without a file"
    if model.vae is not None and model.vae.file is not None:
        yield "vae must be a folder, without a file"


def _anchored(model: ModelSpec, folder: Path) -> ModelSpec:
    """Turn sources that name what is beside the file into absolute paths."""

    def path(source: str) -> str:
        if "://" in source or not (folder / source).exists():
            return source
        return str((folder / source).resolve())

    return replace(
        model,
        source=path(model.source),
        config=model.config and replace(model.config, source=path(model.config.source)),
        unet=model.unet and replace(model.unet, source=path(model.unet.source)),
        vae=model.vae and replace(model.vae, source=path(model.vae.source)),
    )
