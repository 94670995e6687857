"""`POST /v1alpha2` and `POST /v1alpha1`, which answer as soon as the task is queued."""

from __future__ import annotations

from dataclasses import replace

from flask import Blueprint, Response

from api import orders, parsing
from api.dialects.aws import answers, content, requests
from api.dialects.aws.requests import Asked
from api.openapi import Answer, Operation, operation
from api.routes.jobs import REFUSALS
from api.runtime import current, current_caller
from ledger.errors import InsufficientFunds, OverBudget
from tasks import results
from tasks.errors import IdempotencyConflict, UnknownRuntime
from tasks.results import Task
from tasks.tables import Job

bp = Blueprint("aws", __name__)
bp.register_error_handler(Exception, answers.respond)

_HEADERS = {
    "Idempotency-Key": "1 to 255 visible characters of yours. Sent again with the same request, "
    "it answers the same job and charges nothing more. The task's id does not: a task may be done "
    "again.",
}
_ERRORS = (*REFUSALS, UnknownRuntime, InsufficientFunds, OverBudget, IdempotencyConflict)


@bp.post("/v1alpha2")
@operation(
    Operation(
        tag="aws",
        security="x-api-key",
        body={parsing.JSON: requests.V1Alpha2},
        headers=_HEADERS,
        answers=(Answer(200, "The task will be done", answers.Accepted),),
        errors=_ERRORS,
        submits=True,
        told_as=answers.told_as,
        instead=answers.INSTEAD,
    )
)
def v1alpha2() -> Response:
    """Submit a task to a runtime.

    Its pictures are stored below `output_location`, and a completion message is sent to the
    gateway's webhooks.
    """
    job, task = _made(requests.v1alpha2())
    return answers.accepted(job, task)


@bp.post("/v1alpha1")
@operation(
    Operation(
        tag="aws",
        security="x-api-key",
        body={parsing.JSON: requests.V1Alpha1},
        headers=_HEADERS,
        answers=(Answer(200, "The task will be done", answers.AcceptedByModel),),
        errors=_ERRORS,
        submits=True,
        told_as=answers.told_as,
        instead=answers.INSTEAD,
    )
)
def v1alpha1() -> Response:
    """Submit a task to whoever has its model.

    The older form: the body is the web UI's, and what the task is stands among its scripts.
    """
    asked = requests.v1alpha1()
    job, task = _made(asked)
    checkpoint = str(asked.content["alwayson_scripts"]["sd_model_checkpoint"])
    return answers.accepted_by_model(job, task, checkpoint)


def _made(asked: Asked) -> tuple[Job, Task]:
    runtime, caller = current(), current_caller()
    key = parsing.idempotency_key()
    drawing = content.read(runtime, caller.gateway_id, asked)
    task = Task(
        id=asked.id,
        runtime=asked.runtime or requests.LEGACY,
        bucket=runtime.task_settings.s3_bucket,
        folder=results.folder(caller.gateway_id, asked.prefix, asked.id),
        orchestrator=runtime.catalog.runtime(asked.runtime).orchestrator if asked.runtime else None,
    )
    beside = replace(drawing.beside, callback={"task": task.to_json()})
    job, _ = orders.place(runtime, caller, drawing.fields, drawing.given, key, beside)
    return job, task
