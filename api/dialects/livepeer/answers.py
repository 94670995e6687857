"""What a Livepeer client is answered: its pictures, where its job is, or what went wrong.

The published SDK parses 200, 400, 401, 422 and 500 into classes of its own, and is strict about
their bodies; for any other status it hands the body on as it is. What is said beyond Livepeer's own
keys it ignores.
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from flask import Response
from pydantic import ConfigDict, Field

from api import problems, render
from api.runtime import Runtime
from api.views import JobErrorView, Money, View
from tasks.errors import (
    InvalidImage,
    InvalidParams,
    LoraError,
    LoraIncompatible,
    LoraNotAllowed,
    LoraNotFound,
    StorageError,
    Withheld,
)
from tasks.tables import Job

_UNPROCESSABLE, _BAD_REQUEST = 422, 400
_SERVER_ERROR, _UNAVAILABLE, _GATEWAY_TIMEOUT = 500, 503, 504
_LORAS = "loras"

# How a job that failed is told, by its error code; what is not here is an error of ours.
_ENDED: dict[str, int] = {
    LoraError.code: _BAD_REQUEST,
    LoraNotFound.code: _BAD_REQUEST,
    LoraNotAllowed.code: _BAD_REQUEST,
    LoraIncompatible.code: _BAD_REQUEST,
    InvalidImage.code: _BAD_REQUEST,
    Withheld.code: _BAD_REQUEST,
    StorageError.code: _UNAVAILABLE,
    "worker_lost": _UNAVAILABLE,
    "deadline_passed": _GATEWAY_TIMEOUT,
    "canceled": 409,
}


class Picture(View):
    """One picture."""

    url: str
    seed: int
    nsfw: bool = Field(description="The safety checker's verdict; false where none has looked.")


class Pictures(View):
    """The pictures in the order of their seeds, and what was run and paid for them."""

    model_config = ConfigDict(protected_namespaces=())

    images: list[Picture]
    job_id: UUID
    model_id: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    units: int = Field(description="Pixels that were charged for.")
    price_per_unit: Money
    pixels_per_unit: int
    amount: Money = Field(description="What was charged.")
    currency: str
    orchestrator: str
    error: JobErrorView | None = Field(description="Why pictures are missing, if some are.")


class Accepted(View):
    """A job that is not waited for."""

    request_id: UUID
    job_id: UUID
    status: Literal["processing"] = "processing"
    url: str = Field(description="Where to poll the job.")


class Message(View):
    """What went wrong, in words."""

    msg: str


class Failure(View):
    """An error. `code` is stable, and others may come beside it that tell more."""

    model_config = ConfigDict(extra="allow")

    detail: Message
    code: str
    job_id: UUID | None = None


class FieldFailure(View):
    """What is wrong with one field."""

    loc: list[str | int]
    msg: str
    type: str


class FieldFailures(View):
    """A request whose fields are wrong."""

    detail: list[FieldFailure]
    code: str


def told_as(status: int) -> type[View]:
    """Return the body that an error of a status has."""
    return FieldFailures if status == _UNPROCESSABLE else Failure


def respond(error: Exception) -> Response:
    """Turn any error into an answer in the shape that the SDK parses."""
    told = problems.tell(error)
    status, code = told.problem.status, told.problem.code
    if status == _UNPROCESSABLE and not _is_about_loras(error):
        wrong: Any = told.facts.get("errors") or [{"field": "body", "message": told.detail}]
        fields = [
            FieldFailure(loc=["body", *one["field"].split(".")], msg=one["message"], type=code)
            for one in wrong
        ]
        return render.answer(FieldFailures(detail=fields, code=code), status, **told.headers)
    if status == _UNPROCESSABLE:
        status = _BAD_REQUEST
    facts = {name: value for name, value in told.facts.items() if name != "errors"}
    view = Failure.model_validate({"detail": Message(msg=told.detail), "code": code, **facts})
    return Response(
        view.model_dump_json(exclude_unset=True), status, told.headers, mimetype="application/json"
    )


def _is_about_loras(error: Exception) -> bool:
    """Tell whether adapters alone are wrong: Livepeer says so with 400, whenever it finds out."""
    return isinstance(error, InvalidParams) and {one.field for one in error.errors} == {_LORAS}


def accepted(job: Job) -> Response:
    """Say where a job is that the client does not wait for."""
    url = f"/v1/jobs/{job.id}"
    view = Accepted(request_id=job.id, job_id=job.id, url=url)
    return render.answer(view, 202, Location=url, **{"Preference-Applied": "respond-async"})


def of(job: Job, runtime: Runtime) -> Response:
    """Show a job that was waited for: its pictures, why it failed, or that it is not done."""
    if job.state == "succeeded":
        return render.answer(_pictures(job, runtime))
    if job.state in ("queued", "running"):
        said = (
            f"The pictures are not there yet. The job goes on: poll /v1/jobs/{job.id}, "
            "where it can be canceled, too."
        )
        return _failed(job, _GATEWAY_TIMEOUT, "timeout", said)
    code = job.error_code or job.state
    said = job.error_message or f"The job was {job.state}."
    return _failed(job, _ENDED.get(code, _SERVER_ERROR), code, said)


def _pictures(job: Job, runtime: Runtime) -> Pictures:
    view = render.job(job, runtime=runtime, queue_position=None, live=True)
    return Pictures(
        images=[Picture(url=one.url, seed=one.seed, nsfw=bool(one.nsfw)) for one in view.outputs],
        job_id=view.id,
        model_id=view.model_id,
        width=view.parameters.width,
        height=view.parameters.height,
        num_inference_steps=view.parameters.num_inference_steps,
        guidance_scale=view.parameters.guidance_scale,
        units=view.units // job.num_images * len(view.outputs),
        price_per_unit=view.price_per_unit,
        pixels_per_unit=view.pixels_per_unit,
        amount=view.charged or view.amount,
        currency=view.currency,
        orchestrator=view.orchestrator,
        error=view.error,
    )


def _failed(job: Job, status: int, code: str, said: str) -> Response:
    view = Failure(detail=Message(msg=said), code=code, job_id=job.id)
    # Under its key the job stays as it ended: only a client without one would get another.
    is_passing = status == _UNAVAILABLE and job.idempotency_key is None
    again = {"Retry-After": problems.RETRY_AFTER_S} if is_passing else {}
    return render.answer(view, status, **again)
