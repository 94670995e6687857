"""Masks: which parts of an input picture are drawn anew. White is; black stays as it is.

A picture and its mask are kept as one: the mask is the alpha channel of the PNG. Owns cutting out
what surrounds a mask, and putting what was drawn back. Who draws is the engine.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import InvalidImage
from tasks.inputs import CheckedImage

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]
# From far to near: what is left of the surroundings reaches into the hole, nearer ones on top.
_FILLS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))


@dataclass(frozen=True)
class Cut:
    """What was cut out of a picture to be drawn larger, and where it goes back to."""

    picture: Image
    mask: Image
    box: Box


def opened(picture: CheckedImage) -> Image:
    """Return a checked picture's pixels."""
    from PIL import Image as Pillow

    return Pillow.open(io.BytesIO(picture.png)).convert("RGB")


def read(mask: CheckedImage, *, inverted: bool, blur: float) -> Image:
    """Return a mask as grey, with soft edges.

    Raises:
        InvalidImage: Nothing in it is white.
    """
    from PIL import ImageFilter, ImageOps

    grey = opened(mask).convert("L")
    if inverted:
        grey = ImageOps.invert(grey)
    if grey.getbbox() is None:
        raise InvalidImage("The mask is black all over, so there is nothing to draw. Paint white.")
    return grey.filter(ImageFilter.GaussianBlur(blur)) if blur else grey


def around(mask: Image, padding: int, width: int, height: int) -> Box:
    """Return the box about a mask that has the shape of what is drawn, as far as there is room."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    left, right = max(0, left - padding), min(mask.width, right + padding)
    top, bottom = max(0, top - padding), min(mask.height, bottom + padding)
    wide = max(right - left, round((bottom - top) * width / height))
    high = max(bottom - top, round((right - left) * height / width))
    left, right = _widened(left, right, wide, mask.width)
    top, bottom = _widened(top, bottom, high, mask.height)
    return left, top, right, bottom


def _widened(low: int, high: int, wanted: int, most: int) -> tuple[int, int]:
    wanted = min(wanted, most)
    low = max(0, low - (wanted - (high - low)) // 2)
    return (low, low + wanted) if low + wanted <= most else (most - wanted, most)


def filled(picture: Image, mask: Image) -> Image:
    """Return a picture whose masked part is made of the colours around it."""
    from PIL import Image as Pillow
    from PIL import ImageFilter, ImageOps

    rest = Pillow.new("RGBa", picture.size)
    rest.paste(picture.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(mask))
    made = Pillow.new("RGBA", picture.size)
    for radius, times in _FILLS:
        blurred = rest.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            made.alpha_composite(blurred)
    return made.convert("RGB")


def joined(picture: Image, mask: Image) -> CheckedImage:
    """Return a picture and its mask as one."""
    both = picture.copy()
    both.putalpha(mask)
    out = io.BytesIO()
    both.save(out, "PNG", compress_level=1)  # as an input without a mask
    return CheckedImage(out.getvalue(), both.width, both.height, masked=True)


def put_back(made: Image, cut: Cut) -> Image:
    """Return the whole picture with what was drawn in its place."""
    from PIL import Image as Pillow

    left, top, right, bottom = cut.box
    whole = cut.picture.copy()
    whole.paste(made.resize((right - left, bottom - top), Pillow.Resampling.LANCZOS), (left, top))
    return Pillow.composite(whole, cut.picture, cut.mask)
