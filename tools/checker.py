"""Says what a picture shows, by plain image analysis: no network, no randomness.

Owns the reading of colours, shape and style from pixels. The frame of the picture is the
background, what differs from it is the shape; a shape's name is that of the contour it is nearest
to. What cannot be told with confidence is None, which counts as wrong wherever it is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from tools import scenes

_Array = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]

_FRAME = 2  # pixels of the frame that is taken for the background
_CONTRAST_MIN = 40.0  # of the shape to the background, in RGB units
_COLOUR_MAX = 80.0  # how far a colour may be from the one it is called after, in RGB units
_CLUTTER_MAX = 0.15  # of the shape's area that may lie apart from it
_AREA_MIN = 100  # pixels
_FILLED_MIN = 0.85  # of a silhouette that is the shape's colour, unless it is an outline
_RAYS = 72
_LEAN_RAYS = 2  # a shape may be turned by as many rays, 10 degrees, and still be itself
_CONTOUR_MAX = 0.12  # RMS distance to the nearest contour, of the mean radius


@dataclass(frozen=True)
class Reading:
    """What a picture shows."""

    background: str | None
    colour: str | None
    shape: str | None
    outlined: bool
    x: float
    y: float
    radius: float


def read(picture: Image.Image) -> Reading:
    """Return what a picture of one shape shows."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    behind = np.median(_frame(pixels), axis=0)
    background = _named(behind, scenes.BACKGROUNDS)
    distance = np.linalg.norm(pixels - behind, axis=2)
    peak = float(np.percentile(distance, 98))
    if peak < _CONTRAST_MIN:
        return Reading(background, None, None, outlined=False, x=0.0, y=0.0, radius=0.0)
    front = np.median(pixels[distance > 0.75 * peak], axis=0)
    # How far each pixel is on the way from the background's colour to the shape's.
    axis = (front - behind) / np.sum((front - behind) ** 2)
    cover = np.clip((pixels - behind) @ axis, 0.0, 1.0)
    ink = cover > 0.5  # half covered
    body = _largest(ink)
    silhouette = ~_outside(body)
    tidy = ink.sum() - body.sum() <= _CLUTTER_MAX * body.sum() and body.sum() >= _AREA_MIN / 2
    filled = float(body.sum() / silhouette.sum())
    rows, columns = np.nonzero(silhouette)
    centre = (float(columns.mean()), float(rows.mean()))
    solid = silhouette.sum() >= _AREA_MIN
    # Half-covered edge pixels place the contour between pixels; holes count as covered.
    soft = np.where(_eroded(silhouette), 1.0, np.where(_near(body), cover, 0.0))
    return Reading(
        background,
        _named(front, scenes.COLOURS),
        _shape(_contour(soft, centre)) if tidy and solid else None,
        outlined=filled < _FILLED_MIN,
        x=centre[0],
        y=centre[1],
        radius=float(np.sqrt(silhouette.sum() / np.pi)),
    )


def difference(first: Image.Image, second: Image.Image) -> float:
    """Return how much two pictures differ: the mean over all channels of all pixels, of 255."""
    pixels = [np.asarray(each.convert("RGB"), dtype=np.float64) for each in (first, second)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def overlap(first: Image.Image, second: Image.Image) -> float:
    """Return how far two pictures' shapes cover each other: intersection over union."""
    masks = [_mask(each) for each in (first, second)]
    union = (masks[0] | masks[1]).sum()
    return float((masks[0] & masks[1]).sum() / union) if union else 0.0


def _mask(picture: Image.Image) -> _Mask:
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    distance = np.linalg.norm(pixels - np.median(_frame(pixels), axis=0), axis=2)
    return ~_outside(
        _largest(distance > max(_CONTRAST_MIN, float(np.percentile(distance, 98))) / 2)
    )


def _frame(pixels: _Array) -> _Array:
    inner = np.zeros(pixels.shape[:2], dtype=bool)
    inner[_FRAME:-_FRAME, _FRAME:-_FRAME] = True
    return pixels[~inner]


def _named(colour: _Array, names: dict[str, tuple[int, int, int]]) -> str | None:
    distances = {
        name: float(np.linalg.norm(colour - np.array(value))) for name, value in names.items()
    }
    nearest = min(distances, key=lambda name: distances[name])
    return nearest if distances[nearest] <= _COLOUR_MAX else None


def _flooded(free: _Mask, seeds: _Mask) -> _Mask:
    """Return what can be reached from the seeds over free pixels, sideways and up and down."""
    reached = seeds & free
    while True:
        grown = _near(reached) & free
        if bool((grown == reached).all()):
            return reached
        reached = grown


def _near(mask: _Mask) -> _Mask:
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _eroded(mask: _Mask) -> _Mask:
    return ~_near(~mask)


def _largest(mask: _Mask) -> _Mask:
    left, largest = mask.copy(), np.zeros_like(mask)
    while left.sum() > largest.sum():
        seed = np.zeros_like(mask)
        seed[np.unravel_index(int(np.argmax(left)), mask.shape)] = True
        part = _flooded(left, seed)
        left &= ~part
        if part.sum() > largest.sum():
            largest = part
    return largest


def _outside(body: _Mask) -> _Mask:
    border = np.ones_like(body)
    border[1:-1, 1:-1] = False
    return _flooded(~body, border)


def _contour(soft: _Array, centre: tuple[float, float]) -> _Array:
    """Return the distance from the centre to the contour in each direction, over their mean."""
    turns = np.arange(_RAYS) * (2 * np.pi / _RAYS)
    steps = np.arange(0.0, max(soft.shape), 0.25)
    columns = centre[0] + np.outer(np.sin(turns), steps)
    rows = centre[1] - np.outer(np.cos(turns), steps)
    inside = _sampled(soft, rows, columns) > 0.5  # half covered
    # The last step that is still inside.
    last = inside.shape[1] - 1 - np.argmax(inside[:, ::-1], axis=1)
    radii = np.where(inside.any(axis=1), steps[last], 0.0)
    mean = float(radii.mean())
    return radii / mean if mean > 0 else radii


def _sampled(soft: _Array, rows: _Array, columns: _Array) -> _Array:
    """Return the values between pixels, and 0 outside the picture."""
    padded = np.pad(soft, 1)
    height, width = padded.shape
    rows, columns = np.clip(rows + 1, 0, height - 1.001), np.clip(columns + 1, 0, width - 1.001)
    top, left = rows.astype(int), columns.astype(int)
    down, right = rows - top, columns - left
    upper = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    values: _Array = upper * (1 - down) + lower * down
    return values


def _shape(contour: _Array) -> str | None:
    distances = {
        name: min(
            float(np.sqrt(np.mean((np.roll(contour, turn) - known) ** 2)))
            for turn in range(-_LEAN_RAYS, _LEAN_RAYS + 1)
        )
        for name, known in _contours().items()
    }
    nearest = min(distances, key=lambda name: distances[name])
    return nearest if distances[nearest] <= _CONTOUR_MAX else None


@cache
def _contours() -> dict[str, _Array]:
    """Return every shape's contour, read from clean drawings."""
    contours = {}
    for shape in scenes.SHAPES:
        scene = scenes.Scene(
            shape, "red", "white", "large", "middle", 20.0, scenes.SIDE / 2, scenes.SIDE / 2, 0.0
        )
        pixels = np.asarray(scenes.render(scene), dtype=np.float64)
        white, red = (np.array(c) for c in (scenes.BACKGROUNDS["white"], scenes.COLOURS["red"]))
        cover = (pixels - white) @ ((red - white) / np.sum((red - white) ** 2))
        rows, columns = np.nonzero(cover > 0.5)  # half covered
        contours[shape] = _contour(cover, (float(columns.mean()), float(rows.mean())))
    return contours
