"""The checker tells what a picture shows, and says so when it cannot.

All measured accuracy rests on it.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tools import checker, scenes


def sampled(count: int, seed: int, *, outlined: bool = False) -> list[scenes.Scene]:
    """Scenes of all combinations, held out or not."""
    rng = random.Random(seed)
    every = scenes.combinations(held_out=False) + scenes.combinations(held_out=True)
    return [scenes.draw_scene(rng, rng.choice(every), outlined=outlined) for _ in range(count)]


def told(picture: Image.Image) -> tuple[str | None, str | None, str | None, bool]:
    reading = checker.read(picture)
    return reading.shape, reading.colour, reading.background, reading.outlined


def shown(scene: scenes.Scene) -> tuple[str, str, str, bool]:
    return scene.shape, scene.colour, scene.background, scene.outlined


@pytest.mark.parametrize("outlined", [False, True])
def test_every_clean_scene_is_read_as_it_was_drawn(outlined: bool) -> None:
    for scene in sampled(120, seed=1, outlined=outlined):
        assert told(scenes.render(scene)) == shown(scene)


def test_shapes_are_found_where_they_are_and_as_large() -> None:
    for scene in sampled(40, seed=2):
        reading = checker.read(scenes.render(scene))
        assert abs(reading.x - scene.x) < 0.35 * scene.radius
        assert abs(reading.y - scene.y) < 0.35 * scene.radius
        assert 0.6 < reading.radius / scene.radius < 1.2


def test_soft_edges_and_noise_do_not_mislead_it() -> None:
    rng = np.random.default_rng(3)
    drawn = [scene for scene in sampled(80, seed=3) if scene.size != "small"]
    right = 0
    for scene in drawn:
        soft = scenes.render(scene).filter(ImageFilter.GaussianBlur(0.8))
        noisy = np.asarray(soft) + rng.normal(0, 6, (scenes.SIDE, scenes.SIDE, 3))
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        right += told(picture) == shown(scene)
    assert right >= 0.95 * len(drawn)


def test_an_empty_picture_shows_a_background_and_no_shape() -> None:
    assert told(Image.new("RGB", (64, 64), (250, 250, 250))) == (None, None, "white", False)


def test_static_shows_no_shape() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert told(Image.fromarray(pixels))[0] is None


def test_two_shapes_are_not_taken_for_one() -> None:
    picture = Image.new("RGB", (64, 64), (245, 245, 245))
    for corner in ((4, 4), (36, 36)):
        picture.paste((215, 35, 40), (*corner, corner[0] + 22, corner[1] + 22))
    assert told(picture)[0] is None


def test_a_bar_is_none_of_the_shapes() -> None:
    picture = Image.new("RGB", (64, 64), (245, 245, 245))
    picture.paste((35, 75, 205), (8, 28, 56, 36))
    assert told(picture) == (None, "blue", "white", False)


def test_overlap_and_difference_tell_same_from_moved() -> None:
    first, second = (scenes.render(each) for each in sampled(2, seed=5))
    assert checker.overlap(first, first) == 1.0
    assert checker.difference(first, first) == 0.0
    assert checker.overlap(first, second) < 1.0
    assert checker.difference(first, second) > 1.0
