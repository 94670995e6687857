"""The WebUI's "hires fix": a picture that is drawn small first, and drawn over in a larger size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from api.dialects.sdwebui.fields import TextToImage
from tasks.catalog import ModelSpec
from tasks.errors import FieldError, InvalidParams
from tasks.finer import Between, FirstPass

LATENT_MODES: Mapping[str, Between] = {
    "Latent": "bilinear",
    "Latent (antialiased)": "bilinear-antialias",
    "Latent (bicubic)": "bicubic",
    "Latent (bicubic antialiased)": "bicubic-antialias",
    "Latent (nearest)": "nearest",
    "Latent (nearest-exact)": "nearest-exact",
}
_WAYS: Mapping[str, Between] = {
    **LATENT_MODES,
    "None": "lanczos-pixels",
    "Lanczos": "lanczos-pixels",
    "Nearest": "nearest-pixels",
}
# What the WebUI's page sends for what is to stay as it is.
_SAME = {
    "hr_checkpoint_name": "Use same checkpoint",
    "hr_sampler_name": "Use same sampler",
    "hr_scheduler": "Use same scheduler",
}


@dataclass(frozen=True)
class Larger:
    """The size that is paid for, and the pass before it."""

    width: int
    height: int
    first_pass: FirstPass


def of(spec: ModelSpec, fields: TextToImage) -> Larger:
    """Return what a request with `enable_hr` asks for.

    Raises:
        InvalidParams: The model cannot do it, or a field asks for what is not done here.
    """
    errors = _errors(spec, fields)
    if errors:
        raise InvalidParams(errors)
    width, height = _size(fields)
    multiple = spec.size_multiple
    first = FirstPass(
        -(-fields.width // multiple) * multiple,
        -(-fields.height // multiple) * multiple,
        fields.hr_second_pass_steps or fields.steps,
        _WAYS[fields.hr_upscaler],
    )
    low, high = spec.min_size, spec.max_size
    if not (fields.width <= width <= high and fields.height <= height <= high):
        said = f"makes it {width}x{height}; {spec.model_id} takes {low} to {high}, and not less"
        raise InvalidParams([FieldError("hr_resize_x" if fields.hr_resize_x else "hr_scale", said)])
    return Larger(width, height, first)


def _size(fields: TextToImage) -> tuple[int, int]:
    if not fields.hr_resize_x and not fields.hr_resize_y:
        return int(fields.width * fields.hr_scale), int(fields.height * fields.hr_scale)
    width = fields.hr_resize_x or fields.hr_resize_y * fields.width // fields.height
    height = fields.hr_resize_y or fields.hr_resize_x * fields.height // fields.width
    return width, height


def _errors(spec: ModelSpec, fields: TextToImage) -> list[FieldError]:
    able = spec.has_plain_latents and "image-to-image" in spec.pipelines
    x, y = fields.hr_resize_x, fields.hr_resize_y
    of_shape = not (x and y) or x * fields.height == y * fields.width
    unknown = f"there is no {fields.hr_upscaler[:100]!r} here; there are {', '.join(_WAYS)}"
    other_shape = "must be of the shape of width x height; leave one of the two at 0"
    checks: list[tuple[str, bool, str]] = [
        ("enable_hr", able, f"cannot be had of {spec.model_id}"),
        ("hr_upscaler", fields.hr_upscaler in _WAYS, unknown),
        # An infinite one is no size, either.
        ("hr_scale", 1 <= fields.hr_scale <= spec.max_size, f"must be 1 to {spec.max_size}"),
        ("hr_resize_y", of_shape, other_shape),
    ]
    checks += [
        (name, getattr(fields, name) >= 0, "must be 0 or more")
        for name in ("hr_second_pass_steps", "hr_resize_x", "hr_resize_y")
    ]
    for name, same in _SAME.items():
        is_same = getattr(fields, name) in (None, "", same)
        checks.append((name, is_same, "must be empty: both passes have the same"))
    for name in ("prompt", "negative_prompt"):
        is_same = getattr(fields, f"hr_{name}") in ("", getattr(fields, name))
        checks.append((f"hr_{name}", is_same, "must be empty: both passes have the same"))
    for name in ("firstphase_width", "firstphase_height"):
        said = "must be 0: the first pass has width x height"
        checks.append((name, not getattr(fields, name), said))
    return [FieldError(name, said) for name, is_good, said in checks if not is_good]
