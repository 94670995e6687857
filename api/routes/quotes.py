"""/v1/quotes: what a job would cost and who would run it."""

from __future__ import annotations

from flask import Blueprint, Response

from api import orders, parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.jobs import BODY, REFUSALS
from api.runtime import current, current_gateway
from api.views import QuoteView
from tasks import jobs

bp = Blueprint("quotes", __name__, url_prefix="/v1/quotes")


@bp.post("")
@operation(
    Operation(
        tag="jobs",
        security="gateway",
        body=BODY,
        answers=[Answer(200, "The quote", QuoteView)],
        errors=REFUSALS,
    )
)
def quote() -> Response:
    """Quote a job.

    Takes the body of a job and checks all of it. Holds, queues and stores nothing, and does not
    look at the balance; the price may change before the job is submitted.
    """
    runtime = current()
    asked, given = parsing.job_body()
    prepared = orders.prepare(runtime, current_gateway(), asked, given)
    orders.deadline_s(runtime, asked)
    with runtime.reads() as session:
        estimate = jobs.estimate(
            session,
            current_gateway(),
            prepared.generation,
            prepared.max_price,
            max_rate_age=runtime.max_rate_age,
            weights=runtime.task_settings.weights,
        )
    return render.answer(render.quote(estimate, prepared.generation))
