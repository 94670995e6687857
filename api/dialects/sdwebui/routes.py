"""`POST /sdapi/v1/txt2img` and `/img2img`, which answer when the pictures are there."""

from __future__ import annotations

from flask import Response

from api import orders, parsing
from api.dialects.sdwebui import answers, asking, options, pictures
from api.dialects.sdwebui.blueprint import bp
from api.dialects.sdwebui.fields import ImageToImage, TextToImage
from api.dialects.sdwebui.running import MARK
from api.errors import TooManyWaiting, WaitingLimit
from api.openapi import Answer, Operation, operation
from api.routes.jobs import REFUSALS
from api.runtime import current, current_caller
from ledger.errors import InsufficientFunds, OverBudget
from tasks import jobs
from tasks.errors import StorageError

_ANSWERS = (
    Answer(200, "The pictures; none if the job was interrupted", answers.Pictures),
    Answer(400, "A sampler, adapter or picture that cannot be used", answers.Failure),
    Answer(500, "The job failed", answers.Failure),
    Answer(503, "The job's worker or the store was lost", answers.Failure),
    Answer(504, "The job goes on, and can be polled; or its deadline passed", answers.Failure),
)
_ERRORS = (
    *(*REFUSALS, InsufficientFunds, OverBudget, StorageError),
    *(TooManyWaiting, WaitingLimit),
)


@bp.post("/txt2img")
@operation(
    Operation(
        tag="sdwebui",
        security="basic",
        body={parsing.JSON: TextToImage},
        answers=_ANSWERS,
        errors=_ERRORS,
        told_as=answers.told_as,
    )
)
def txt2img() -> Response:
    """Draw pictures of a text.

    As the WebUI does, with the job's id in `info`.
    """
    return _made(parsing.large_json_body(TextToImage))


@bp.post("/img2img")
@operation(
    Operation(
        tag="sdwebui",
        security="basic",
        body={parsing.JSON: ImageToImage},
        answers=_ANSWERS,
        errors=_ERRORS,
        told_as=answers.told_as,
    )
)
def img2img() -> Response:
    """Draw pictures from a picture, or the part of it that a mask shows.

    The picture is brought to the size that is asked for, and that size is what is paid for.
    """
    return _made(parsing.large_json_body(ImageToImage))


def _made(fields: TextToImage | ImageToImage) -> Response:
    """Make the job, and answer when it has ended; nothing is submitted that cannot be waited for.

    Raises:
        WaitingLimit, TooManyWaiting: There is no place to wait in.
    """
    runtime, caller = current(), current_caller()
    asked = asking.read(runtime, caller.gateway_id, fields)
    given = pictures.read(runtime, fields) if isinstance(fields, ImageToImage) else None
    with runtime.waiting.place(caller.gateway_id):
        picture = None if given is None else given.picture
        job, _ = orders.place(
            runtime, caller, asked.job, picture, None, orders.Beside(callback=MARK)
        )
        if asked.stays:
            options.choose(runtime, caller.gateway_id, asked.spec)
        runtime.waiting.wait(caller.gateway_id, job.id, runtime.settings.sdwebui_timeout_s)
    with runtime.reads() as session:
        job = jobs.find(session, caller.gateway_id, job.id)
    made = answers.Made(fields, asked.spec, job, None if given is None else given.cut)
    return answers.of(made, runtime)
