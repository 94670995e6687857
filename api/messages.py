"""What webhooks are told: the end of a job, as the API shows the job, rendered outside of requests.

The end of a task is told as the AWS task API tells it. To whom, and how it gets there, is for
`tasks.webhooks` and `tasks.delivery`.
"""

from __future__ import annotations

import functools

from api import render
from api.views import CompletionView, JobErrorView, MessageView
from tasks.delivery import Render
from tasks.results import Task
from tasks.tables import Job


def renderer(public_url: str) -> Render:
    """Return what renders messages, whose links lead to the API as clients reach it."""

    def rendered(job: Job, event: str, manifest: str | None) -> bytes:
        task = Task.of(job.callback)
        if task is not None and manifest is not None:
            return _completion(job, task, manifest).model_dump_json().encode()
        view = render.job_with(
            job,
            url_of=functools.partial(render.stream_url, host=public_url),
            queue_position=None,
            live=True,
        )
        message = {"type": event, "timestamp": job.finished_at, "data": view}
        return MessageView.model_validate(message).model_dump_json().encode()

    return rendered


def _completion(job: Job, task: Task, manifest: str) -> CompletionView:
    """Say how a task has ended; its manifest is there by now."""
    done = job.state == "succeeded"
    error = None
    if job.error_code is not None:
        error = JobErrorView(code=job.error_code, message=job.error_message or "")
    return CompletionView.model_validate(
        {
            "runtime": task.runtime,
            "id": task.id,
            "result": done,
            "status": "completed" if done else "failed",
            "image_url": [task.url(one.key) for one in job.outputs] if done else [],
            "output_url": task.url(manifest),
            "context": (job.callback or {}).get("context"),
            "job_id": job.id,
            "state": job.state,
            "error": error,
        }
    )
