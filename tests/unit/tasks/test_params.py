"""Requests against a model's bounds: every default, both sides of every bound, the priced units."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.catalog import ModelSpec
from tasks.errors import InvalidParams
from tasks.params import MAX_SEED, Generation, Request, prompts, validate

SPEC = ModelSpec(
    model_id="acme/turbo",
    source="none",
    layout="stable-diffusion",
    pipelines=("text-to-image", "image-to-image"),
    default_width=512,
    default_height=384,
    min_size=64,
    max_size=1024,
    size_multiple=8,
    default_steps=20,
    max_steps=50,
    default_guidance_scale=6.0,
    default_image_guidance_scale=1.4,
    default_strength=0.7,
    max_images=4,
    max_batch=2,
    max_prompt_chars=40,
)
EDITOR = replace(SPEC, layout="instruct-pix2pix", pipelines=("image-to-image",))
INPUT = (512, 256)
_LATER = ("loras", "safety_check")  # jobs stored before have none


def text_to_image(**asked: Any) -> Generation:
    return validate(
        SPEC, Request("text-to-image", "acme/turbo", **{"prompt": "a cat", **asked}), 99
    )


def image_to_image(
    spec: ModelSpec = SPEC, image_size: tuple[int, int] | None = INPUT, **asked: Any
) -> Generation:
    request = Request("image-to-image", "acme/turbo", **{"prompt": "a cat", **asked})
    return validate(spec, request, 99, image_size)


def wrong_fields(error: InvalidParams) -> list[str]:
    return [one.field for one in error.errors]


def test_what_is_not_said_is_the_models_default() -> None:
    assert text_to_image() == Generation(
        pipeline="text-to-image",
        model_id="acme/turbo",
        prompt="a cat",
        negative_prompt="",
        width=512,
        height=384,
        num_images_per_prompt=1,
        num_inference_steps=20,
        guidance_scale=6.0,
        image_guidance_scale=1.4,
        strength=0.7,
        seed=99,
    )


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("prompt", ["x", "x" * 40, "猫" * 40, " x "]),
        ("negative_prompt", ["", "x" * 40]),
        ("width", [64, 65, 1024]),
        ("height", [64, 1023, 1024]),
        ("num_images_per_prompt", [1, 4]),
        ("num_inference_steps", [1, 50]),
        ("guidance_scale", [0.0, 100.0]),
        ("image_guidance_scale", [0.0, 100.0]),
        ("strength", [0.05, 1.0]),
        ("seed", [0, MAX_SEED]),
        ("loras", ["", "  ", "{}"]),
    ],
)
def test_bounds_are_within(field: str, values: list[Any]) -> None:
    for value in values:
        text_to_image(**{field: value})


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("prompt", ["", "   ", "\n", "x" * 41, "a\x00b", "half \ud83d of a character"]),
        ("negative_prompt", ["x" * 41, "a\x00b", "\udc00"]),
        ("width", [-8, 0, 63, 1025, 10**30]),
        ("height", [0, 63, 1025]),
        ("num_images_per_prompt", [-1, 0, 5]),
        ("num_inference_steps", [0, 51]),
        ("guidance_scale", [-0.1, 100.1, math.nan, math.inf, -math.inf]),
        ("image_guidance_scale", [-0.1, 100.1, math.nan, math.inf]),
        ("strength", [0.0, -0.5, 1.01, math.nan, math.inf]),
        ("seed", [-1, MAX_SEED + 1]),
        ("loras", ["[]", "{", '{"acme/style": 5}', '{"/srv/style": 1}']),
    ],
)
def test_what_is_beyond_a_bound_is_named(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidParams) as refused:
            text_to_image(**{field: value})
        assert wrong_fields(refused.value) == [field], value


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidParams) as refused:
        text_to_image(prompt="", width=1, height=1, num_inference_steps=0, seed=-1)
    assert wrong_fields(refused.value) == [
        "prompt",
        "width",
        "height",
        "num_inference_steps",
        "seed",
    ]


def test_a_pipeline_that_the_model_does_not_do_is_refused() -> None:
    with pytest.raises(InvalidParams, match="acme/turbo does image-to-image") as refused:
        validate(EDITOR, Request("text-to-image", "acme/turbo", "a cat"), 0)
    assert "pipeline" in wrong_fields(refused.value)


def test_text_to_image_takes_no_picture() -> None:
    with pytest.raises(InvalidParams) as refused:
        validate(SPEC, Request("text-to-image", "acme/turbo", "a cat"), 0, INPUT)
    assert wrong_fields(refused.value) == ["image"]


def test_image_to_image_has_the_size_of_its_picture() -> None:
    made = image_to_image(image_size=(500, 250))
    assert (made.width, made.height) == (504, 256)


@pytest.mark.parametrize("size", [(63, 64), (64, 63), (1025, 64), (64, 1025), None])
def test_a_picture_out_of_bounds_is_refused(size: tuple[int, int] | None) -> None:
    with pytest.raises(InvalidParams) as refused:
        image_to_image(image_size=size)
    assert wrong_fields(refused.value) == ["image"]


def test_image_to_image_takes_no_size() -> None:
    with pytest.raises(InvalidParams) as refused:
        image_to_image(width=512, height=256)
    assert wrong_fields(refused.value) == ["width", "height"]


def test_a_strength_that_leaves_no_step_is_refused_where_it_counts() -> None:
    with pytest.raises(InvalidParams) as refused:
        image_to_image(strength=0.04, num_inference_steps=20)
    assert wrong_fields(refused.value) == ["strength"]
    assert image_to_image(strength=0.05, num_inference_steps=20).strength == 0.05
    assert text_to_image(strength=0.04).strength == SPEC.default_strength
    assert image_to_image(EDITOR, strength=0.04).strength == SPEC.default_strength


def test_image_guidance_counts_where_the_layout_takes_it() -> None:
    assert image_to_image(EDITOR, image_guidance_scale=2.0).image_guidance_scale == 2.0
    assert image_to_image(image_guidance_scale=2.0).image_guidance_scale == 1.4
    assert text_to_image(image_guidance_scale=2.0).image_guidance_scale == 1.4


@pytest.mark.parametrize(
    ("asked", "run"), [(None, 4), (1, 2), (2, 2), (4, 4), (6, 6), (7, 6), (50, 6)]
)
def test_a_distilled_model_runs_the_steps_it_can(asked: int | None, run: int) -> None:
    spec = replace(SPEC, default_steps=4, run_steps=(2, 6), run_guidance_scale=(1.0, 2.0))
    request = Request("text-to-image", "acme/turbo", "a cat", num_inference_steps=asked)
    assert validate(spec, request, 0).num_inference_steps == run


@pytest.mark.parametrize(("asked", "run"), [(0.0, 1.0), (1.5, 1.5), (7.5, 2.0)])
def test_a_distilled_model_has_the_guidance_it_can(asked: float, run: float) -> None:
    spec = replace(SPEC, default_guidance_scale=1.5, run_guidance_scale=(1.0, 2.0))
    request = Request("text-to-image", "acme/turbo", "a cat", guidance_scale=asked)
    assert validate(spec, request, 0).guidance_scale == run


@pytest.mark.parametrize("asked", [0, 51])
def test_steps_out_of_bounds_are_refused_even_where_others_are_run(asked: int) -> None:
    spec = replace(SPEC, default_steps=4, run_steps=(4, 4))
    with pytest.raises(InvalidParams, match="num_inference_steps"):
        validate(spec, Request("text-to-image", "acme/turbo", "x", num_inference_steps=asked), 0)


@pytest.mark.parametrize(("asked", "run"), [(0.1, 0.25), (0.25, 0.25), (0.8, 0.8), (1.0, 1.0)])
def test_turbos_rule_raises_a_strength_to_one_step(asked: float, run: float) -> None:
    spec = replace(SPEC, default_steps=4, run_steps=(4, 4), raise_strength=True)
    assert image_to_image(spec, strength=asked).strength == run


def test_what_a_layout_does_not_take_is_dropped_and_splits_no_batch() -> None:
    flux = replace(SPEC, layout="flux", size_multiple=16)
    asked = [
        Request("text-to-image", "acme/turbo", "a cat"),
        Request(
            "text-to-image",
            "acme/turbo",
            "a cat",
            negative_prompt="ugly",
            strength=0.3,
            image_guidance_scale=9.0,
        ),
    ]
    first, second = (validate(flux, one, 7) for one in asked)
    assert first == second
    assert first.negative_prompt == ""


def test_the_callers_seed_goes_before_ours() -> None:
    assert text_to_image(seed=0).seed == 0
    assert text_to_image().seed == 99


@pytest.mark.parametrize(
    ("asked", "shares"),
    [
        ({"prompt": "a dog"}, True),
        ({"negative_prompt": "blurry"}, True),
        ({"seed": 5}, True),
        ({"num_images_per_prompt": 3}, True),
        # These have no meaning in text-to-image, and so do not split a batch.
        ({"strength": 0.3}, True),
        ({"image_guidance_scale": 9.0}, True),
        ({"width": 520}, False),
        ({"height": 392}, False),
        ({"num_inference_steps": 21}, False),
        ({"guidance_scale": 6.5}, False),
        ({"loras": " {} "}, True),
        ({"loras": '{"acme/style": 1}'}, False),
        ({"safety_check": False}, True),
    ],
)
def test_what_shares_a_batch(asked: dict[str, Any], *, shares: bool) -> None:
    assert (text_to_image(**asked).batch_key == text_to_image().batch_key) is shares


def test_jobs_with_the_same_adapters_share_a_batch() -> None:
    texts = ('{"a/x": 1, "b/y": 0.5}', '{"b/y": 0.5, "a/x": 1.0}', '{"a/x": 1, "b/y": 0.6}')
    first, second, other = (text_to_image(loras=text).batch_key for text in texts)
    assert first == second != other


def test_what_was_stored_with_a_job_gives_the_same_generation() -> None:
    made = text_to_image(loras='{"b/y": 0.5, "a/x": 1}', safety_check=False)
    assert Generation.of(json.loads(json.dumps(made.to_json()))) == made
    before = {key: made.to_json()[key] for key in made.to_json() if key not in _LATER}
    assert Generation.of(before) == replace(made, loras={}, safety_check=True)


def test_pipelines_and_models_do_not_share_a_batch() -> None:
    square = text_to_image(width=512, height=256)
    assert square.batch_key != image_to_image().batch_key
    assert square.batch_key != replace(square, model_id="acme/other").batch_key


sizes = st.integers(SPEC.min_size, SPEC.max_size)
counts = st.integers(1, SPEC.max_images)


@given(width=sizes, height=sizes, images=counts)
def test_units_are_the_pixels_that_are_made(width: int, height: int, images: int) -> None:
    made = text_to_image(width=width, height=height, num_images_per_prompt=images)
    assert made.units == made.width * made.height * images
    for asked, run in ((width, made.width), (height, made.height)):
        # Rounded up to the multiple, by less than one, and never out of the bounds.
        assert run % SPEC.size_multiple == 0
        assert 0 <= run - asked < SPEC.size_multiple
        assert run <= SPEC.max_size


@given(width=sizes, height=sizes, images=counts)
def test_image_to_image_is_priced_by_its_picture(width: int, height: int, images: int) -> None:
    drawn = text_to_image(width=width, height=height, num_images_per_prompt=images)
    edited = image_to_image(image_size=(width, height), num_images_per_prompt=images)
    assert edited.units == drawn.units


@given(
    prompt=st.text(
        st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40
    ),
    guidance=st.floats(0, 100),
    seed=st.integers(0, MAX_SEED),
)
def test_what_is_stored_is_what_was_validated(prompt: str, guidance: float, seed: int) -> None:
    made = text_to_image(prompt=f"x{prompt}"[:40], guidance_scale=guidance, seed=seed)
    assert Generation.of(json.loads(json.dumps(made.to_json()))) == made


@given(
    st.text(max_size=60),
    st.one_of(st.none(), st.integers()),
    st.one_of(st.none(), st.floats()),
    st.integers(),
)
def test_any_request_is_run_within_bounds_or_refused(
    prompt: str, width: int | None, guidance: float | None, images: int
) -> None:
    asked: dict[str, Any] = {"prompt": prompt, "width": width, "guidance_scale": guidance}
    try:
        made = text_to_image(**asked, num_images_per_prompt=images)
    except InvalidParams as refused:
        assert set(wrong_fields(refused)) <= {*asked, "num_images_per_prompt"}  # noqa: PT017
    else:
        assert 0 < made.units <= SPEC.max_size**2 * SPEC.max_images
        assert math.isfinite(made.guidance_scale)
        assert made.prompt.encode()


# --- prompts for each text encoder --------------------------------------------------------------

XL = replace(SPEC, layout="stable-diffusion-xl")


@pytest.mark.parametrize(
    ("text", "most", "found"),
    [
        ("a fox", 2, ("a fox",)),
        ("a fox | oil on canvas", 2, ("a fox", "oil on canvas")),
        ("| a fox || ", 2, ("a fox",)),
        ("a fox | oil", 1, ("a fox | oil",)),
        (" | ", 2, ()),
        ("a | b | c", 2, ("a", "b", "c")),
    ],
)
def test_a_text_holds_a_prompt_for_each_encoder(
    text: str, most: int, found: tuple[str, ...]
) -> None:
    assert prompts(text, most) == found


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"prompt": "a | b | c"}, "prompt"),
        ({"prompt": " | "}, "prompt"),
        ({"prompt": "a", "negative_prompt": "a | b | c"}, "negative_prompt"),
    ],
)
def test_more_prompts_than_encoders_or_none_are_refused(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        validate(XL, Request("text-to-image", "acme/turbo", **asked), 99)
    assert wrong_fields(refused.value) == [field]


def test_image_to_image_and_one_encoder_read_the_text_as_it_is() -> None:
    assert text_to_image(prompt="a | b | c").prompt == "a | b | c"
    assert image_to_image(XL, prompt="a | b | c").prompt == "a | b | c"
