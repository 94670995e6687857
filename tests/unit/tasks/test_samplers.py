"""Names of samplers and schedules: what they mean, and what is refused rather than replaced."""

from __future__ import annotations

import pytest

from tasks.catalog import Layout
from tasks.errors import InvalidParams
from tasks.samplers import Choice, choose

SD: Layout = "stable-diffusion"


@pytest.mark.parametrize(
    ("sampler", "schedule", "expected"),
    [
        (None, None, Choice()),
        ("", "automatic", Choice()),
        ("Euler", None, Choice("Euler", "Automatic")),
        ("euler A", "Automatic", Choice("Euler a", "Automatic")),
        ("k_euler_a", "automatic", Choice("Euler a", "Automatic")),
        ("DPM++ 2M", None, Choice("DPM++ 2M", "Karras")),
        ("DPM++ 2M", "automatic", Choice("DPM++ 2M", "Karras")),
        ("DPM++ 2M Karras", None, Choice("DPM++ 2M", "Karras")),
        ("DPM++ 2M Karras", "karras", Choice("DPM++ 2M", "Karras")),
        ("DPM++ 2M SDE Heun Exponential", None, Choice("DPM++ 2M SDE Heun", "Exponential")),
        ("Euler", "SGM Uniform", Choice("Euler", "SGM Uniform")),
        ("Euler SGM Uniform", None, Choice("Euler", "SGM Uniform")),
        ("UniPC", "beta", Choice("UniPC", "Beta")),
    ],
)
def test_a_name_means_one_sampler(
    sampler: str | None, schedule: str | None, expected: Choice
) -> None:
    assert choose(SD, sampler, schedule, 20) == expected


@pytest.mark.parametrize(
    ("layout", "sampler", "schedule", "field", "said"),
    [
        (
            SD,
            "DPM fast",
            None,
            "sampler",
            "there is no sampler 'DPM fast' here; there are DPM++ 2M",
        ),
        (SD, "Restart", None, "sampler", "no sampler"),
        (SD, "Euler", "polyexponential", "schedule", "no schedule"),
        (SD, "Euler a", "Karras", "schedule", "Euler a does Automatic"),
        (SD, "Euler a Karras", None, "schedule", "Euler a does Automatic"),
        (SD, "DPM++ 2M Karras", "beta", "schedule", "leave one of them out"),
        (SD, None, "Karras", "schedule", "needs a sampler"),
        (SD, "LCM", None, "num_inference_steps", "LCM does at most 50"),
        ("flux", "Euler a", None, "sampler", "must be Euler"),
        ("stable-diffusion-3", "Euler", "Karras", "sampler", "must be Euler"),
    ],
)
def test_what_cannot_be_run_is_refused(
    layout: Layout, sampler: str | None, schedule: str | None, field: str, said: str
) -> None:
    with pytest.raises(InvalidParams) as refused:
        choose(layout, sampler, schedule, 60)
    [error] = refused.value.errors
    assert error.field == field
    assert said in error.message


def test_a_model_that_flows_has_a_sampler_of_its_own() -> None:
    assert choose("flux", "Euler", "automatic", 4) == Choice()
