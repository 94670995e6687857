"""What `extra-single-image` asks for in our words: a picture, and how much larger it is to be.

The task API asks for the same by the same fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from api import offered, orders, parsing
from api.dialects.sdwebui.fields import ExtraSingleImage
from api.runtime import Runtime
from api.schemas import JobFields
from tasks import fitting
from tasks.catalog import ModelSpec, Pipeline
from tasks.errors import FieldError, InvalidParams, UnknownModel
from tasks.inputs import CheckedImage

UPSCALE: Pipeline = "upscale"
# What runs where no upscaler is named, though a size is.
PLAIN = "Lanczos"
_NONE = ("", "None")
_TO_SIZE = 1
_MOST = 64
_NO_FACES = "cannot be done here; leave it at 0"


@dataclass(frozen=True)
class Asked:
    """A picture to be made larger, as every job is asked for."""

    job: JobFields
    picture: CheckedImage


def read(runtime: Runtime, gateway_id: UUID, fields: ExtraSingleImage) -> Asked:
    """Return what a request asks for; a link to its picture is followed.

    Raises:
        InvalidParams: A field is wrong, or asks for what is not done here.
        InvalidImage, LinksBusy, LinkLimit: The picture cannot be used.
    """
    _check(fields)
    spec = _upscaler(runtime, fields.upscaler_1)
    picture = orders.checked(runtime, gateway_id, parsing.picture_of(fields.image))
    if fields.resize_mode == _TO_SIZE:
        wanted = (fields.upscaling_resize_w, fields.upscaling_resize_h)
        if fields.upscaling_crop:
            picture, size = fitting.cropped(picture, *wanted), wanted
        else:
            by = max(wanted[0] / picture.width, wanted[1] / picture.height)
            size = (round(picture.width * by), round(picture.height * by))
    else:
        by = fields.upscaling_resize
        size = (int(picture.width * by), int(picture.height * by))
    _check_size(spec, picture, size, fields)
    asked = {
        "pipeline": UPSCALE,
        "model_id": spec.model_id,
        "width": size[0],
        "height": size[1],
    }
    return Asked(parsing.checked(JobFields, asked), picture)


def name_of(spec: ModelSpec) -> str:
    """Return what an upscaler is called: by its first alias, or its id."""
    return next(iter(spec.aliases), spec.model_id)


def _upscaler(runtime: Runtime, name: str) -> ModelSpec:
    """Return the model that a request names.

    Raises:
        InvalidParams: There is none, or it is of another kind.
    """
    try:
        spec = runtime.catalog.resolve(PLAIN if name in _NONE else name)
    except UnknownModel:
        spec = None
    if spec is None or UPSCALE not in spec.pipelines:
        there = ", ".join(name_of(one) for one in offered.of_pipeline(runtime, UPSCALE))
        said = f"there is no upscaler {name[:100]!r} here; there are {there or 'none'}"
        raise InvalidParams([FieldError("upscaler_1", said)])
    return spec


def _check(fields: ExtraSingleImage) -> None:
    another = fields.upscaler_2 not in _NONE and fields.extras_upscaler_2_visibility
    checks: list[tuple[str, bool, str]] = [
        ("image", bool(fields.image), "is required"),
        ("resize_mode", fields.resize_mode in (0, _TO_SIZE), "must be 0 or 1"),
        (
            "upscaling_resize",
            0 < fields.upscaling_resize <= _MOST,
            f"must be above 0, {_MOST} at most",
        ),
        ("upscaling_resize_w", fields.upscaling_resize_w >= 1, "must be at least 1"),
        ("upscaling_resize_h", fields.upscaling_resize_h >= 1, "must be at least 1"),
        ("upscaler_2", not another, "cannot be done here; leave it at 'None'"),
        ("gfpgan_visibility", not fields.gfpgan_visibility, _NO_FACES),
        ("codeformer_visibility", not fields.codeformer_visibility, _NO_FACES),
    ]
    errors = [FieldError(name, said) for name, is_good, said in checks if not is_good]
    if errors:
        raise InvalidParams(errors)


def _check_size(
    spec: ModelSpec, picture: CheckedImage, size: tuple[int, int], fields: ExtraSingleImage
) -> None:
    """Refuse by the WebUI's fields what the job would refuse by its own.

    Raises:
        InvalidParams: The model cannot do it.
    """
    sides = list(zip(size, (picture.width, picture.height), strict=True))
    low, high = spec.min_size, spec.max_size
    if spec.factor is None and all(low <= side <= high for side, _ in sides):
        return
    if spec.factor is not None and all(one <= side <= one * spec.factor for side, one in sides):
        return
    able = f"1 to {spec.factor} times its size" if spec.factor else f"{low} to {high} a side"
    said = (
        f"of a picture of {picture.width}x{picture.height} makes {size[0]}x{size[1]}; "
        f"{spec.model_id} makes {able}"
    )
    name = "upscaling_resize_w" if fields.resize_mode == _TO_SIZE else "upscaling_resize"
    raise InvalidParams([FieldError(name, said)])
