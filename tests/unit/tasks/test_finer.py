"""What is asked for beyond a job's own fields: who can do it, and what shares a batch."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tasks.errors import InvalidParams
from tasks.finer import Finer, FirstPass
from tasks.params import Generation, Request, validate
from tests.unit.tasks.test_params import INPUT, SPEC

FIRST = FirstPass(256, 192, 10, "bilinear")


def made(pipeline: str = "text-to-image", **asked: Any) -> Generation:
    finer, changes = asked.pop("finer", Finer()), asked.pop("spec", {})
    request = Request(pipeline, SPEC.model_id, "a cat", finer=finer, **asked)
    size = INPUT if pipeline == "image-to-image" else None
    return validate(replace(SPEC, **changes), request, 99, size)


@pytest.mark.parametrize(
    ("pipeline", "masked", "finer"),
    [
        ("text-to-image", False, Finer(first_pass=FIRST)),
        ("text-to-image", False, Finer(subseed=3, subseed_strength=0.5)),
        ("text-to-image", False, Finer(format="webp")),
        ("image-to-image", False, Finer(start="latents")),
        ("image-to-image", True, Finer(start="noise")),
        ("image-to-image", True, Finer(start="nothing", format="jpeg")),
    ],
)
def test_what_can_be_done_is_kept_with_the_job(
    pipeline: str, finer: Finer, *, masked: bool
) -> None:
    generation = made(pipeline, masked=masked, finer=finer)
    assert generation.finer == finer
    assert Generation.of(json.loads(json.dumps(generation.to_json()))) == generation


def test_most_jobs_store_nothing_of_it() -> None:
    assert "finer" not in made().to_json()


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("first_pass", {"pipeline": "image-to-image", "finer": Finer(first_pass=FIRST)}),
        ("first_pass", {"finer": Finer(first_pass=FIRST), "spec": {"layout": "flux"}}),
        (
            "first_pass",
            {"finer": Finer(first_pass=FIRST), "spec": {"pipelines": ("text-to-image",)}},
        ),
        ("first_pass.width", {"finer": Finer(first_pass=replace(FIRST, width=520))}),
        ("first_pass.width", {"finer": Finer(first_pass=replace(FIRST, width=63))}),
        ("first_pass.height", {"finer": Finer(first_pass=replace(FIRST, height=193))}),
        ("first_pass.steps", {"finer": Finer(first_pass=replace(FIRST, steps=0))}),
        ("subseed_strength", {"pipeline": "image-to-image", "finer": Finer(subseed_strength=0.5)}),
        ("subseed_strength", {"finer": Finer(subseed_strength=1.1)}),
        ("subseed_strength", {"finer": Finer(subseed_strength=float("nan"))}),
        ("subseed", {"finer": Finer(subseed=-1, subseed_strength=0.5)}),
        ("start", {"finer": Finer(start="latents")}),
        ("start", {"pipeline": "image-to-image", "finer": Finer(start="noise")}),
        ("start", {"pipeline": "image-to-image", "masked": True, "finer": Finer(start="latents")}),
    ],
)
def test_what_cannot_be_done_is_refused(field: str, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams) as refused:
        made(**asked)
    assert field in [one.field for one in refused.value.errors]


@pytest.mark.parametrize(
    ("finer", "shares"),
    [
        (Finer(subseed=3, subseed_strength=0.5), True),
        (Finer(format="webp"), True),
        (Finer(first_pass=FIRST), False),
    ],
)
def test_what_shares_a_batch(finer: Finer, *, shares: bool) -> None:
    assert (made(finer=finer).batch_key == made().batch_key) is shares


def test_with_a_second_seed_pictures_differ_by_that() -> None:
    plain = made(seed=5)
    varied = made(seed=5, finer=Finer(subseed=8, subseed_strength=0.1))
    assert [plain.seed_of(k) for k in range(3)] == [5, 6, 7]
    assert [varied.seed_of(k) for k in range(3)] == [5, 5, 5]
    assert [varied.subseed_of(k) for k in range(3)] == [8, 9, 10]


def test_the_strength_of_a_second_pass_counts_in_text_to_image() -> None:
    assert made(strength=0.3).strength == SPEC.default_strength
    assert made(strength=0.3, finer=Finer(first_pass=FIRST)).strength == 0.3


def test_a_distilled_model_draws_both_passes_in_its_own_steps() -> None:
    distilled = {"run_steps": (2, 4), "default_steps": 4, "raise_strength": True}
    run = made(spec=distilled, num_inference_steps=50, finer=Finer(first_pass=FIRST))
    assert run.finer.first_pass is not None
    assert (run.num_inference_steps, run.finer.first_pass.steps) == (4, 4)
