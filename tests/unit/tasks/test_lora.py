"""The `loras` text: what it may say, and every way of getting it wrong told apart."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import lora
from tasks.errors import InvalidParams

ANY = ("*/*", "/*", "s3://*")


@pytest.mark.parametrize("text", ["", "  ", "{}", " {} "])
def test_nothing_named_is_no_adapter(text: str) -> None:
    assert lora.parse(text, ANY) == {}


def test_the_order_of_names_makes_no_difference() -> None:
    one, other = (lora.parse(text, ANY) for text in ('{"b/x":1,"a/y":0.5}', '{"a/y":0.5,"b/x":1}'))
    assert list(one.items()) == list(other.items()) == [("a/y", 0.5), ("b/x", 1.0)]


@pytest.mark.parametrize("weight", [0, 0.0, 1, 4, 4.0, 1e-9])
def test_weights_within_bounds(weight: float) -> None:
    assert lora.parse(json.dumps({"a/b": weight}), ANY) == {"a/b": weight}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be parsed as JSON"),
        ("{'a/b': 1}", "cannot be parsed as JSON"),
        ('{"a/b": 1}}', "cannot be parsed as JSON"),
        ("[" * 4000, "cannot be parsed as JSON"),
        ("[]", "must be a JSON object"),
        ('[["a/b", 1]]', "must be a JSON object"),
        ("5", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ('"a/b"', "must be a JSON object"),
        (json.dumps({f"a/{n}": 1 for n in range(5)}), "names 5 adapters; at most 4"),
        ('{"a/b": 1, "a/b": 2}', "names 'a/b' twice"),
        ('{"a/b": "1"}', "the weight of 'a/b' must be a number from 0 to 4"),
        ('{"a/b": true}', "the weight of 'a/b'"),
        ('{"a/b": null}', "the weight of 'a/b'"),
        ('{"a/b": {}}', "the weight of 'a/b'"),
        ('{"a/b": NaN}', "the weight of 'a/b'"),
        ('{"a/b": Infinity}', "the weight of 'a/b'"),
        ('{"a/b": 1e999}', "the weight of 'a/b'"),
        ('{"a/b": -0.1}', "the weight of 'a/b'"),
        ('{"a/b": 4.1}', "the weight of 'a/b'"),
        ('{"a/b": 1' + "0" * 400 + "}", "the weight of 'a/b'"),
        ('{"": 1}', "'' is not an adapter"),
        ('{"style": 1}', "'style' is not an adapter"),
        ('{"a/b/../../c": 1}', "is not an adapter"),
        ('{"/srv/../etc/x": 1}', "is not an adapter"),
        ('{"./a": 1}', "is not an adapter"),
        ('{"~/a": 1}', "is not an adapter"),
        ('{"http://a/b": 1}', "is not an adapter"),
        ('{"file:///a/b": 1}', "is not an adapter"),
        ('{"s3://bucket": 1}', "is not an adapter"),
        ('{"a/b\\u0000": 1}', "is not an adapter"),
        (json.dumps({"a/" + "b" * 5000: 1}), "at most 4096 are taken"),
    ],
)
def test_every_mistake_is_told_by_its_kind(text: str, told: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        lora.parse(text, ANY)
    (error,) = refused.value.errors
    assert error.field == "loras"
    assert told in error.message


@given(st.text(max_size=200))
def test_no_text_breaks_it(text: str) -> None:
    try:
        weights = lora.parse(text, ANY)
    except InvalidParams:
        return
    assert len(weights) <= lora.MAX_LORAS


@pytest.mark.parametrize(
    ("source", "allowed", "is_allowed"),
    [
        ("acme/style", ("*/*",), True),
        ("acme/style/one.safetensors", ("*/*",), True),
        ("acme/style", ("acme/*",), True),
        ("other/style", ("acme/*",), False),
        ("acme/style", (), False),
        ("/srv/loras/x.safetensors", ("*/*", "*"), False),
        ("/srv/loras/x.safetensors", ("/srv/loras/*",), True),
        ("/etc/x.safetensors", ("/srv/loras/*",), False),
        ("s3://bucket/x.safetensors", ("*/*", "/*", "*"), False),
        ("s3://bucket/x.safetensors", ("s3://bucket/*",), True),
        ("s3://other/x.safetensors", ("s3://bucket/*",), False),
        ("acme/Style", ("acme/style",), False),
    ],
)
def test_a_pattern_allows_sources_of_its_own_kind(
    source: str, allowed: tuple[str, ...], *, is_allowed: bool
) -> None:
    assert lora.is_allowed(source, allowed) is is_allowed
    text = json.dumps({source: 1})
    if is_allowed:
        assert lora.parse(text, allowed) == {source: 1.0}
    else:
        with pytest.raises(InvalidParams, match="may be used here"):
            lora.parse(text, allowed)


@pytest.mark.parametrize(
    ("setting", "found"),
    [("", ()), ("*/*", ("*/*",)), (" a/*, s3://b/* ,", ("a/*", "s3://b/*"))],
)
def test_commas_divide_a_setting_into_patterns(setting: str, found: tuple[str, ...]) -> None:
    assert lora.patterns(setting) == found


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("a/b", "hub"),
        ("a/b/c d.safetensors", "hub"),
        ("/srv/l.safetensors", "path"),
        ("s3://bucket/key", "s3"),
        ("a", None),
        ("a/..", None),
        ("//x", None),
        ("s3://Bucket/key", None),
    ],
)
def test_the_kind_of_a_source(source: str, kind: Any) -> None:
    assert lora.kind(source) == kind
