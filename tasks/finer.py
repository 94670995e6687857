"""What is asked for beyond a job's own fields: two passes, two seeds, other beginnings. Pure.

Foreign APIs have these, and say them in their own words. What the engine makes of them is
`engine.latents`' matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tasks.catalog import ModelSpec
from tasks.errors import FieldError
from tasks.sizing import Size, between

# What image-to-image starts from: the input picture in the size that is drawn; its latents, brought
# to that size; or the picture with noise, or nothing, for the latents of what its mask shows.
Start = Literal["picture", "latents", "noise", "nothing"]
# How a picture is brought from the first pass to the second: as latents, or as pixels.
Between = Literal[
    "bilinear",
    "bilinear-antialias",
    "bicubic",
    "bicubic-antialias",
    "nearest",
    "nearest-exact",
    "lanczos-pixels",
    "nearest-pixels",
]
# How a picture is encoded; what each is, is `formats`' matter.
Format = Literal["png", "jpeg", "webp", "gif"]

_MAX_SUBSEED = 2**62


@dataclass(frozen=True)
class FirstPass:
    """A smaller picture that text-to-image draws first, and draws over in the job's size.

    The job's `strength` is how far the second pass leaves it. `steps` are the second pass's.
    """

    width: int
    height: int
    steps: int
    between: Between


@dataclass(frozen=True)
class Finer:
    """What is asked for beyond a job's own fields; by default nothing.

    With a `subseed_strength`, pictures differ by their subseeds, and the job's seed is that of all
    of them.
    """

    first_pass: FirstPass | None = None
    subseed: int = 0
    subseed_strength: float = 0.0
    start: Start = "picture"
    format: Format = "png"

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Finer:
        """Return what is stored with a job."""
        first = stored.get("first_pass")
        return cls(**{**stored, "first_pass": None if first is None else FirstPass(**first)})


def check(
    spec: ModelSpec,
    pipeline: str,
    asked: Finer,
    size: Size,
    errors: list[FieldError],
    *,
    masked: bool,
) -> None:
    """Add an error for each thing that the model cannot do, or that is out of bounds."""
    text = pipeline == "text-to-image"
    wanted = {
        "first_pass": (asked.first_pass is not None, text and "image-to-image" in spec.pipelines),
        "subseed_strength": (asked.subseed_strength != 0, text),
        "start": (asked.start != "picture", pipeline == "image-to-image"),
    }
    errors.extend(
        FieldError(name, f"cannot be had of {spec.model_id} for {pipeline}")
        for name, (is_asked, possible) in wanted.items()
        if is_asked and not (possible and spec.has_plain_latents)
    )
    if not 0 <= asked.subseed_strength <= 1:
        errors.append(FieldError("subseed_strength", "must be from 0 to 1"))
    between(asked.subseed, 0, _MAX_SUBSEED, "subseed", errors)
    if asked.start != "picture" and masked == (asked.start == "latents"):
        said = "cannot be combined with a mask" if masked else "needs a mask"
        errors.append(FieldError("start", said))
    if asked.first_pass is not None:
        _check_first_pass(spec, asked.first_pass, size, errors)


def within(spec: ModelSpec, asked: Finer) -> Finer:
    """Bring what is asked into what a distilled model can do: its second pass's steps."""
    if asked.first_pass is None or spec.run_steps is None:
        return asked
    low, high = spec.run_steps
    steps = min(max(asked.first_pass.steps, low), high)
    return replace(asked, first_pass=replace(asked.first_pass, steps=steps))


def _check_first_pass(
    spec: ModelSpec, first: FirstPass, size: Size, errors: list[FieldError]
) -> None:
    for name, pixels, most in (("width", first.width, size[0]), ("height", first.height, size[1])):
        between(pixels, spec.min_size, most, f"first_pass.{name}", errors)
        if pixels % spec.size_multiple:
            said = f"is {pixels}; it must be a multiple of {spec.size_multiple}"
            errors.append(FieldError(f"first_pass.{name}", said))
    between(first.steps, 1, spec.max_steps, "first_pass.steps", errors)
