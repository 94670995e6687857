"""Input pictures: what is refused, with which advice, and what an accepted one becomes."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tasks.errors import InvalidImage
from tasks.inputs import CheckedImage, checked_image, decode_base64

MAX_BYTES = 2_000_000
MAX_PIXELS = 4096 * 4096


def check(data: bytes) -> CheckedImage:
    return checked_image(data, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)


def opened(checked: CheckedImage) -> Image.Image:
    picture = Image.open(io.BytesIO(checked.png))
    picture.load()
    return picture


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def quadrants(mode: str = "RGB") -> Image.Image:
    """Red, green, blue and white: enough to see which way is up."""
    picture = Image.new("RGB", (64, 32), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 31, 15), fill="red")
    draw.rectangle((32, 0, 63, 15), fill="green")
    draw.rectangle((0, 16, 31, 31), fill="blue")
    return picture.convert(mode)


def near(pixel: object, colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(int(a) - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png_file(width: int, height: int, pixels: bytes, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # one bit, grey
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            *extra,
            png_chunk(b"IDAT", pixels),
            png_chunk(b"IEND", b""),
        )
    )


def png_bomb() -> bytes:
    """A small file of 9000x9000 pixels: it would take 243 MB as RGB."""
    row = b"\x00" + b"\x00" * (9000 // 8)
    return png_file(9000, 9000, zlib.compress(row * 9000, 9))


def webp_of_claimed_size(side: int) -> bytes:
    """The header of an animated WebP canvas that is never painted."""
    size = struct.pack("<I", side - 1)[:3]
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x02\x00\x00\x00" + size + size
    animation = b"ANIM" + struct.pack("<I", 6) + b"\x00" * 6
    body = b"WEBP" + canvas + animation
    return b"RIFF" + struct.pack("<I", len(body)) + body


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"this is no picture", "not a picture"),
    "svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture"),
    "html": (lambda: b"<html><script>alert(1)</script></html>", "not a picture"),
    "tiff": (lambda: encoded(quadrants(), "TIFF"), "not a picture"),
    "bmp": (lambda: encoded(quadrants(), "BMP"), "not a picture"),
    "ico": (lambda: encoded(quadrants(), "ICO"), "not a picture"),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "truncated png": (lambda: encoded(quadrants())[:-40], "damaged"),
    "truncated jpeg": (lambda: encoded(quadrants(), "JPEG")[:-100], "damaged"),
    "truncated webp": (lambda: encoded(quadrants(), "WEBP", lossless=True)[:-30], "damaged"),
    "truncated gif": (lambda: encoded(quadrants("P"), "GIF")[:200], "damaged"),
    "png signature only": (lambda: b"\x89PNG\r\n\x1a\n", "not a picture"),
    "png with wrong checksums": (
        lambda: encoded(quadrants()).replace(b"IDAT", b"IDAT\x00", 1),
        "damaged",
    ),
    "bomb": (png_bomb, "9000x9000"),
    "huge dimensions": (lambda: png_file(2**31 - 1, 2**31 - 1, zlib.compress(b"")), "pixels"),
    "wide and flat": (lambda: png_file(2**31 - 1, 1, zlib.compress(b"")), "pixels"),
    "huge webp canvas": (lambda: webp_of_claimed_size(16383), "pixels|not a picture|damaged"),
    "text bomb": (
        lambda: png_file(
            1,
            1,
            zlib.compress(b"\x00\x00"),
            png_chunk(b"zTXt", b"k\x00\x00" + zlib.compress(b"\x00" * 200_000_000, 9)),
        ),
        "damaged|not a picture",
    ),
    "too many bytes": (lambda: encoded(quadrants()) + b"\x00" * MAX_BYTES, "bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_refused_with_advice(name: str) -> None:
    make, message = HOSTILE[name]
    with pytest.raises(InvalidImage, match=message):
        check(make())


# The peak of resident memory, because decoders allocate where Python does not look.
PEAK_PROGRAM = """
import resource, sys
from pathlib import Path
from PIL import Image
from tasks.errors import InvalidImage
from tasks.inputs import checked_image

def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

first, *hostile = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
checked_image(first, max_bytes=2_000_000, max_pixels=4096 * 4096)
before = peak_kib()
for data in hostile:
    try:
        checked_image(data, max_bytes=2_000_000, max_pixels=4096 * 4096)
    except InvalidImage:
        continue
    raise SystemExit("accepted")
print(peak_kib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_hostile_input_costs_little_memory(tmp_path: Path) -> None:
    (tmp_path / "00").write_bytes(encoded(quadrants()))
    for number, (make, _) in enumerate(HOSTILE.values(), 1):
        (tmp_path / f"{number:02}").write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PEAK_PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 64 * 1024  # KiB, where the bomb alone asks for 243 MB


def test_the_bomb_is_the_known_one() -> None:
    assert len(png_bomb()) < 10_000


def test_the_bound_counts_pixels_not_sides() -> None:
    data = encoded(quadrants())
    assert checked_image(data, max_bytes=10_000, max_pixels=64 * 32).width == 64
    with pytest.raises(InvalidImage, match="64x32"):
        checked_image(data, max_bytes=10_000, max_pixels=64 * 32 - 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_accepted_format_becomes_a_plain_rgb_png(kind: str) -> None:
    picture = opened(check(encoded(quadrants(), kind)))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (64, 32))
    assert near(picture.getpixel((8, 4)), (255, 0, 0))
    assert near(picture.getpixel((8, 24)), (0, 0, 255))


def test_the_content_decides_not_what_follows_it() -> None:
    archive = b"PK\x03\x04 and a script: <script>alert(1)</script>"
    checked = check(encoded(quadrants()) + archive)
    assert archive not in checked.png
    assert opened(checked).size == (64, 32)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("P", (20, 10), shade) for shade in (1, 2, 3)]
    palette = [0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255]
    for frame in frames:
        frame.putpalette(palette)
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    picture = opened(check(data))
    assert picture.getpixel((5, 5)) == (255, 0, 0)
    assert getattr(picture, "n_frames", 1) == 1


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    picture = opened(check(encoded(quadrants("CMYK"), "JPEG", quality=95)))
    assert picture.mode == "RGB"
    assert near(picture.getpixel((8, 4)), (255, 0, 0), tolerance=20)


def test_what_is_transparent_becomes_white() -> None:
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(1, (4, 0, 8, 8))
    picture = opened(check(encoded(palette, transparency=0)))
    assert picture.getpixel((1, 1)) == (255, 255, 255)
    assert picture.getpixel((6, 1)) == (255, 0, 0)

    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert near(opened(check(encoded(half))).getpixel((1, 1)), (127, 127, 127))


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    deep = Image.new("I;16", (4, 1))
    for x, value in enumerate((0, 128 * 256, 200 * 256, 65535)):
        deep.putpixel((x, 0), value)
    picture = opened(check(encoded(deep)))
    assert [picture.getpixel((x, 0)) for x in range(4)] == [
        (shade, shade, shade) for shade in (0, 128, 200, 255)
    ]


def test_a_photo_taken_sideways_is_turned_upright_and_loses_its_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    exif[0x010F] = "a camera's name"
    data = encoded(quadrants(), "JPEG", exif=exif, quality=95, comment=b"where I live")
    checked = check(data)
    picture = opened(checked)
    assert (checked.width, checked.height) == picture.size == (32, 64)
    # The lower left of the file, blue, is the upper left of the upright picture.
    assert near(picture.getpixel((4, 8)), (0, 0, 255), tolerance=20)
    assert b"camera" not in checked.png
    assert b"where" not in checked.png
    assert not picture.getexif()


def test_colour_profiles_and_comments_are_not_carried_over() -> None:
    data = encoded(quadrants(), "PNG", icc_profile=b"a profile" * 20)
    assert set(opened(check(data)).info) == set()


def test_base64_and_data_urls_decode() -> None:
    text = base64.b64encode(b"picture bytes").decode()
    assert decode_base64(text) == b"picture bytes"
    assert decode_base64(f"  {text[:8]}\n{text[8:]}\r\n") == b"picture bytes"
    assert decode_base64(f"data:image/png;base64,{text}") == b"picture bytes"
    assert decode_base64(f"DATA:;BASE64,{text}") == b"picture bytes"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://example.com/cat.png", "not fetched"),
        ("HTTP://169.254.169.254/latest", "not fetched"),
        ("s3://bucket/cat.png", "not fetched"),
        ("file:///etc/passwd", "not fetched"),
        ("data:image/svg+xml,%3Csvg/%3E", "not base64"),
        ("data:image/png;base64", "not base64"),
        ("not base64 at all!", "not valid base64"),
        ("YWJj*ZGVm", "not valid base64"),
        ("YWJ", "not valid base64"),
        ("YWJjé", "not valid base64"),
    ],
)
def test_what_is_not_base64_is_refused_with_advice(text: str, message: str) -> None:
    with pytest.raises(InvalidImage, match=message):
        decode_base64(text)
