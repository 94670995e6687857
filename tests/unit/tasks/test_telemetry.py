"""What is logged of an error: enough to find it, and nothing of the rows it was about."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from tasks.errors import InferenceError
from tasks.telemetry import brief

PROMPT = "a prompt that nobody may read"


def test_the_values_of_a_failed_statement_are_not_told() -> None:
    cause = ValueError(f"duplicate key value\nDETAIL:  Failing row contains ({PROMPT}).")
    error = IntegrityError("INSERT INTO jobs ...", {"prompt": PROMPT}, cause)
    assert PROMPT in str(error)
    assert brief(error) == "ValueError: duplicate key value"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InferenceError("not finite"), "InferenceError: not finite"),
        (TimeoutError(), "TimeoutError: "),
        (ValueError("x" * 1000), f"ValueError: {'x' * 300}"),
    ],
)
def test_an_error_is_its_kind_and_first_line(error: Exception, told: str) -> None:
    assert brief(error) == told
