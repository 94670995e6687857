"""What is read as JSON, and how: exactly, or not at all."""

from __future__ import annotations

import contextlib
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from api.dialects.livepeer import fields as livepeer
from api.dialects.sdwebui import fields as sdwebui
from api.errors import MalformedBody
from api.parsing import checked, loads
from api.schemas import FORM_SCALARS, JobForm, JobRequest, LimitsRequest
from tasks.errors import InvalidParams

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_is_read_as_everybody_reads_it(value: object) -> None:
    assert loads(json.dumps(value).encode()) == value
    assert loads(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_decimals_keep_every_digit(value: Decimal) -> None:
    read = loads(str(value).replace("E+", "e").encode())
    assert Decimal(read) == value


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(MalformedBody):
        loads(data)


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        '{"a": -Infinity}',
        '{"a": 1, "a": 2}',
        '{"a": {"b": 1, "b": 1}}',
        r'"\ud800"',
        r'{"\udfff": 1}',
        "9" * 5000,
        "1e" + "9" * 30,
        "[" * 100_000,
        '{"a":' * 100_000,
        "",
        " ",
        "{",
        "{} {}",
        "'a'",
        "\ufeff{}",
    ],
)
def test_what_two_readers_could_read_differently_is_refused(text: str) -> None:
    with pytest.raises(MalformedBody):
        loads(text.encode())


def test_a_pair_of_halves_is_a_character() -> None:
    assert loads(rb'"\ud83e\udd8a"') == "\N{FOX FACE}"


def test_the_scalars_of_a_form_are_the_fields_that_are_no_text() -> None:
    properties = JobForm.model_json_schema()["properties"]
    scalars = {
        name
        for name, facts in properties.items()
        if {"integer", "number", "boolean"}
        & {choice.get("type") for choice in facts.get("anyOf", [facts])}
    }
    # A price is text or a number, so a form's text is a price already.
    assert scalars - {"max_price"} == FORM_SCALARS


GOOD = {"pipeline": "text-to-image", "model_id": "a/b", "prompt": "x"}


def refused(**changes: object) -> dict[str, str]:
    with pytest.raises(InvalidParams) as caught:
        checked(JobRequest, {**GOOD, **changes})
    return {error.field: error.message for error in caught.value.errors}


def test_the_smallest_request_fills_in_nothing_of_the_models() -> None:
    asked = checked(JobRequest, GOOD)
    assert (asked.width, asked.guidance_scale, asked.seed) == (None, None, None)
    assert (asked.num_images_per_prompt, asked.priority, asked.safety_check) == (1, 0, True)


def test_numbers_may_be_written_either_way() -> None:
    asked = checked(JobRequest, {**GOOD, "guidance_scale": 7, "strength": Decimal("0.5")})
    assert (asked.guidance_scale, asked.strength) == (7.0, 0.5)
    assert isinstance(asked.guidance_scale, float)


def test_a_number_past_all_floats_is_infinite_and_left_to_the_model_to_refuse() -> None:
    assert checked(JobRequest, {**GOOD, "guidance_scale": 10**400}).guidance_scale == float("inf")


@pytest.mark.parametrize("value", ["1", True, [], {}, None, 1.5, Decimal("1.5"), Decimal(1)])
def test_a_count_is_a_whole_number(value: object) -> None:
    assert refused(num_images_per_prompt=value) == {
        "num_images_per_prompt": "must be a whole number"
    }


@pytest.mark.parametrize("model", [sdwebui.TextToImage, sdwebui.ImageToImage, livepeer.TextToImage])
@pytest.mark.parametrize(
    "text",
    [
        *("1e1000000000000", "-1e1000000000000", "1e-1000000000000", "9" * 4000, "16.5"),
        *('"1e400"', f'"{"9" * 4000}"', f"1.{'0' * 1_000_000}1", "[]"),
    ],
)
def test_a_whole_number_of_a_foreign_body_costs_no_more_than_its_digits(
    model: type[BaseModel], text: str
) -> None:
    """Each would be seconds, or a lifetime, of a process's time as an integer."""
    with pytest.raises(InvalidParams) as caught:
        checked(model, loads(f'{{"prompt": "x", "seed": {text}}}'.encode()))
    [error] = caught.value.errors
    assert error.field == "seed"
    assert error.message.startswith("must be a whole number")


@pytest.mark.parametrize("text", ["16", "16.0", "1.6e1", '"16"', f"16.{'0' * 100_000}"])
def test_a_foreign_body_may_write_a_whole_number_in_its_way(text: str) -> None:
    body = loads(f'{{"prompt": "x", "width": {text}}}'.encode())
    assert checked(sdwebui.TextToImage, body).width == 16
    assert checked(livepeer.TextToImage, body).width == 16


@pytest.mark.parametrize("value", [1, 0, "true", "yes", None])
def test_a_boolean_is_true_or_false(value: object) -> None:
    assert refused(safety_check=value) == {"safety_check": "must be true or false"}


@pytest.mark.parametrize("value", [True, [], "one", "1e40", "0." + "0" * 18 + "1", "-Infinity"])
def test_a_price_is_an_exact_number(value: object) -> None:
    assert set(refused(max_price=value)) == {"max_price"}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2030-01-31T12:00:00Z", "2030-01-31T12:00:00+00:00"),
        ("2030-01-31t12:00:00.5z", "2030-01-31T12:00:00.500000+00:00"),
        ("2030-01-31T12:00:00.123456789Z", "2030-01-31T12:00:00.123456+00:00"),
        ("2030-01-31T12:00:00+02:00", "2030-01-31T10:00:00+00:00"),
    ],
)
def test_times_are_read_in_utc(written: str, read: str) -> None:
    asked = checked(JobRequest, {**GOOD, "deadline": written})
    assert asked.deadline is not None
    assert asked.deadline.isoformat() == read


@pytest.mark.parametrize(
    "value",
    [
        "2030-01-31",
        "2030-01-31T12:00:00",
        "2030-01-31 12:00:00Z",
        "2030-13-01T00:00:00Z",
        "2030-01-31T24:61:00Z",
        "0001-01-01T00:00:00+23:59",
        "٢٠٣٠-01-31T12:00:00Z",
        "tomorrow",
        1_900_000_000,
    ],
)
def test_what_is_no_rfc_3339_time_is_refused(value: object) -> None:
    assert "RFC 3339" in refused(deadline=value)["deadline"]


def test_what_is_wrong_is_named_by_its_path() -> None:
    with pytest.raises(InvalidParams) as caught:
        checked(LimitsRequest, {"data": [{"price_per_unit": 1}, {"price_per_unit": "x", "a": 1}]})
    assert {error.field for error in caught.value.errors} == {"data.1.price_per_unit", "data.1.a"}


def test_no_message_speaks_of_python() -> None:
    said = " ".join(
        message
        for changes in (
            {"pipeline": "x", "model_id": "", "prompt": 1, "width": "1", "priority": 99},
            {"model_id": "a\nb", "guidance_scale": "x", "image": 3, "nonsense": 1},
            {"model_id": "a" * 300, "seed": None, "loras": None, "max_price": None, "prompt": 0},
        )
        for message in refused(**changes).values()
    )
    for word in ("Input", "dict", "NoneType", "instance", "Decimal", "extra"):
        assert word not in said
