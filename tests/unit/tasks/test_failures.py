"""What each error means for its job and for its worker."""

from __future__ import annotations

import pytest

from tasks import failures
from tasks.errors import (
    InferenceError,
    InvalidImage,
    LoraNotFound,
    ModelLoadError,
    ObjectNotFound,
    OutOfMemory,
    StorageError,
)


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (OutOfMemory("x"), 1),
        (ObjectNotFound("x"), 1),
        (InvalidImage("x"), 1),
        (LoraNotFound("x"), 1),
        (InferenceError("x"), 2),
        (StorageError("x"), 3),
        (ModelLoadError("x"), 3),
        (ZeroDivisionError("x"), 3),
    ],
)
def test_what_would_end_so_everywhere_is_not_tried_again(error: Exception, tries: int) -> None:
    assert failures.tries(error, 3) == tries
    assert failures.tries(error, 1) == 1


def test_only_what_a_picture_may_bring_upon_others_is_of_one_picture() -> None:
    assert failures.is_of_one_picture(OutOfMemory("x"))
    assert failures.is_of_one_picture(InferenceError("x"))
    assert not failures.is_of_one_picture(ModelLoadError("x"))
    assert not failures.is_of_one_picture(ZeroDivisionError("x"))


def test_a_device_is_suspected_where_nothing_else_is_to_blame() -> None:
    assert failures.speaks_against_the_worker(InferenceError("x"))
    assert failures.speaks_against_the_worker(ZeroDivisionError("x"))
    assert not failures.speaks_against_the_worker(StorageError("x"))
    assert not failures.speaks_against_the_worker(OutOfMemory("x"))


def test_what_is_ours_stays_ours() -> None:
    assert failures.code_of(ZeroDivisionError("secret")) == "internal_error"
    assert "secret" not in failures.message_of(ZeroDivisionError("secret"))


def test_a_message_fits_into_a_row() -> None:
    error = InferenceError("x\x00y" * 1000)
    assert failures.code_of(error) == "inference_failed"
    assert failures.message_of(error) == "xy" * 250
