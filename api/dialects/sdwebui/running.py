"""What a gateway's WebUI requests are at, and stopping them: its own, whoever else is served."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, func, select

from api.runtime import Runtime
from tasks import jobs
from tasks.errors import JobNotCancelable, JobNotFound
from tasks.tables import Job

# What tells these jobs from the gateway's others.
MARK: Mapping[str, str] = {"dialect": "sdwebui"}


@dataclass(frozen=True)
class Current:
    """How far the oldest open job is, and how many there are."""

    job: Job | None
    count: int
    ran_s: float

    @property
    def progress(self) -> float:
        if self.job is None or not self.job.steps:
            return 0.0
        return min(1.0, self.job.step / self.job.steps)

    @property
    def left_s(self) -> float:
        """Return how long it still takes, if it goes on as it does."""
        return self.ran_s / self.progress - self.ran_s if self.progress else 0.0


def look(runtime: Runtime, gateway_id: UUID) -> Current:
    """Return what a gateway's requests are at; its running jobs come before those that wait."""
    ran_s = func.extract("epoch", func.now() - Job.started_at)
    query = (
        select(Job, ran_s, func.count().over())
        .where(*_open(gateway_id))
        .order_by(Job.state.desc(), Job.id)
        .limit(1)
    )
    with runtime.reads() as session:
        found = session.execute(query).one_or_none()
    if found is None:
        return Current(None, 0, 0.0)
    job, seconds, count = found
    return Current(job, count, float(seconds or 0))


def stop(runtime: Runtime, gateway_id: UUID, most: int | None = None) -> None:
    """Cancel a gateway's open requests, or the first `most` of them. Their funds come back."""
    query = select(Job.id).where(*_open(gateway_id)).order_by(Job.state.desc(), Job.id)
    with runtime.reads() as session:
        found = list(session.scalars(query.limit(most)))
    for job_id in found:
        # What has ended by now has nothing to be stopped.
        with (
            contextlib.suppress(JobNotCancelable, JobNotFound),
            runtime.sessions.begin() as session,
        ):
            jobs.cancel(session, gateway_id, job_id)


def _open(gateway_id: UUID) -> tuple[ColumnElement[bool], ...]:
    return (
        Job.gateway_id == gateway_id,
        Job.state.in_(("queued", "running")),
        Job.callback.contains(dict(MARK)),
    )
