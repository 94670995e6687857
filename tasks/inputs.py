"""Input pictures: untrusted bytes in, a plain RGB PNG out.

Owns the guard: what is accepted, how large it may be, and what is stripped. Where the bytes come
from is the caller's matter, and how a model uses the picture is the engine's.
"""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import InvalidImage

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_ACCEPTED = "Send a PNG, JPEG, WebP or GIF."
_DATA_URL = "data:"
_LINKS = ("http:", "https:", "s3:", "ftp:", "file:")


@dataclass(frozen=True)
class CheckedImage:
    """A picture that is safe to keep: RGB, upright, without metadata, encoded by us.

    One that is masked has the mask as its alpha channel.
    """

    png: bytes
    width: int
    height: int
    masked: bool = False


def checked_image(data: bytes, *, max_bytes: int, max_pixels: int) -> CheckedImage:
    """Decode a picture by its content and encode it anew.

    Of an animation the first frame is taken; what is transparent becomes white.

    Raises:
        InvalidImage: It is empty, too large, damaged, or no picture; the message says what to do.
    """
    if not data:
        raise InvalidImage(f"The picture is empty. {_ACCEPTED}")
    if len(data) > max_bytes:
        raise InvalidImage(
            f"The picture has {len(data)} bytes, and {max_bytes} are allowed. Send a smaller one."
        )
    picture = _upright_rgb(data, max_pixels)
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)  # fast; the object store has room
    return CheckedImage(out.getvalue(), picture.width, picture.height)


def decode_base64(text: str) -> bytes:
    """Return the bytes of a base64 string or of a `data:` URL.

    Raises:
        InvalidImage: It is a link, or it is not base64.
    """
    content = text.strip()
    if content.lower().startswith(_LINKS):
        raise InvalidImage(
            "Links like this are not fetched. Send the picture itself, as a file or as base64."
        )
    if content[: len(_DATA_URL)].lower() == _DATA_URL:
        head, comma, content = content.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidImage("The data URL is not base64. Begin it with data:image/png;base64,")
    try:
        # Encoders break lines; nothing else may stand between the letters.
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"The picture is not valid base64: {error}.") from error


def _upright_rgb(data: bytes, max_pixels: int) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with Pillow.open(io.BytesIO(data), formats=_FORMATS) as opened:
            _check_pixels(opened.size, max_pixels)
            opened.load()
            return _opaque(ImageOps.exif_transpose(opened))
    except InvalidImage:
        raise
    except UnidentifiedImageError as error:
        raise InvalidImage(f"This is not a picture that we can read. {_ACCEPTED}") from error
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise InvalidImage(_too_many_pixels(max_pixels)) from error
    except Exception as error:  # on hostile bytes, decoders raise whatever they trip over
        raise InvalidImage(f"The picture is damaged and cannot be decoded. {_ACCEPTED}") from error


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Judge by the header, before memory is taken: ten kilobytes can ask for gigabytes."""
    width, height = size
    if width * height > max_pixels:
        raise InvalidImage(f"The picture is {width}x{height}. {_too_many_pixels(max_pixels)}")


def _too_many_pixels(max_pixels: int) -> str:
    return f"At most {max_pixels} pixels are allowed. Send a smaller one."


def _opaque(picture: Image) -> Image:
    """Return the picture in RGB, on white, with nothing of the original file attached."""
    from PIL import Image as Pillow

    if picture.mode.startswith("I"):
        # 16-bit grey: taken as it is, everything above 255 would turn white.
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        ground = Pillow.new("RGBA", layer.size, "white")
        picture = Pillow.alpha_composite(ground, layer)
    plain = picture.convert("RGB")
    plain.info = {}  # profiles and comments would be written again
    return plain
