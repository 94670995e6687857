"""The pictures of a WebUI request: the input and its mask before a job, its outputs after one.

Owns which of them are put together, and in which order; how that is done is `tasks`' matter.
"""

from __future__ import annotations

import base64
import io
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api import orders, parsing
from api.dialects.sdwebui.fields import ImageToImage
from api.runtime import Runtime
from tasks import fitting, masks
from tasks.errors import FieldError, InvalidParams
from tasks.fitting import Fit, Mode
from tasks.inputs import CheckedImage

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES: tuple[Mode, ...] = ("stretch", "crop", "fill")
_MAX_BLUR = 64
_MAX_PADDING = 1024
# Length, name and checksum frame a PNG's first chunk of 13 bytes, which follows eight bytes.
_AFTER_HEADER = 8 + 4 + 4 + 13 + 4


@dataclass(frozen=True)
class Input:
    """The picture that a job starts from, and where what it draws goes back to, if anywhere."""

    picture: CheckedImage
    cut: masks.Cut | None = None


def read(runtime: Runtime, fields: ImageToImage) -> Input:
    """Return the input of a request whose size is one that its model takes.

    Raises:
        InvalidParams: There is none, or there are several; or one cannot be treated as is asked.
        InvalidImage, LinksBusy: It, or its mask, cannot be used.
    """
    _check(fields)
    picture = orders.checked(runtime, parsing.picture_of(fields.init_images[0]))
    fit = Fit(fields.width, fields.height, _MODES[fields.resize_mode])
    if not fields.mask:
        return Input(fitting.fitted(picture, fit))
    shown = orders.checked(runtime, parsing.picture_of(fields.mask))
    if (shown.width, shown.height) != (picture.width, picture.height):
        shown = fitting.fitted(shown, Fit(picture.width, picture.height))
    if fields.inpaint_full_res:
        return _cut_out(fields, picture, shown)
    mask = _mask(fields, fitting.fitted(shown, fit))
    return Input(_joined(fields, masks.opened(fitting.fitted(picture, fit)), mask))


def _cut_out(fields: ImageToImage, picture: CheckedImage, shown: CheckedImage) -> Input:
    from PIL.Image import Resampling

    whole, mask = masks.opened(picture), _mask(fields, shown)
    box = masks.around(mask, fields.inpaint_full_res_padding, fields.width, fields.height)
    size = (fields.width, fields.height)
    part, part_of_mask = (one.crop(box).resize(size, Resampling.LANCZOS) for one in (whole, mask))
    return Input(_joined(fields, part, part_of_mask), masks.Cut(whole, mask, box))


def _mask(fields: ImageToImage, shown: CheckedImage) -> Image:
    return masks.read(
        shown, inverted=bool(fields.inpainting_mask_invert), blur=float(fields.mask_blur)
    )


def _joined(fields: ImageToImage, picture: Image, mask: Image) -> CheckedImage:
    start = masks.filled(picture, mask) if fields.inpainting_fill == 0 else picture
    return masks.joined(start, mask)


def _check(fields: ImageToImage) -> None:
    if not fields.init_images:
        raise InvalidParams([FieldError("init_images", "Init image not found")])
    errors = []
    if len(fields.init_images) > 1:
        errors.append(FieldError("init_images.1", "must be one picture; send a request for each"))
    if not 0 <= fields.resize_mode < len(_MODES):
        errors.append(FieldError("resize_mode", "must be 0, 1 or 2"))
    if fields.mask and fields.inpainting_fill not in (0, 1):
        errors.append(FieldError("inpainting_fill", "must be 0 or 1"))
    if not 0 <= fields.mask_blur <= _MAX_BLUR:
        errors.append(FieldError("mask_blur", f"must be from 0 to {_MAX_BLUR}"))
    if not 0 <= fields.inpaint_full_res_padding <= _MAX_PADDING:
        errors.append(FieldError("inpaint_full_res_padding", f"must be from 0 to {_MAX_PADDING}"))
    if errors:
        raise InvalidParams(errors)


# --- outputs ----------------------------------------------------------------------------------


def finished(data: bytes, cut: masks.Cut | None, text: str) -> bytes:
    """Return an output as a PNG that says how it was made; put back to where it was cut out."""
    if cut is not None:
        data = _png(masks.put_back(_opened(data), cut))
    return _with_text(data, text)


def sheet(made: Sequence[bytes]) -> bytes:
    """Return all pictures on one, in rows that are as long as there are rows."""
    from PIL import Image as Pillow

    pictures = [_opened(one) for one in made]
    rows = max(1, round(math.sqrt(len(pictures))))
    columns = -(-len(pictures) // rows)
    width, height = pictures[0].size
    whole = Pillow.new("RGB", (columns * width, rows * height))
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % columns * width, number // columns * height))
    return _png(whole)


def encoded(data: bytes) -> str:
    """Return base64."""
    return base64.b64encode(data).decode()


def _opened(data: bytes) -> Image:
    from PIL import Image as Pillow

    return Pillow.open(io.BytesIO(data)).convert("RGB")


def _png(picture: Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)  # as the worker's own
    return out.getvalue()


def _with_text(png: bytes, text: str) -> bytes:
    """Return a PNG with a chunk more, where the WebUI and its friends look for it."""
    body = b"iTXt" + b"parameters\x00\x00\x00\x00\x00" + text.encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:_AFTER_HEADER] + chunk + png[_AFTER_HEADER:]
