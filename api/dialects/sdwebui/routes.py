"""`POST /sdapi/v1/txt2img`, `img2img` and `extra-single-image`: they answer with the pictures."""

from __future__ import annotations

from flask import Response

from api import orders, parsing
from api.auth import Caller
from api.dialects.sdwebui import answers, asking, extras, options, pictures
from api.dialects.sdwebui.blueprint import bp
from api.dialects.sdwebui.fields import ExtraSingleImage, ImageToImage, TextToImage
from api.dialects.sdwebui.running import MARK
from api.errors import TooManyWaiting, WaitingLimit
from api.openapi import Answer, Operation, operation
from api.routes.jobs import REFUSALS
from api.runtime import Runtime, current, current_caller
from ledger.errors import InsufficientFunds, OverBudget
from tasks import formats, jobs
from tasks.errors import StorageError
from tasks.tables import Job

_ANSWERS = (
    Answer(200, "The pictures; none if the job was interrupted", answers.Pictures),
    Answer(400, "A sampler, adapter or picture that cannot be used", answers.Failure),
    Answer(500, "The job failed", answers.Failure),
    Answer(503, "The job's worker or the store was lost", answers.Failure),
    Answer(504, "The job goes on, and can be polled; or its deadline passed", answers.Failure),
)
_ERRORS = (*REFUSALS, InsufficientFunds, OverBudget, StorageError, TooManyWaiting, WaitingLimit)


@bp.post("/txt2img")
@operation(
    Operation(
        tag="sdwebui",
        security="basic",
        body={parsing.JSON: TextToImage},
        answers=_ANSWERS,
        errors=_ERRORS,
        submits=True,
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
        submits=True,
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
        TooManyWaiting, WaitingLimit: There is no thread to wait in, or none for this gateway.
    """
    runtime, caller = current(), current_caller()
    asked = asking.read(runtime, caller.gateway_id, fields)
    given = (
        pictures.read(runtime, caller.gateway_id, fields)
        if isinstance(fields, ImageToImage)
        else None
    )
    beside = orders.Beside(None if given is None else given.fit, MARK, asked.finer)
    with runtime.waiting.place(caller.gateway_id):
        picture = None if given is None else given.picture
        job, _ = orders.place(runtime, caller, asked.job, picture, None, beside)
        if asked.stays:
            options.remember(runtime, caller.gateway_id, asked.spec)
        job = _ended(runtime, caller, job)
    # The job's own pictures are PNGs: what is put back, or said of them, costs no quality.
    kind = formats.KINDS[asked.format]
    made = answers.Made(fields, asked.spec, job, kind, None if given is None else given.cut)
    return answers.of(made, runtime)


@bp.post("/extra-single-image")
@operation(
    Operation(
        tag="sdwebui",
        security="basic",
        body={parsing.JSON: ExtraSingleImage},
        answers=(Answer(200, "The picture", answers.Extra), *_ANSWERS[1:]),
        errors=_ERRORS,
        submits=True,
        told_as=answers.told_as,
    )
)
def extra_single_image() -> Response:
    """Make a picture larger.

    By a network, or by resampling alone. The size that comes of it is what is paid for.
    """
    runtime, caller = current(), current_caller()
    fields = parsing.large_json_body(ExtraSingleImage)
    asked = extras.read(runtime, caller.gateway_id, fields)
    with runtime.waiting.place(caller.gateway_id):
        beside = orders.Beside(callback=MARK)
        job, _ = orders.place(runtime, caller, asked.job, asked.picture, None, beside)
        job = _ended(runtime, caller, job)
    return answers.of_extra(job, runtime)


def _ended(runtime: Runtime, caller: Caller, job: Job) -> Job:
    """Return a job that has ended, or for which it is no longer waited."""
    runtime.waiting.wait(caller.gateway_id, job.id, runtime.settings.sdwebui_timeout_s)
    with runtime.reads() as session:
        return jobs.find(session, caller.gateway_id, job.id)
