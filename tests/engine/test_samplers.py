"""Every sampler that has a name runs, repeats by its seed, and is not another one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.catalog import Catalog
from tasks.engine import loading
from tasks.engine.diffusion import DiffusionEngine
from tasks.samplers import AUTOMATIC, SAMPLERS, SCHEDULES, Choice, Sampler, choose
from tests.engine.helpers import TOLERANCE, batch, difference, go_on, pipeline_of, task

# A third-order sampler makes its first step of that order at six.
STEPS = 6
NAMES = [one.name for one in SAMPLERS]


def chosen(name: str, schedule: str = AUTOMATIC) -> Choice:
    return choose("stable-diffusion", name, schedule, STEPS)


@pytest.fixture(scope="module")
def seen() -> dict[str, bytes]:
    """What each sampler made of the same."""
    return {}


@pytest.mark.parametrize("name", NAMES)
def test_each_sampler_repeats_by_its_seed_and_is_its_own(
    name: str, seen: dict[str, bytes], demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    """The ancestral ones add noise on the way: each picture's from its own seed."""
    case = ("demo-sd", "text-to-image")
    plain = batch(
        demo_catalog, case, [task("a cat", 1), task("a cat", 2)], size=(64, 64), steps=STEPS
    )
    request = replace(plain, sampling=chosen(name))
    together = diffusion.generate(request, go_on)
    (alone,) = diffusion.generate(replace(request, tasks=request.tasks[1:]), go_on)
    assert difference(together[1], alone) <= TOLERANCE
    assert difference(*together) > 20
    assert alone.tobytes() not in seen.values()
    seen[name] = alone.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_each_sampler_starts_from_a_picture_too(
    name: str, demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    case = ("demo-sd", "image-to-image")
    plain = batch(demo_catalog, case, [task()], size=(64, 64), steps=2)
    [made] = diffusion.generate(replace(plain, sampling=chosen(name)), go_on)
    assert made.size == (64, 64)


# The slow ones, of which making one takes a second, share their options with the others.
SPACED = [
    (one, schedule) for one in SAMPLERS for schedule in one.schedules if "KDPM2" not in one.kind
]


@pytest.mark.parametrize(
    ("one", "schedule"), SPACED, ids=[f"{one.name} {name}" for one, name in SPACED]
)
def test_a_schedule_is_in_force_for_a_call(
    one: Sampler, schedule: str, demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    pipe = pipeline_of(diffusion, demo_catalog.get("pixeltoll/demo-sd"), "text-to-image")
    own = pipe.scheduler
    choice = chosen(one.name, schedule)
    with loading.sampled(pipe, choice):
        config = dict(pipe.scheduler.config)
        assert type(pipe.scheduler).__name__ == one.kind
        if one.schedules != (AUTOMATIC,):
            [options] = [spaced.options for spaced in SCHEDULES if spaced.label == choice.schedule]
            assert options.items() <= {key: config.get(key) for key in options}.items()
    assert pipe.scheduler is own
