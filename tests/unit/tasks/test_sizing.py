"""How large upscaled pictures are: what a model makes, or less, and never what nobody draws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tasks.catalog import ModelSpec, Pipeline
from tasks.errors import InvalidParams
from tasks.params import Generation, Request, validate

UPSCALER = ModelSpec(
    model_id="acme/x4",
    source="acme/x4",
    layout="upscaler",
    pipelines=("upscale",),
    max_size=512,
    size_multiple=1,
)
FILTER = replace(UPSCALER, source="lanczos", layout="resampling", min_size=1)
PIPELINE: Pipeline = "upscale"


def upscaled(
    spec: ModelSpec = UPSCALER, image: tuple[int, int] | None = (100, 50), **asked: Any
) -> Generation:
    request = Request(PIPELINE, spec.model_id, **{"prompt": "", **asked})
    return validate(spec, request, 1, image)


@pytest.mark.parametrize(
    ("spec", "asked", "size"),
    [
        (UPSCALER, {}, (400, 200)),
        (UPSCALER, {"width": 150}, (150, 200)),
        (UPSCALER, {"width": 151, "height": 77}, (151, 77)),
        (UPSCALER, {"width": 100, "height": 50}, (100, 50)),
        (FILTER, {"width": 512, "height": 1}, (512, 1)),
    ],
)
def test_the_size_is_what_is_priced(
    spec: ModelSpec, asked: dict[str, Any], size: tuple[int, int]
) -> None:
    made = upscaled(spec, **asked)
    assert (made.width, made.height) == size
    assert made.units == size[0] * size[1]
    assert made.keeps_input_size


@pytest.mark.parametrize(
    ("field", "spec", "image", "asked"),
    [
        ("image", UPSCALER, None, {}),
        ("image", UPSCALER, (129, 50), {}),
        ("image", FILTER, (513, 50), {"width": 513, "height": 50}),
        ("width", UPSCALER, (100, 50), {"width": 99}),
        ("width", UPSCALER, (100, 50), {"width": 401}),
        ("height", FILTER, (100, 50), {"width": 200}),
        ("height", FILTER, (100, 50), {"width": 200, "height": 513}),
        ("sampler", FILTER, (100, 50), {"width": 200, "height": 100, "sampler": "Euler"}),
        ("loras", UPSCALER, (100, 50), {"loras": '{"acme/style": 1}'}),
    ],
)
def test_what_nobody_draws_is_refused(
    field: str, spec: ModelSpec, image: tuple[int, int] | None, asked: dict[str, Any]
) -> None:
    with pytest.raises(InvalidParams) as refused:
        upscaled(spec, image, **asked)
    assert field in [one.field for one in refused.value.errors]
