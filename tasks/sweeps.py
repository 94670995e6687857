"""What is looked for from time to time: lost, overdue and forgotten jobs, and the heads of queues.

Each function is one small transaction's work, cheap however many jobs there are. The caller owns
the transaction; `scheduler` and `keeper` call these at their intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, selectinload

from ledger.errors import LedgerError
from tasks import claims, jobs, results, telemetry
from tasks.batching import Backlog
from tasks.tables import Job
from tasks.workers import SILENCE_S

_log = telemetry.get_logger()
_SWEEP_BATCH = 200


def reclaim_lost(session: Session, max_attempts: int) -> list[jobs.Bell]:
    """Queue again the jobs whose worker's lease ended; those that lost too many workers fail.

    Returns the bells of the jobs that are queued again.
    """
    lost = _lock_some(session, Job.state == "running", Job.lease_expires_at < func.now())
    again = [job for job in lost if job.tries < max_attempts]
    worn_out = [job for job in lost if job.tries >= max_attempts]
    claims.queue_again(session, again, delay_s=0)
    message = f"The worker was lost {max_attempts} times while running this job."
    _each(
        session,
        worn_out,
        lambda some: jobs.end(session, some, "failed", "worker_lost", message),
        "job_failed",
        code="worker_lost",
    )
    for job in again:
        _log.warning("job_reclaimed", **telemetry.of(job))
    return [jobs.Bell(job.id, job.queue, job.model_id, job.traceparent) for job in again]


def expire_overdue(session: Session) -> int:
    """Expire the jobs whose deadline has passed and give their funds back; returns how many."""
    overdue = _lock_some(session, Job.state.in_(("queued", "running")), Job.deadline < func.now())
    message = "The deadline passed before the job was done."
    return _each(
        session,
        overdue,
        lambda some: jobs.end(session, some, "expired", "deadline_passed", message),
        "job_expired",
    )


def _lock_some(session: Session, *where: ColumnElement[bool]) -> Sequence[Job]:
    """Lock up to a batch of jobs, in id order, leaving alone what somebody else is working on."""
    return session.scalars(
        select(Job)
        .where(*where)
        .order_by(Job.id)
        .limit(_SWEEP_BATCH)
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()


def _each(
    session: Session,
    found: Sequence[Job],
    act: Callable[[Sequence[Job]], None],
    event: str,
    **facts: str,
) -> int:
    """Do something with all jobs at once; where the books refuse one, with each by itself.

    So one job whose money was touched by other hands does not hold up all that come after it.
    Returns with how many it was done.
    """
    if not found:
        return 0
    try:
        with session.begin_nested():
            act(found)
    except (LedgerError, IntegrityError) as error:
        if len(found) > 1:
            return sum(_each(session, [job], act, event, **facts) for job in found)
        _log.exception("job_cannot_be_ended", **telemetry.of(found[0]), error=str(error))
        return 0
    for job in found:
        _log.info(event, **telemetry.of(job), **facts)
    return len(found)


# One index probe for each queue with jobs, however many jobs there are.
QUEUES = """
WITH RECURSIVE queues AS (
    (SELECT queue FROM jobs WHERE state = 'queued' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM jobs WHERE state = 'queued' AND queue > queues.queue
             ORDER BY queue LIMIT 1)
      FROM queues WHERE queues.queue IS NOT NULL
)
"""
_HEADS = """
FROM queues, LATERAL (
    SELECT id, model_id, priority, available_at FROM jobs
     WHERE queue = queues.queue AND state = 'queued' AND available_at <= now() AND deadline > now()
     ORDER BY priority DESC, id LIMIT 1
) AS head
"""
# Where nobody listens, bells would only pile up: a worker that starts looks for itself.
_SILENT = """
, silent AS (
    SELECT jobs.id FROM jobs WHERE id IN (SELECT head.id {heads})
       AND state = 'queued' AND rung_at < now() - make_interval(secs => :after_s)
       AND EXISTS (SELECT FROM workers WHERE queues @> ARRAY[jobs.queue]
                      AND heartbeat_at > now() - make_interval(secs => :silence_s))
       FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE jobs SET rung_at = now() FROM silent WHERE jobs.id = silent.id
RETURNING jobs.id, jobs.queue, jobs.model_id, jobs.traceparent
"""
_GIVEN = """
WITH queues AS (SELECT unnest(CAST(:queues AS varchar[])) AS queue)
SELECT queues.queue, head.model_id, head.priority,
       extract(epoch FROM now() - head.available_at)::float AS waited_s
"""
_FORGOTTEN = text(QUEUES + _SILENT.format(heads=_HEADS))
_BACKLOGS = text(_GIVEN + _HEADS)


def forgotten(session: Session, after_s: float) -> list[jobs.Bell]:
    """Return a bell for each served queue whose first job was last rung more than `after_s` ago.

    One bell for each queue is enough: a worker that hears it serves the queue until it is empty.
    """
    rows = session.execute(_FORGOTTEN, {"after_s": after_s, "silence_s": SILENCE_S})
    return [jobs.Bell(row.id, row.queue, row.model_id, row.traceparent) for row in rows]


def backlogs(session: Session, queues: Sequence[str]) -> list[Backlog]:
    """Return the heads of those queues that have a job ready."""
    rows = session.execute(_BACKLOGS, {"queues": list(queues)})
    return [Backlog(row.queue, row.model_id, row.priority, row.waited_s) for row in rows]


@dataclass(frozen=True)
class Leftovers:
    """What lost attempts of an ended job may have left: what begins so, but for what is kept."""

    beginnings: tuple[str, ...]
    kept: frozenset[str]
    job: Job = field(compare=False)

    @property
    def about(self) -> Mapping[str, object]:
        """What a line about it says of the job."""
        return telemetry.of(self.job)


def unswept(session: Session, after_s: float) -> dict[UUID, Leftovers]:
    """Return ended jobs that a lost attempt may have left objects of, and what is not to go."""
    rows = session.scalars(
        select(Job)
        .where(~Job.swept, Job.finished_at < func.now() - jobs.interval(after_s))
        .options(selectinload(Job.outputs), selectinload(Job.stems))
        .order_by(Job.finished_at)
        .limit(_SWEEP_BATCH)
    )
    return {job.id: _leftovers(job) for job in rows}


def _leftovers(job: Job) -> Leftovers:
    kept = {*(output.key for output in job.outputs), *filter(None, [_manifest(job)])}
    beginnings = results.beginnings(job.id, [one.stem for one in job.stems])
    return Leftovers(tuple(beginnings), frozenset(kept), job)


def mark_swept(session: Session, job_id: UUID) -> None:
    """Say that nothing of a lost attempt is left behind."""
    session.execute(update(Job).where(Job.id == job_id).values(swept=True))


def outdated(session: Session, keep_s: float) -> list[tuple[Job, list[str]]]:
    """Return jobs that ended longer than `keep_s` ago, with the objects that are to go."""
    rows = session.scalars(
        select(Job)
        .where(Job.kept, Job.finished_at < func.now() - jobs.interval(keep_s))
        .options(selectinload(Job.outputs), selectinload(Job.stems))
        .order_by(Job.finished_at)
        .limit(_SWEEP_BATCH)
    )
    return [(job, _kept(job)) for job in rows]


def _kept(job: Job) -> list[str]:
    keys = (job.input_key, _manifest(job))
    return [*(output.key for output in job.outputs), *(key for key in keys if key is not None)]


def _manifest(job: Job) -> str | None:
    own = (one.stem for one in job.stems if one.attempt == job.attempt)
    return next(map(results.manifest_key, own), None)


def mark_deleted(session: Session, job_ids: Collection[UUID]) -> None:
    """Say that the pictures of these jobs are gone."""
    session.execute(update(Job).where(Job.id.in_(job_ids)).values(kept=False))
