"""What the engine makes of latents itself: two passes, two seeds, and other beginnings."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from tasks.catalog import Catalog
from tasks.engine.diffusion import DiffusionEngine
from tasks.engine.protocol import Batch, Variation
from tasks.errors import Interrupted
from tasks.finer import Between, FirstPass, Start
from tests.engine.helpers import TOLERANCE, batch, difference, go_on, sketch, task
from tests.engine.test_masks import left_half

PLAIN = ("demo-sd", "demo-sdxl")
SIZE = (64, 64)


def drawn(engine: DiffusionEngine, asked: Batch) -> list[Image.Image]:
    return engine.generate(asked, go_on)


def twice(catalog: Catalog, name: str, between: Between, *seeds: int) -> Batch:
    """A batch of pictures of 96 x 64 that are 48 x 32 first."""
    asked = batch(
        catalog, (name, "text-to-image"), [task(seed=one) for one in seeds], size=(96, 64)
    )
    return replace(asked, strength=0.5, first_pass=FirstPass(48, 32, 6, between))


# --- two passes -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_two_passes_make_pictures_of_the_second_size(
    name: str, demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    together = drawn(diffusion, twice(demo_catalog, name, "bilinear", 1, 2))
    assert [one.size for one in together] == [(96, 64)] * 2
    (alone,) = drawn(diffusion, twice(demo_catalog, name, "bilinear", 2))
    assert difference(together[1], alone) <= TOLERANCE
    plain = replace(twice(demo_catalog, name, "bilinear", 1), first_pass=None)
    assert difference(together[0], drawn(diffusion, plain)[0]) > 20


def test_every_way_between_the_passes_makes_another_picture(
    demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    made = {
        drawn(diffusion, twice(demo_catalog, "demo-sd", between, 1))[0].tobytes()
        for between in get_args(Between)
    }
    # At twice the size, two pairs are the same: bilinear with and without smoothing, and nearest.
    assert len(made) == len(get_args(Between)) - 2


def test_both_passes_count_in_progress_and_either_can_be_stopped(
    demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    asked, told = twice(demo_catalog, "demo-sd", "bilinear", 1), []

    def note(done: int, steps: int) -> bool:
        told.append((done, steps))
        return done < 6

    with pytest.raises(Interrupted):
        diffusion.generate(asked, note)
    # Four steps, and half of six.
    assert told == [(step, 7) for step in range(1, 7)]


# --- two seeds --------------------------------------------------------------------------------


def varied(catalog: Catalog, name: str, *variations: Variation) -> Batch:
    tasks = [replace(task(), variation=one) for one in variations]
    return batch(catalog, (name, "text-to-image"), tasks, size=SIZE)


@pytest.mark.parametrize("name", PLAIN)
def test_a_second_seed_leads_from_one_picture_to_the_other(
    name: str, demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    shares = (0.0, 0.01, 0.5, 1.0)
    asked = varied(demo_catalog, name, *(Variation(9, share) for share in shares))
    made = drawn(diffusion, asked)
    (first, other) = drawn(
        diffusion, batch(demo_catalog, (name, "text-to-image"), [task(), task(seed=9)], size=SIZE)
    )
    assert difference(made[0], first) <= TOLERANCE
    assert difference(made[3], other) <= TOLERANCE
    away = [float(np.abs(np.asarray(one, float) - np.asarray(first, float)).mean()) for one in made]
    assert away[0] < away[1] < away[2]


def test_the_same_seed_twice_is_that_seed(
    demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    made = drawn(diffusion, varied(demo_catalog, "demo-sd", Variation(1, 0.5), Variation(0, 0)))
    assert difference(*made) == 0


# --- other beginnings -------------------------------------------------------------------------


def edited(
    catalog: Catalog, name: str, start: Start, picture: Image.Image, **more: object
) -> Batch:
    one = replace(task(), image=picture, **more)  # type: ignore[arg-type]  # a mask, or nothing
    return replace(batch(catalog, (name, "image-to-image"), [one], size=SIZE), start=start)


@pytest.mark.parametrize("name", PLAIN)
def test_latents_of_a_picture_are_brought_to_the_size(
    name: str, demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    small, large = sketch(size=(40, 32)), sketch(size=(128, 128))
    (first,) = drawn(diffusion, edited(demo_catalog, name, "latents", small))
    (second,) = drawn(diffusion, edited(demo_catalog, name, "latents", large))
    pixels = drawn(diffusion, edited(demo_catalog, name, "picture", large.resize(SIZE)))
    assert first.size == second.size == SIZE
    assert difference(first, second) > 20
    assert difference(second, pixels[0]) > 0


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_under_a_mask_can_be_noise_or_nothing(
    name: str, demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    starts: tuple[Start, ...] = ("picture", "noise", "nothing")
    made = [
        drawn(diffusion, edited(demo_catalog, name, start, sketch(size=SIZE), mask=left_half()))[0]
        for start in starts
    ]
    assert len({one.tobytes() for one in made}) == 3
    kept = (32, 0, 64, 64)
    for one in made:
        assert difference(one.crop(kept), sketch(size=SIZE).crop(kept)) == 0
    # What was under the mask has no say any more.
    for start in starts[1:]:
        other = sketch("white", SIZE)
        other.paste(sketch(size=SIZE).crop(kept), kept)
        again = drawn(diffusion, edited(demo_catalog, name, start, other, mask=left_half()))[0]
        before = made[starts.index(start)]
        assert difference(again, before) < difference(made[0], before)
