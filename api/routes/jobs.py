"""/v1/jobs: submitting, polling, listing and canceling a gateway's own jobs."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterator
from uuid import UUID

from flask import Blueprint, Response
from sqlalchemy import ColumnElement

from api import orders, parsing, render
from api.errors import NoPlaceToWait
from api.openapi import Answer, Operation, operation
from api.runtime import Runtime, current, current_caller, current_gateway
from api.schemas import JobForm, JobRequest, JobsQuery, WaitQuery
from api.views import JobsView, JobView
from ledger.errors import (
    InsufficientFunds,
    InvalidAmount,
    NoPriceLimit,
    NoRate,
    OverBudget,
    OverPriceLimit,
)
from tasks import jobs, waiting, workers
from tasks.errors import (
    FieldError,
    IdempotencyConflict,
    InvalidImage,
    InvalidParams,
    JobNotCancelable,
    JobNotFound,
    LinkLimit,
    LinksBusy,
    NoOffer,
    StorageError,
    UnknownModel,
)
from tasks.tables import Job
from tasks.waiting import Wait

bp = Blueprint("jobs", __name__, url_prefix="/v1/jobs")

BODY = {parsing.JSON: JobRequest, parsing.FORM: JobForm}
REFUSALS = (
    *(UnknownModel, NoOffer, InvalidParams, InvalidImage, InvalidAmount, LinkLimit, LinksBusy),
    *(StorageError, NoPriceLimit, OverPriceLimit, NoRate),
)


@bp.post("")
@operation(
    Operation(
        tag="jobs",
        security="gateway",
        body=BODY,
        headers={
            "Idempotency-Key": "1 to 255 visible characters of yours. Sent again with the same "
            "request, it answers the same job and charges nothing more."
        },
        answers=[
            Answer(
                202,
                "The job, queued, with its price and its hold",
                JobView,
                headers={
                    "Location": "Where to poll it",
                    "Idempotency-Replayed": "`true` when an earlier request made this job",
                },
            )
        ],
        errors=[*REFUSALS, InsufficientFunds, OverBudget, IdempotencyConflict],
        submits=True,
    )
)
def submit() -> Response:
    """Submit a job.

    The price is quoted, checked against the gateway's limit and held at once; it is charged when
    the pictures are there. A refusal holds, queues and stores nothing.
    """
    runtime, caller = current(), current_caller()
    key = parsing.idempotency_key()
    asked, given = parsing.job_body()
    job, wait = orders.place(runtime, caller, asked, given, key)
    view = _view(runtime, job) if wait is None else _view_of(runtime, job, wait)
    response = render.answer(view, 202, Location=f"/v1/jobs/{job.id}")
    if wait is None:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@bp.get("/<job_id>")
@operation(
    Operation(
        tag="jobs",
        security="gateway",
        query=WaitQuery,
        answers=[Answer(200, "The job as it is now", JobView)],
        errors=[JobNotFound],
    )
)
def poll(job_id: str) -> Response:
    """Look at a job, or wait for it to end."""
    runtime, gateway_id = current(), current_gateway()
    wait = parsing.query(WaitQuery).wait
    known = _id(job_id)
    if wait > 0:
        # Waiting takes a thread. When this process has no more of them to spare, it does not wait.
        with contextlib.suppress(NoPlaceToWait), runtime.waiting.place(gateway_id):
            runtime.waiting.wait(gateway_id, known, wait, can_ask_again=True)
    with runtime.reads() as session:
        job = jobs.find(session, gateway_id, known)
    return render.answer(_view(runtime, job))


@bp.get("")
@operation(
    Operation(
        tag="jobs",
        security="gateway",
        query=JobsQuery,
        answers=[Answer(200, "A page of jobs", JobsView)],
    )
)
def index() -> Response:
    """List the gateway's own jobs, newest first."""
    runtime = current()
    asked = parsing.query(JobsQuery)
    with runtime.reads() as session:
        found = jobs.list_jobs(
            session,
            current_gateway(),
            *_filters(asked),
            before=None if asked.cursor is None else _read_cursor(asked.cursor),
            limit=asked.limit + 1,
        )
        page = found[: asked.limit]
        queues = {job.queue for job in page if job.state == "queued"}
        live = {queue for queue in queues if workers.has_live_worker(session, queue)}
    return render.answer(
        JobsView(
            data=[
                render.job(job, runtime=runtime, queue_position=None, live=job.queue in live)
                for job in page
            ],
            next_cursor=_cursor(page[-1].id) if len(found) > asked.limit else None,
        )
    )


@bp.post("/<job_id>/cancel")
@operation(
    Operation(
        tag="jobs",
        security="gateway",
        answers=[Answer(200, "The job, canceled", JobView)],
        errors=[JobNotFound, JobNotCancelable],
    )
)
def cancel(job_id: str) -> Response:
    """Cancel a queued or running job.

    Its funds come back at once; a worker that runs it stops at the next step. Canceling twice is no
    error.
    """
    runtime = current()
    known = _id(job_id)
    with runtime.sessions.begin() as session:
        job = jobs.cancel(session, current_gateway(), known)
    return render.answer(_view(runtime, job))


def _view(runtime: Runtime, job: Job) -> JobView:
    with runtime.reads() as session:
        wait = waiting.look(session, job)
    return _view_of(runtime, job, wait)


def _view_of(runtime: Runtime, job: Job, wait: Wait | None) -> JobView:
    if wait is None:
        return render.job(job, runtime=runtime, queue_position=None, live=True)
    return render.job(job, runtime=runtime, queue_position=wait.position, live=wait.live)


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise JobNotFound(text) from None


def _filters(asked: JobsQuery) -> Iterator[ColumnElement[bool]]:
    if asked.state is not None:
        yield Job.state == asked.state
    if asked.model_id is not None:
        yield Job.model_id == asked.model_id
    if asked.created_after is not None:
        yield Job.created_at > asked.created_after
    if asked.created_before is not None:
        yield Job.created_at < asked.created_before


def _cursor(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def _read_cursor(text: str) -> UUID:
    try:
        last = UUID(bytes=base64.b64decode(text + "==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        last = None
    if last is None or _cursor(last) != text:
        raise InvalidParams([FieldError("cursor", "is not a `next_cursor` of this list")])
    return last
