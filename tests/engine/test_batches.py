"""A picture depends on its own request only: batched or alone, first or last, it is the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.catalog import Catalog
from tasks.engine.diffusion import DiffusionEngine
from tests.engine.helpers import CASES, TOLERANCE, batch, difference, go_on, sketch, task

MIXED = (
    task("a cat", 1),
    task("an astronaut riding a horse, oil painting", 2**62, "blurry, ugly"),
    task("", 3),
    task("漢字 " * 100, 0, "long " * 100),
)
# Every scheduler that a catalog may name and whose libraries we install.
SCHEDULERS = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_mixed_batch_equals_its_single_runs(
    case: tuple[str, str], demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    together = diffusion.generate(batch(demo_catalog, case, MIXED), go_on)
    for one, picture in zip(MIXED, together, strict=True):
        (alone,) = diffusion.generate(batch(demo_catalog, case, [one]), go_on)
        assert difference(picture, alone) <= TOLERANCE


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_each_image_of_a_job_is_reproduced_by_its_seed_alone(
    case: tuple[str, str], demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    seeds = [task("a cat", seed) for seed in range(40, 44)]
    together = diffusion.generate(batch(demo_catalog, case, seeds), go_on)
    for one, picture in zip(seeds, together, strict=True):
        (alone,) = diffusion.generate(batch(demo_catalog, case, [one]), go_on)
        assert difference(picture, alone) <= TOLERANCE
    assert min(difference(together[0], other) for other in together[1:]) > 20


@pytest.mark.parametrize("case", CASES[::2], ids="-".join)
def test_the_order_of_a_batch_does_not_matter(
    case: tuple[str, str], demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    forth = diffusion.generate(batch(demo_catalog, case, MIXED), go_on)
    back = diffusion.generate(batch(demo_catalog, case, MIXED[::-1]), go_on)
    for first, second in zip(forth, reversed(back), strict=True):
        assert difference(first, second) <= TOLERANCE


@pytest.mark.parametrize("case", CASES[1::2] + CASES[4:], ids="-".join)
def test_each_task_of_a_batch_has_its_own_input_picture(
    case: tuple[str, str], demo_catalog: Catalog, diffusion: DiffusionEngine
) -> None:
    tasks = [replace(task(), image=sketch(colour)) for colour in ("orange", "white", "black")]
    together = diffusion.generate(batch(demo_catalog, case, tasks), go_on)
    for one, picture in zip(tasks, together, strict=True):
        (alone,) = diffusion.generate(batch(demo_catalog, case, [one]), go_on)
        assert difference(picture, alone) <= TOLERANCE
    assert difference(together[0], together[1]) > 20


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize(("guidance", "image_guidance"), [(0.0, 1.5), (1.0, 1.0), (5.0, 0.5)])
def test_batches_without_guidance_work_too(
    case: tuple[str, str],
    guidance: float,
    image_guidance: float,
    demo_catalog: Catalog,
    diffusion: DiffusionEngine,
) -> None:
    plain = batch(demo_catalog, case, MIXED[:2], size=(64, 64), steps=2)
    request = replace(plain, guidance_scale=guidance, image_guidance_scale=image_guidance)
    together = diffusion.generate(request, go_on)
    for number, picture in enumerate(together):
        (alone,) = diffusion.generate(replace(request, tasks=request.tasks[number:][:1]), go_on)
        assert difference(picture, alone) <= TOLERANCE


@pytest.mark.parametrize("case", [CASES[1], CASES[4]], ids="-".join)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_no_scheduler_lets_pictures_of_a_batch_touch(
    case: tuple[str, str],
    scheduler: str,
    demo_catalog: Catalog,
    diffusion: DiffusionEngine,
) -> None:
    """Some draw noise at every step: from each picture's own generator, as this shows."""
    plain = batch(demo_catalog, case, MIXED[:2], size=(64, 64))
    request = replace(plain, model=replace(plain.model, scheduler=scheduler))
    together = diffusion.generate(request, go_on)
    (alone,) = diffusion.generate(replace(request, tasks=request.tasks[1:]), go_on)
    assert difference(together[1], alone) <= TOLERANCE


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("size", [(64, 64), (72, 104), (512, 64)])
def test_pictures_have_the_size_that_was_asked(
    case: tuple[str, str],
    size: tuple[int, int],
    demo_catalog: Catalog,
    diffusion: DiffusionEngine,
) -> None:
    pictures = diffusion.generate(batch(demo_catalog, case, MIXED[:2], size=size, steps=2), go_on)
    assert [(picture.size, picture.mode) for picture in pictures] == [(size, "RGB")] * 2
