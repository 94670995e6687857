"""Files that a client downloads: labelled, known by their content, and lossless where that is
asked for."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from tasks import formats
from tasks.errors import InferenceError
from tasks.formats import GIF, JPEG, KINDS, PNG, WEBP, Kind

ORIGIN = {"seed": str(2**62), "model": "maker/model", "model_hash": "6ce0161689", "job_id": "j"}
PICTURE = Image.linear_gradient("L").convert("RGB")


def test_a_png_comes_back_pixel_by_pixel_with_its_origin() -> None:
    decoded = Image.open(io.BytesIO(formats.encoded(PICTURE, PNG, ORIGIN)))
    assert decoded.format == "PNG"
    assert decoded.tobytes() == PICTURE.tobytes()
    assert decoded.info == ORIGIN


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.format)
def test_a_file_is_what_its_content_says(kind: Kind) -> None:
    first, second = (formats.encoded(PICTURE, kind, ORIGIN) for _ in range(2))
    assert first == second
    assert formats.recognised(first) is kind
    decoded = Image.open(io.BytesIO(first))
    assert decoded.format == kind.format.upper()
    assert decoded.get_format_mimetype() == kind.content_type
    assert decoded.size == PICTURE.size


@pytest.mark.parametrize("kind", [JPEG, WEBP, GIF], ids=lambda kind: kind.format)
def test_what_has_no_chunks_has_a_comment(kind: Kind) -> None:
    def comment(texts: dict[str, str]) -> str:
        decoded = Image.open(io.BytesIO(formats.encoded(PICTURE, kind, texts)))
        if kind is GIF:
            return bytes(decoded.info["comment"]).decode()
        found: bytes = decoded.getexif().get_ifd(0x8769)[0x9286]
        assert found[:8] == b"UNICODE\0"
        return found[8:].decode("utf-16-be")

    assert comment(ORIGIN).splitlines()[1] == "model: maker/model"
    assert comment({**ORIGIN, "parameters": "a fox\nSteps: 8"}) == "a fox\nSteps: 8"


@pytest.mark.parametrize(
    "data",
    [b"", b"RIFF\0\0\0\0WAVEfmt ", b"%PDF-1.7", b"\x89PNG", b"<svg/>", b"BM\0\0\0\0\0\0\0\0\0"],
)
def test_what_is_no_picture_is_none_whatever_it_is_called(data: bytes) -> None:
    with pytest.raises(InferenceError, match="no picture"):
        formats.recognised(data)
