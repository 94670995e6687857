"""What webhooks are told: the end of a job, as the API shows the job, rendered outside of requests.

To whom, and how it gets there, is for `tasks.webhooks` and `tasks.delivery`.
"""

from __future__ import annotations

import functools

from api import render
from api.views import MessageView
from tasks.delivery import Render
from tasks.tables import Job


def renderer(public_url: str) -> Render:
    """Return what renders messages, whose links lead to the API as clients reach it."""

    def rendered(job: Job, event: str) -> bytes:
        view = render.job_with(
            job,
            url_of=functools.partial(render.stream_url, host=public_url),
            queue_position=None,
            live=True,
        )
        message = {"type": event, "timestamp": job.finished_at, "data": view}
        return MessageView.model_validate(message).model_dump_json().encode()

    return rendered
