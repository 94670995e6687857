"""Masks: what is cut out, filled and put back, on pictures small enough to be looked at."""

from __future__ import annotations

import io
from typing import cast

import pytest
from PIL import Image
from PIL.Image import Image as Picture

from tasks import masks
from tasks.errors import InvalidImage
from tasks.inputs import CheckedImage


def checked(picture: Picture) -> CheckedImage:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return CheckedImage(out.getvalue(), *picture.size)


def mask_of(box: masks.Box, size: tuple[int, int] = (32, 24)) -> Picture:
    mask = Image.new("L", size, "black")
    mask.paste("white", box)
    return mask


def pixel(picture: Picture, place: tuple[int, int]) -> tuple[int, ...]:
    return cast("tuple[int, ...]", picture.getpixel(place))


BOX = (8, 6, 16, 12)


@pytest.mark.parametrize("inverted", [False, True])
def test_white_is_drawn_unless_it_is_the_other_way_round(*, inverted: bool) -> None:
    found = masks.read(checked(mask_of(BOX).convert("RGB")), inverted=inverted, blur=0)
    inside, outside = found.getpixel((10, 8)), found.getpixel((0, 0))
    assert (inside, outside) == ((0, 255) if inverted else (255, 0))


def test_blur_softens_the_edge_and_nothing_far_from_it() -> None:
    found = masks.read(checked(mask_of((0, 0, 16, 24)).convert("RGB")), inverted=False, blur=2)
    edge = found.getpixel((16, 12))
    assert isinstance(edge, int | float)
    assert 0 < edge < 255
    assert (found.getpixel((0, 12)), found.getpixel((31, 12))) == (255, 0)


@pytest.mark.parametrize(("colour", "inverted"), [("black", False), ("white", True)])
def test_a_mask_that_shows_nothing_is_refused(colour: str, *, inverted: bool) -> None:
    with pytest.raises(InvalidImage, match="Paint white"):
        masks.read(checked(Image.new("RGB", (8, 8), colour)), inverted=inverted, blur=0)


@pytest.mark.parametrize(
    ("box", "padding", "shape", "found"),
    [
        (BOX, 0, (4, 3), BOX),  # 8 x 6 has that shape
        (BOX, 0, (1, 1), (8, 5, 16, 13)),
        (BOX, 2, (4, 3), (6, 4, 19, 14)),
        ((0, 0, 4, 4), 0, (2, 1), (0, 0, 8, 4)),  # as far as there is room
        ((28, 20, 32, 24), 0, (2, 1), (24, 20, 32, 24)),
        ((0, 0, 32, 24), 9, (1, 1), (0, 0, 32, 24)),
        ((0, 0, 32, 4), 0, (1, 4), (0, 0, 32, 24)),
    ],
)
def test_what_is_cut_out_has_the_shape_of_what_is_drawn(
    box: masks.Box, padding: int, shape: tuple[int, int], found: masks.Box
) -> None:
    around = masks.around(mask_of(box), padding, *shape)
    assert around == found
    left, top, right, bottom = around
    assert left <= box[0] <= box[2] <= right
    assert top <= box[1] <= box[3] <= bottom


def test_a_hole_is_filled_with_the_colours_around_it() -> None:
    picture = Image.new("RGB", (32, 24), "red")
    picture.paste("blue", (0, 12, 32, 24))
    picture.paste("white", BOX)  # what is under the mask has no say
    made = masks.filled(picture, mask_of(BOX))
    assert pixel(made, (0, 0)) == (255, 0, 0)
    assert pixel(made, (31, 23)) == (0, 0, 255)
    red, green, blue = pixel(made, (12, 8))
    assert red > 64
    assert green < 16
    assert red + blue > 200


def test_a_picture_and_its_mask_are_one_file() -> None:
    picture, mask = Image.new("RGB", (32, 24), "teal"), mask_of(BOX)
    both = masks.joined(picture, mask)
    assert (both.width, both.height, both.masked) == (32, 24, True)
    opened = Image.open(io.BytesIO(both.png))
    assert opened.getchannel("A").tobytes() == mask.tobytes()
    assert opened.convert("RGB").tobytes() == picture.tobytes()
    assert masks.opened(both).tobytes() == picture.tobytes()


def test_what_was_drawn_goes_back_where_it_was_cut_out_and_nowhere_else() -> None:
    whole = Image.linear_gradient("L").resize((32, 24)).convert("RGB")
    cut = masks.Cut(whole, mask_of(BOX), (4, 3, 20, 15))
    made = masks.put_back(Image.new("RGB", (64, 48), "red"), cut)
    assert made.size == whole.size
    assert made.crop(BOX).getcolors() == [(8 * 6, (255, 0, 0))]
    around = made.copy()
    around.paste(whole.crop(BOX), BOX[:2])
    assert around.tobytes() == whole.tobytes()
