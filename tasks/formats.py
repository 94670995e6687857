"""What kinds of picture files there are: how each is recognised, named and written.

A file is what its first bytes say, never what its name or a client says. Untrusted files are
`inputs`' matter.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.errors import InferenceError
from tasks.finer import Format

if TYPE_CHECKING:
    from PIL.Image import Exif, Image

_EXIF, _USER_COMMENT = 0x8769, 0x9286


@dataclass(frozen=True)
class Kind:
    """A kind of picture file. `options` are how we write one."""

    format: Format
    content_type: str
    extension: str
    options: Mapping[str, Any]


# Level 1 takes a sixth of the default's time for a 1024x1024 PNG and a few percent more bytes;
# generated pictures are too noisy for more effort to pay.
PNG = Kind("png", "image/png", ".png", {"compress_level": 1})
JPEG = Kind("jpeg", "image/jpeg", ".jpg", {"quality": 95, "subsampling": 0})
WEBP = Kind("webp", "image/webp", ".webp", {"quality": 95})
GIF = Kind("gif", "image/gif", ".gif", {})
KINDS: Mapping[Format, Kind] = {one.format: one for one in (PNG, JPEG, WEBP, GIF)}
# What a file begins with, what it has at its eighth byte, and what it then is.
_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", b"", PNG),
    (b"\xff\xd8\xff", b"", JPEG),
    (b"RIFF", b"WEBP", WEBP),
    (b"GIF87a", b"", GIF),
    (b"GIF89a", b"", GIF),
)


def recognised(data: bytes) -> Kind:
    """Return what kind of picture a file is, by its content.

    Raises:
        InferenceError: It is none that we deliver.
    """
    for start, later, kind in _BEGINNINGS:
        if data.startswith(start) and data.startswith(later, 8):
            return kind
    raise InferenceError(f"A result is no picture: it begins with {data[:8]!r}.")


def encoded(picture: Image, kind: Kind, texts: Mapping[str, str]) -> bytes:
    """Return a picture as a file that says how it was made.

    A PNG says so in text chunks of these names; others have one comment, in which
    `parameters`, as the Stable Diffusion web UI calls it, stands alone if it is there.
    """
    out = io.BytesIO()
    picture.save(out, kind.format, **kind.options, **_said(kind, texts))
    return out.getvalue()


def _said(kind: Kind, texts: Mapping[str, str]) -> dict[str, Any]:
    from PIL.PngImagePlugin import PngInfo

    if kind is PNG:
        info = PngInfo()
        for name, text in texts.items():
            info.add_text(name, text)
        return {"pnginfo": info}
    comment = texts.get("parameters") or "\n".join(f"{name}: {one}" for name, one in texts.items())
    return {"comment": comment.encode()} if kind is GIF else {"exif": _exif(comment)}


def _exif(comment: str) -> Exif:
    from PIL.Image import Exif

    found = Exif()
    # Eight bytes say in which encoding a comment is.
    found.get_ifd(_EXIF)[_USER_COMMENT] = b"UNICODE\0" + comment.encode("utf-16-be")
    return found
