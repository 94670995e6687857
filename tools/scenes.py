"""The world of the demo models: one coloured shape on a plain background.

Owns what a scene is, how it is drawn, and which combinations no model is trained on. How a scene
is put into words is `captions`', and how a picture is read back is `checker`'s.
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw

SIDE = 64
COLOURS = {
    "red": (215, 35, 40),
    "orange": (240, 135, 25),
    "yellow": (245, 220, 50),
    "green": (40, 155, 65),
    "cyan": (70, 205, 220),
    "blue": (35, 75, 205),
    "purple": (125, 50, 160),
    "pink": (245, 140, 190),
}
BACKGROUNDS = {
    "white": (245, 245, 245),
    "black": (18, 18, 18),
    "gray": (128, 128, 128),
    **COLOURS,
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart")
# Half of a shape's width in pixels, more or less. A caption that names no size fits all of them.
SIZES = {"small": (15.0, 16.5), "medium": (17.0, 19.0), "large": (20.0, 22.5)}
PLACES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "middle": (0, 0)}

_SUPERSAMPLING = 4
_LEAN_DEGREES = 7.0
_MARGIN = 1.0
# Of the way from an outlined shape's edge to its centre. Thinner lines have gaps in the latents,
# and broader ones close a star's hole.
_STROKE = 0.46


@dataclass(frozen=True)
class Scene:
    """One picture, described. `tint` is added to the shape's and the background's colour."""

    shape: str
    colour: str
    background: str
    size: str
    place: str
    radius: float
    x: float
    y: float
    angle: float
    tint: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
    outlined: bool = False


def is_held_out(shape: str, colour: str, background: str) -> bool:
    """Return whether a combination is kept from training: about one in eight, always the same."""
    return zlib.crc32(f"{colour} {shape} on {background}".encode()) % 8 == 0


@cache
def combinations(*, held_out: bool) -> tuple[tuple[str, str, str], ...]:
    """Return the (shape, colour, background) that are held out, or those that are not."""
    return tuple(
        (shape, colour, background)
        for shape in SHAPES
        for colour in COLOURS
        for background in BACKGROUNDS
        if colour != background and is_held_out(shape, colour, background) == held_out
    )


def draw_scene(
    rng: random.Random,
    combination: tuple[str, str, str],
    *,
    spread: int = 6,
    outlined: bool = False,
) -> Scene:
    """Return a scene of this combination, at random in all else; colours vary by `spread`."""
    size = rng.choice(tuple(SIZES))
    place = rng.choice(tuple(PLACES))
    radius = rng.uniform(*SIZES[size])
    x, y = (_coordinate(rng, radius, side) for side in PLACES[place])
    red, green, blue, *others = (rng.randint(-spread, spread) for _ in range(6))
    return Scene(
        *combination,
        size=size,
        place=place,
        radius=radius,
        x=x,
        y=y,
        angle=rng.uniform(-_LEAN_DEGREES, _LEAN_DEGREES),
        tint=(red, green, blue, others[0], others[1], others[2]),
        outlined=outlined,
    )


def draw_any(rng: random.Random, *, spread: int = 6, outlined: bool = False) -> Scene:
    """Return a scene of any combination that models are trained on."""
    trained = combinations(held_out=False)
    return draw_scene(rng, rng.choice(trained), spread=spread, outlined=outlined)


def _coordinate(rng: random.Random, radius: float, side: int) -> float:
    middle = SIDE / 2
    if side == 0:
        return middle + rng.uniform(-1.5, 1.5)
    # As far out as the shape fits, or up to two pixels nearer.
    room = middle - radius * 1.15 - _MARGIN
    return middle + side * (room - rng.uniform(0.0, 2.0))


def render(scene: Scene) -> Image.Image:
    """Return the scene as a picture of SIDE x SIDE."""
    tint = scene.tint
    inside = _tinted(COLOURS[scene.colour], tint[:3])
    outside = _tinted(BACKGROUNDS[scene.background], tint[3:])
    side = SIDE * _SUPERSAMPLING
    picture = Image.new("RGB", (side, side), outside)
    draw = ImageDraw.Draw(picture)
    draw.polygon(_placed(scene, 1.0), fill=inside)
    if scene.outlined:
        draw.polygon(_placed(scene, 1.0 - _STROKE), fill=outside)
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def contrast(scene: Scene) -> float:
    """Return how far a shape's colour is from its background's, in RGB units."""
    return math.dist(COLOURS[scene.colour], BACKGROUNDS[scene.background])


def cover(scene: Scene, side: int) -> Image.Image:
    """Return how much of each place of a coarse grid the shape covers, as a grey picture."""
    whole = SIDE * _SUPERSAMPLING
    picture = Image.new("L", (whole, whole), 0)
    ImageDraw.Draw(picture).polygon(_placed(scene, 1.0), fill=255)
    return picture.resize((side, side), Image.Resampling.BOX)


def _tinted(colour: tuple[int, ...], tint: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(255, max(0, part + by)) for part, by in zip(colour, tint, strict=True))


def _placed(scene: Scene, scale: float) -> list[tuple[float, float]]:
    turn = math.radians(scene.angle)
    cos, sin = math.cos(turn), math.sin(turn)
    radius = scene.radius * scale
    return [
        (
            (scene.x + radius * (x * cos - y * sin)) * _SUPERSAMPLING,
            (scene.y + radius * (x * sin + y * cos)) * _SUPERSAMPLING,
        )
        for x, y in _outline(scene.shape)
    ]


def _outline(shape: str) -> list[tuple[float, float]]:
    """Return the corners of a shape around its centre, with y pointing down."""
    if shape == "circle":
        return _ring([1.0] * 72)
    if shape == "square":
        return [(-0.87, -0.87), (0.87, -0.87), (0.87, 0.87), (-0.87, 0.87)]
    if shape == "triangle":
        return [(x, y * 0.97) for x, y in _ring([1.25] * 3)]
    if shape == "diamond":
        return [(0.0, -1.2), (0.85, 0.0), (0.0, 1.2), (-0.85, 0.0)]
    if shape == "star":
        return _ring([1.2, 0.5] * 5)
    steps = [math.tau * step / 72 for step in range(72)]
    return [
        (
            16 * math.sin(t) ** 3 / 15.0,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) + 2)
            / 15.0,
        )
        for t in steps
    ]


def _ring(radii: list[float]) -> list[tuple[float, float]]:
    """Return corners at even angles around the centre, the first one on top."""
    turns = [math.tau * number / len(radii) for number in range(len(radii))]
    return [
        (radius * math.sin(turn), -radius * math.cos(turn))
        for radius, turn in zip(radii, turns, strict=True)
    ]
