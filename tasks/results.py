"""Where a job's pictures are in the object store, and its manifest, where it has one. Pure.

By itself a job has a folder of its own, `outputs/<job>/<attempt>/`. A job of the AWS task API has
the folder that its client has named, below one of its gateway's, and there may be others of the
same name in it. What is in a folder is numbered from 1: `<id>-<rand4>-<n>.png`, and
`<id>-<rand4>.out` says what it all is. The digits of an attempt are drawn by `tasks.stems`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

# Our own folders in the bucket: of inputs, of jobs' results, and one of tasks' results, so that no
# prefix leads to what is not a task's.
FOLDERS = (INPUTS, OUTPUTS, TASKS) = ("inputs", "outputs", "tasks")
_ID = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9_-]{1,64}")
# Letters that mean the same in every store, URL and file system; parts of dots lead elsewhere.
_PART = re.compile(r"(?!\.+$)[A-Za-z0-9!_.*'()=+@,-]+")
_MAX_PREFIX_CHARS = 512


@dataclass(frozen=True)
class Task:
    """A job of the AWS task API, as the job's row keeps it: who asked, and where results go.

    `orchestrator` is the name of the only one that may do it, if its runtime is of one.
    """

    id: str
    runtime: str
    bucket: str
    folder: str
    orchestrator: str | None = None

    @classmethod
    def of(cls, callback: Mapping[str, Any] | None) -> Task | None:
        """Return the task that a job's row tells of; None: it is no task."""
        found = (callback or {}).get("task")
        return None if found is None else cls(**found)

    def to_json(self) -> dict[str, str]:
        """Return the task as the job's row keeps it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def location(self) -> str:
        """Where its results are."""
        return self.url(self.folder)

    def url(self, key: str) -> str:
        """Return an object's address."""
        return f"s3://{self.bucket}/{key}"

    def stem(self, digits: str) -> str:
        """Return what the keys of one attempt begin with, by the digits that it has drawn."""
        return f"{self.folder}/{self.id}-{digits}"


def folder(gateway_id: UUID, prefix: str, task_id: str) -> str:
    """Return where a gateway's task has its results, by a prefix and an id that are checked."""
    return f"{TASKS}/{gateway_id}/{prefix}/{task_id}"


def is_task_id(text: str) -> bool:
    """Tell whether a text may be a task's id: it stands in keys and messages."""
    return _ID.fullmatch(text) is not None


def checked_prefix(text: str) -> str:
    """Return a prefix without the slash at its end.

    Raises:
        ValueError: It is none, or could lead out of its folder; says what to do.
    """
    prefix = text.removesuffix("/")
    if not prefix:
        raise ValueError("must name a folder, such as `output`")
    if len(prefix) > _MAX_PREFIX_CHARS:
        raise ValueError(f"must have at most {_MAX_PREFIX_CHARS} characters")
    if not all(_PART.fullmatch(part) for part in prefix.split("/")):
        raise ValueError(
            "must be names that slashes divide, of letters, digits and !_.*'()=+@,- ; it cannot "
            "begin with a slash, and no name is empty or of dots alone"
        )
    return prefix


def picture_key(job_id: UUID, attempt: int, index: int, name: str, stem: str | None) -> str:
    """Return where an attempt of a job stores the picture of an index."""
    if stem is None:
        # The attempt keeps a worker that lost its claim from overwriting the winner's picture.
        return f"{OUTPUTS}/{job_id}/{attempt}/{name}"
    return f"{stem}-{index + 1}{PurePosixPath(name).suffix}"


def manifest_key(stem: str) -> str:
    """Return where an attempt of a task stores its manifest."""
    return f"{stem}.out"


def beginnings(job_id: UUID, stems: Collection[str]) -> list[str]:
    """Return what the keys of all that a job's attempts may have stored begin with."""
    own = [f"{stem}{next_}" for stem in stems for next_ in ("-", ".")]
    return own or [f"{OUTPUTS}/{job_id}/"]
