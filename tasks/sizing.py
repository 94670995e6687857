"""How large what is made of a request is, within what its model can do. Pure.

The size of text-to-image is asked for, that of image-to-image is its picture's, and upscaling makes
a picture larger.
"""

from __future__ import annotations

from tasks.catalog import ModelSpec
from tasks.errors import FieldError

Size = tuple[int, int]
Asked = tuple[int | None, int | None]
_SIDES = ("width", "height")


def size(
    spec: ModelSpec, pipeline: str, asked: Asked, image: Size | None, errors: list[FieldError]
) -> Size:
    """Return the (width, height) of what is made, rounded up to the model's multiple.

    `image` is the size of the input picture. What is wrong is added to the errors.
    """
    if pipeline == "text-to-image":
        width, height = _of_text(spec, asked, image, errors)
    elif image is None:
        errors.append(FieldError("image", f"{pipeline} needs an input picture"))
        return 0, 0
    elif pipeline == "upscale":
        width, height = _larger(spec, asked, image, errors)
    else:
        width, height = _of_image(spec, asked, image, errors)
    multiple = spec.size_multiple
    return -(-width // multiple) * multiple, -(-height // multiple) * multiple


def between(value: int, low: int, high: int, field: str, errors: list[FieldError]) -> None:
    """Add an error for a number that is out of its bounds."""
    if not low <= value <= high:
        errors.append(FieldError(field, f"is {value}; it must be from {low} to {high}"))


def _of_text(spec: ModelSpec, asked: Asked, image: Size | None, errors: list[FieldError]) -> Size:
    if image is not None:
        errors.append(FieldError("image", "text-to-image takes no input picture"))
    width = spec.default_width if asked[0] is None else asked[0]
    height = spec.default_height if asked[1] is None else asked[1]
    for name, pixels in zip(_SIDES, (width, height), strict=True):
        between(pixels, spec.min_size, spec.max_size, name, errors)
    return width, height


def _of_image(spec: ModelSpec, asked: Asked, image: Size, errors: list[FieldError]) -> Size:
    errors.extend(
        FieldError(name, "image-to-image takes its size from the picture; leave it out")
        for name, pixels in zip(_SIDES, asked, strict=True)
        if pixels is not None
    )
    width, height = image
    low, high = spec.min_size, spec.max_size
    if not (low <= width <= high and low <= height <= high):
        said = f"is {width}x{height} pixels; {spec.model_id} takes {low} to {high} a side"
        errors.append(FieldError("image", said))
    return width, height


def _larger(spec: ModelSpec, asked: Asked, image: Size, errors: list[FieldError]) -> Size:
    """Return the size of an upscaled picture: as asked, or what the model itself makes of it.

    What a network makes is never smaller than the picture, which would be to pay for nothing, and
    never larger than its factor: beyond that, there would be pixels that nobody has drawn.
    """
    factor, most = spec.factor, spec.max_size
    if max(image) * (factor or 1) > most:
        said = f"{spec.model_id} takes at most {most // (factor or 1)} a side"
        errors.append(FieldError("image", f"is {image[0]}x{image[1]} pixels; {said}"))
        return image
    sides = []
    for name, pixels, wanted in zip(_SIDES, image, asked, strict=True):
        if wanted is None and factor is None:
            errors.append(FieldError(name, f"is required; {spec.model_id} makes any size"))
        side = pixels * (factor or 1) if wanted is None else wanted
        low, high = (pixels, pixels * factor) if factor else (spec.min_size, most)
        between(side, low, high, name, errors)
        sides.append(side)
    return sides[0], sides[1]
