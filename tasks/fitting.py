"""Bringing an input picture to the size that is asked for, as the Stable Diffusion web UI does."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tasks.inputs import CheckedImage

if TYPE_CHECKING:
    from PIL.Image import Image

Mode = Literal["stretch", "crop", "fill"]


@dataclass(frozen=True)
class Fit:
    """The size to bring a picture to, in pixels, and what becomes of another shape.

    It is stretched; cropped to the middle of it; or shown whole, its edges drawn out to the border.
    """

    width: int
    height: int
    mode: Mode = "stretch"


def fitted(picture: CheckedImage, fit: Fit) -> CheckedImage:
    """Return a checked picture in another size."""
    from PIL import Image as Pillow

    size = (fit.width, fit.height)
    if (picture.width, picture.height) == size:
        return picture
    with Pillow.open(io.BytesIO(picture.png)) as opened:
        made = _fitted(opened.convert("RGB"), size, fit.mode)
    out = io.BytesIO()
    made.save(out, "PNG", compress_level=1)  # as it came
    return CheckedImage(out.getvalue(), *size)


def cropped(picture: CheckedImage, width: int, height: int) -> CheckedImage:
    """Return the middle of a checked picture, as large as it can be in the shape of a size."""
    from PIL import Image as Pillow

    by = max(width / picture.width, height / picture.height)
    sides = [max(1, round(width / by)), max(1, round(height / by))]
    left, top = (picture.width - sides[0]) // 2, (picture.height - sides[1]) // 2
    with Pillow.open(io.BytesIO(picture.png)) as opened:
        made = opened.crop((left, top, left + sides[0], top + sides[1]))
    out = io.BytesIO()
    made.save(out, "PNG", compress_level=1)  # as it came
    return CheckedImage(out.getvalue(), made.width, made.height)


def _fitted(picture: Image, size: tuple[int, int], mode: Mode) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageOps

    if mode == "stretch":
        return picture.resize(size, Pillow.Resampling.LANCZOS)
    if mode == "crop":
        return ImageOps.fit(picture, size, Pillow.Resampling.LANCZOS)
    whole = ImageOps.contain(picture, size, Pillow.Resampling.LANCZOS)
    made = Pillow.new("RGB", size)
    left, top = (size[0] - whole.width) // 2, (size[1] - whole.height) // 2
    right, bottom = left + whole.width, top + whole.height
    if whole.width < size[0]:
        made.paste(whole.crop((0, 0, 1, whole.height)).resize((max(left, 1), size[1])), (0, 0))
        edge = whole.crop((whole.width - 1, 0, whole.width, whole.height))
        made.paste(edge.resize((size[0] - right, size[1])), (right, 0))
    if whole.height < size[1]:
        made.paste(whole.crop((0, 0, whole.width, 1)).resize((size[0], max(top, 1))), (0, 0))
        edge = whole.crop((0, whole.height - 1, whole.width, whole.height))
        made.paste(edge.resize((size[0], size[1] - bottom)), (0, bottom))
    made.paste(whole, (left, top))
    return made
