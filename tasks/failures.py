"""What a job's error means: how often the job is tried, whose fault it is, what its owner reads.

Pure. What then becomes of the job is in `tasks.settling`.
"""

from __future__ import annotations

from tasks.errors import (
    InferenceError,
    InvalidImage,
    LoraError,
    LoraIncompatible,
    LoraNotAllowed,
    LoraNotFound,
    ModelLoadError,
    ObjectNotFound,
    OutOfMemory,
    StorageError,
    TasksError,
    Unchecked,
    Withheld,
)

_FINAL = (
    *(ObjectNotFound, InvalidImage, OutOfMemory, Withheld, Unchecked),
    *(LoraNotFound, LoraNotAllowed, LoraIncompatible),
)
# These speak against the job, or against what a catalog names, and not against the worker.
_NOT_THE_WORKER = (
    *(StorageError, OutOfMemory, InvalidImage, LoraError, ModelLoadError),
    *(Withheld, Unchecked),
)
_MAX_MESSAGE = 500


def tries(error: Exception, max_attempts: int) -> int:
    """Return how many attempts a job gets that ends with this error."""
    if isinstance(error, _FINAL):
        return 1  # It would end so everywhere.
    if isinstance(error, InferenceError):
        return min(2, max_attempts)  # It may have been the device, or the neighbours.
    return max_attempts


def is_of_one_picture(error: Exception) -> bool:
    """Tell whether a call that failed so may be spared it by making fewer pictures at once."""
    return isinstance(error, (OutOfMemory, InferenceError))


def speaks_against_the_worker(error: Exception) -> bool:
    """Tell whether error after error of this kind means that the worker's device has faulted."""
    return not isinstance(error, _NOT_THE_WORKER)


def code_of(error: Exception) -> str:
    """Return the stable code of an error."""
    return error.code if isinstance(error, TasksError) else "internal_error"


def message_of(error: Exception) -> str:
    """Return what the job's owner is told, in a form that the job's row can hold."""
    if not isinstance(error, TasksError):
        return "Something unforeseen went wrong while this job ran."
    return str(error).replace("\x00", "")[:_MAX_MESSAGE]
