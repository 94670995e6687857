"""The LoRA adapters that a request names: `{"owner/style": 0.8}` as text, parsed and checked. Pure.

An adapter is a hub id, a file in a hub repository (`owner/name/file.safetensors`), an absolute path
on the worker, or `s3://bucket/key`. Whether it exists, and fits the model, the engine finds out.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from tasks.errors import FieldError, InvalidParams

MAX_LORAS = 4
MAX_WEIGHT = 4.0
_MAX_CHARS = 4096
_SHOWN_CHARS = 100

Kind = Literal["hub", "path", "s3"]
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_SOURCES: Mapping[Kind, re.Pattern[str]] = {
    "hub": re.compile(rf"{_SEGMENT}/{_SEGMENT}(/[^/\x00]+)*"),
    "path": re.compile(r"(/[^/\x00]+)+"),
    "s3": re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/[^/\x00]+)+"),
}


def parse(text: str, allowed: Sequence[str]) -> dict[str, float]:
    """Return the weights of the adapters by source, in the order of the sources.

    `allowed` is as for `is_allowed`. "" and "{}" name none.

    Raises:
        InvalidParams: The text is not JSON, no object, names too many, or a weight or source is
            none.
    """
    if not text.strip():
        return {}
    if len(text) > _MAX_CHARS:
        raise _refused(f"has {len(text)} characters; at most {_MAX_CHARS} are taken")
    pairs = _pairs(text)
    if len(pairs) > MAX_LORAS:
        raise _refused(f"names {len(pairs)} adapters; at most {MAX_LORAS} are taken")
    weights: dict[str, float] = {}
    for source, weight in pairs:
        if source in weights:
            raise _refused(f"names {_shown(source)} twice")
        if kind(source) is None or not is_allowed(source, allowed):
            raise _refused(f"{_shown(source)} is not an adapter that may be used here")
        weights[source] = _weight(source, weight)
    return dict(sorted(weights.items()))


def kind(source: str) -> Kind | None:
    """Tell where a source says that an adapter is, or None when it says nothing of the sort."""
    if any(part in (".", "..") for part in source.split("/")):
        return None  # A path may not leave the folder that an allowed pattern names.
    for name, pattern in _SOURCES.items():
        if pattern.fullmatch(source):
            return name
    return None


def is_allowed(source: str, allowed: Iterable[str]) -> bool:
    """Tell whether a pattern of the source's own kind matches it; `*` is any run of characters.

    So "*/*" is every hub id, but no path and no object: those are named on purpose, as in
    "s3://loras/*" or "/srv/loras/*".
    """
    return any(
        _prefix(pattern) == _prefix(source) and fnmatch.fnmatchcase(source, pattern)
        for pattern in allowed
    )


def patterns(setting: str) -> tuple[str, ...]:
    """Return the patterns of a setting, where commas divide them."""
    return tuple(part.strip() for part in setting.split(",") if part.strip())


def _prefix(text: str) -> str:
    return "s3" if text.startswith("s3://") else "path" if text.startswith("/") else "hub"


def _pairs(text: str) -> list[tuple[str, Any]]:
    # Pairs, because an object would forget that a name was there twice. Objects inside are none of
    # ours, whatever they are.
    try:
        found = json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError):
        raise _refused('cannot be parsed as JSON, such as {"owner/name": 0.8}') from None
    if not isinstance(found, _Object):
        raise _refused('must be a JSON object, such as {"owner/name": 0.8}')
    return list(found)


class _Object(list[tuple[str, Any]]):
    """A JSON object as its pairs, to be told from an array."""


def _weight(source: str, weight: object) -> float:
    # A bool is an int to Python, but not to whoever wrote true.
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        weight = math.nan
    if not 0 <= weight <= MAX_WEIGHT:  # which neither NaN nor an infinity is
        raise _refused(f"the weight of {_shown(source)} must be a number from 0 to {MAX_WEIGHT:g}")
    return float(weight)


def _shown(source: str) -> str:
    return repr(source[:_SHOWN_CHARS])


def _refused(message: str) -> InvalidParams:
    return InvalidParams([FieldError("loras", message)])
