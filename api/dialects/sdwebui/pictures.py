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
from uuid import UUID

from api import orders, parsing
from api.dialects.sdwebui.fields import ImageToImage
from api.runtime import Runtime
from tasks import fitting, formats, masks
from tasks.errors import FieldError, InvalidParams
from tasks.fitting import Fit, Mode
from tasks.formats import Kind
from tasks.inputs import CheckedImage

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES: tuple[Mode, ...] = ("stretch", "crop", "fill")
_MAX_BLUR = 64
_MAX_FILL = 3
_MAX_PADDING = 1024
_MAX_SEEN = 2048
# Length, name and checksum frame a PNG's first chunk of 13 bytes, which follows eight bytes.
_AFTER_HEADER = 8 + 4 + 4 + 13 + 4


@dataclass(frozen=True)
class Input:
    """The picture that a job starts from, and where what it draws goes back to, if anywhere.

    `fit` is the size that its worker brings it to, where that is not done here.
    """

    picture: CheckedImage
    cut: masks.Cut | None = None
    fit: Fit | None = None


def read(runtime: Runtime, gateway_id: UUID, fields: ImageToImage) -> Input:
    """Return the input of a request whose size is one that its model takes.

    Raises:
        InvalidParams: There is none, or there are several; or one cannot be treated as is asked.
        InvalidImage, LinksBusy, LinkLimit: It, or its mask, cannot be used.
    """
    _check(fields)
    picture = orders.checked(runtime, gateway_id, parsing.picture_of(fields.init_images[0]))
    if fields.resize_mode == len(_MODES):
        return Input(_bounded(picture), fit=Fit(fields.width, fields.height))
    fit = Fit(fields.width, fields.height, _MODES[fields.resize_mode])
    if not fields.mask:
        return Input(fitting.fitted(picture, fit))
    shown = orders.checked(runtime, gateway_id, parsing.picture_of(fields.mask))
    if (shown.width, shown.height) != (picture.width, picture.height):
        shown = fitting.fitted(shown, Fit(picture.width, picture.height))
    if fields.inpaint_full_res:
        return _cut_out(fields, picture, shown)
    mask = _mask(fields, fitting.fitted(shown, fit))
    return Input(_joined(fields, masks.opened(fitting.fitted(picture, fit)), mask))


def _bounded(picture: CheckedImage) -> CheckedImage:
    """Return a picture that a worker's network sees as a whole.

    Raises:
        InvalidParams: It is too large for that.
    """
    if max(picture.width, picture.height) > _MAX_SEEN:
        said = f"is {picture.width}x{picture.height}; resize_mode 3 takes {_MAX_SEEN} a side"
        raise InvalidParams([FieldError("init_images", said)])
    return picture


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
    if not 0 <= fields.resize_mode <= len(_MODES):
        errors.append(FieldError("resize_mode", "must be 0, 1, 2 or 3"))
    if fields.mask and not 0 <= fields.inpainting_fill <= _MAX_FILL:
        errors.append(FieldError("inpainting_fill", f"must be from 0 to {_MAX_FILL}"))
    errors += [
        FieldError(name, "must be mask_blur: both ways are blurred alike")
        for name in ("mask_blur_x", "mask_blur_y")
        if getattr(fields, name) not in (None, fields.mask_blur)
    ]
    if not 0 <= fields.mask_blur <= _MAX_BLUR:
        errors.append(FieldError("mask_blur", f"must be from 0 to {_MAX_BLUR}"))
    if not 0 <= fields.inpaint_full_res_padding <= _MAX_PADDING:
        errors.append(FieldError("inpaint_full_res_padding", f"must be from 0 to {_MAX_PADDING}"))
    if errors:
        raise InvalidParams(errors)


# --- outputs ----------------------------------------------------------------------------------


def finished(data: bytes, cut: masks.Cut | None, text: str, kind: Kind = formats.PNG) -> bytes:
    """Return an output as a file that says how it was made; put back to where it was cut out."""
    if cut is None and kind is formats.PNG:
        return _with_text(data, text)
    whole = _opened(data) if cut is None else masks.put_back(_opened(data), cut)
    return formats.encoded(whole, kind, {"parameters": text})


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
    return formats.encoded(whole, formats.PNG, {})


def encoded(data: bytes) -> str:
    """Return base64."""
    return base64.b64encode(data).decode()


def _opened(data: bytes) -> Image:
    from PIL import Image as Pillow

    return Pillow.open(io.BytesIO(data)).convert("RGB")


def _with_text(png: bytes, text: str) -> bytes:
    """Return a PNG with a chunk more, where the WebUI and its friends look for it."""
    body = b"iTXt" + b"parameters\x00\x00\x00\x00\x00" + text.encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:_AFTER_HEADER] + chunk + png[_AFTER_HEADER:]
