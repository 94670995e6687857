"""`POST /text-to-image` and `POST /image-to-image`, which answer when the pictures are there."""

from __future__ import annotations

from flask import Blueprint, Flask, Response, request

from api import orders, parsing
from api.dialects.livepeer import answers, fields
from api.errors import TooManyWaiting, WaitingLimit
from api.openapi import Answer, Operation, operation
from api.routes.jobs import REFUSALS
from api.runtime import current, current_caller
from api.schemas import JobFields
from ledger.errors import InsufficientFunds, OverBudget
from tasks import jobs
from tasks.errors import IdempotencyConflict, StorageError

bp = Blueprint("livepeer", __name__)
bp.register_error_handler(Exception, answers.respond)

_ASYNC = "respond-async"
_HEADERS = {
    "Idempotency-Key": "1 to 255 visible characters of yours. Sent again with the same request, "
    "it answers the same job and charges nothing more.",
    "Prefer": "`respond-async`: answer 202 at once, and let the job be polled.",
}
_ANSWERS = (
    Answer(200, "The pictures", answers.Pictures),
    Answer(
        202,
        "The job, which is not waited for",
        answers.Accepted,
        headers={"Location": "Where to poll it"},
    ),
    Answer(400, "An adapter or picture turned out not to be usable", answers.Failure),
    Answer(409, "The job was canceled", answers.Failure),
    Answer(500, "The job failed", answers.Failure),
    Answer(503, "The job's worker or the store was lost", answers.Failure),
    Answer(504, "The job goes on, and can be polled; or its deadline passed", answers.Failure),
)
_ERRORS = (
    *REFUSALS,
    *(
        InsufficientFunds,
        OverBudget,
        IdempotencyConflict,
        StorageError,
        WaitingLimit,
        TooManyWaiting,
    ),
)


@bp.post("/text-to-image", strict_slashes=False)
@operation(
    Operation(
        tag="livepeer",
        security="caller",
        body={parsing.JSON: fields.TextToImage},
        headers=_HEADERS,
        answers=_ANSWERS,
        errors=_ERRORS,
        submits=True,
        told_as=answers.told_as,
    )
)
def text_to_image() -> Response:
    """Draw pictures of a text.

    As a Livepeer AI gateway does, with the job, its price and what was really run beside the
    pictures.
    """
    return _made(fields.text_to_image(current()), None)


@bp.post("/image-to-image", strict_slashes=False)
@operation(
    Operation(
        tag="livepeer",
        security="caller",
        body={parsing.FORM: fields.ImageToImage},
        headers=_HEADERS,
        answers=_ANSWERS,
        errors=_ERRORS,
        submits=True,
        told_as=answers.told_as,
    )
)
def image_to_image() -> Response:
    """Draw pictures from a picture.

    Their size, and the price, follow the input picture.
    """
    return _made(*fields.image_to_image(current()))


def _made(asked: JobFields, data: bytes | None) -> Response:
    """Make the job, and answer when it has ended; nothing is submitted that cannot be waited for.

    Raises:
        WaitingLimit, TooManyWaiting: There is no place to wait in, for this gateway or at all.
    """
    runtime, caller = current(), current_caller()
    key = parsing.idempotency_key()
    if _wants_no_wait():
        job, _ = orders.place(runtime, caller, asked, data, key)
        return answers.accepted(job)
    with runtime.waiting.place(caller.gateway_id):
        job, _ = orders.place(runtime, caller, asked, data, key)
        runtime.waiting.wait(caller.gateway_id, job.id, runtime.settings.livepeer_timeout_s)
    with runtime.reads() as session:
        return answers.of(jobs.find(session, caller.gateway_id, job.id), runtime)


def _wants_no_wait() -> bool:
    """Tell whether `Prefer` asks for an answer at once (RFC 7240)."""
    preferences = ",".join(request.headers.getlist("Prefer")).split(",")
    return any(one.partition(";")[0].strip().lower() == _ASYNC for one in preferences)


def install(app: Flask, mounts: tuple[str, ...]) -> None:
    """Serve the routes at the root, and under each prefix."""
    for number, prefix in enumerate(mounts):
        name = "livepeer" if number == 0 else f"livepeer_{number}"
        app.register_blueprint(bp, name=name, url_prefix=prefix or None)
