"""What a client of the task API is answered, and what its errors look like.

The words of an error begin as the original's do; after them, and in `errors`, it says more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Response, g
from pydantic import ConfigDict, Field

from api import problems, render
from api.errors import MalformedBody
from api.views import FieldErrorView, View
from tasks.errors import InvalidParams
from tasks.results import Task
from tasks.tables import Job

_WRONG = "Incorrect payload structure"
_UNREADABLE = "Invalid request format"
# As the original says it, whatever is wrong with the field.
_SAID: Mapping[str, str] = {
    "body": _UNREADABLE,
    "task": _UNREADABLE,
    "task.metadata": f"{_WRONG}, metadata is missing",
    "task.content": f"{_WRONG}, content is missing",
    "task.metadata.id": f"{_WRONG}, invalid id format",
    "task.metadata.runtime": f"{_WRONG}, invalid runtime format",
    "task.metadata.tasktype": f"{_WRONG}, invalid tasktype",
    "task.metadata.prefix": _UNREADABLE,
    "alwayson_scripts": f"{_WRONG}, alwayson_scripts is missing",
    "alwayson_scripts.sd_model_checkpoint": f"{_WRONG}, sd_model_checkpoint is missing",
    "alwayson_scripts.task": f"{_WRONG}, invalid task",
    "alwayson_scripts.id_task": f"{_WRONG}, invalid id_task format",
    "alwayson_scripts.save_dir": _UNREADABLE,
}
# What a job calls a field, and what a task does.
_NAMES: Mapping[str, str] = {
    "num_images_per_prompt": "batch_size x n_iter",
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "strength": "denoising_strength",
    "sampler": "sampler_name",
    "schedule": "scheduler",
}
# The original knows no other status for what is wrong with a request.
INSTEAD: Mapping[int, int] = dict.fromkeys((413, 415, 422), 400)


class Accepted(View):
    """A task that will be done."""

    id: str
    id_task: str
    runtime: str
    output_location: str = Field(description="Folder of the results, as an s3:// address.")
    job_id: UUID = Field(description="The task's job, to be polled and canceled at `/v1/jobs`.")


class AcceptedByModel(View):
    """The same for a task that names its model."""

    id: str
    id_task: str
    sd_model_checkpoint: str
    output_location: str = Field(description="Folder of the results, as an s3:// address.")
    job_id: UUID = Field(description="The task's job, to be polled and canceled at `/v1/jobs`.")


class Failure(View):
    """An error. `code` is stable, and others may come beside it that tell more."""

    model_config = ConfigDict(extra="allow")

    message: str
    code: str
    errors: list[FieldErrorView] | None = None


def told_as(_status: int) -> type[View]:
    """Return the body that an error of a status has."""
    return Failure


def respond(error: Exception) -> Response:
    """Turn any error into an answer of the task API."""
    told = problems.tell(error)
    status = told.problem.status
    facts = dict(told.facts)
    if "errors" in facts:
        facts["errors"] = [_named(one) for one in told.facts["errors"]]  # type: ignore[attr-defined]  # theirs are lists
    body = {"message": _said(error, told.detail), "code": told.problem.code, **facts}
    view = Failure.model_validate(body)
    status = INSTEAD.get(status, status)
    return Response(
        view.model_dump_json(exclude_unset=True), status, told.headers, mimetype="application/json"
    )


def _named(wrong: Mapping[str, Any]) -> dict[str, Any]:
    return {**wrong, "field": _name(wrong["field"])}


def _name(field: str) -> str:
    # What the input picture is called, depends on the task.
    return g.get("picture_field", "init_images") if field == "image" else _NAMES.get(field, field)


def _said(error: Exception, detail: str) -> str:
    if isinstance(error, MalformedBody):
        return f"{_UNREADABLE}: {detail}"
    if not isinstance(error, InvalidParams):
        return detail
    fields = [one.field for one in error.errors]
    words = next((said for field, said in _SAID.items() if field in fields), _WRONG)
    whole = "; ".join(f"{_name(one.field)} {one.message}" for one in error.errors)
    return f"{words}: {whole}"


def accepted(job: Job, task: Task) -> Response:
    """Tell of a task that will be done."""
    view = Accepted(
        id=task.id,
        id_task=task.id,
        runtime=task.runtime,
        output_location=task.location,
        job_id=job.id,
    )
    return render.answer(view)


def accepted_by_model(job: Job, task: Task, checkpoint: str) -> Response:
    """Tell of a task that will be done with a model as the client has called it."""
    view = AcceptedByModel(
        id=task.id,
        id_task=task.id,
        sd_model_checkpoint=checkpoint,
        output_location=task.location,
        job_id=job.id,
    )
    return render.answer(view)
