"""What a worker may do with jobs: claim them, keep the claims alive, and settle them.

A claim raises the job's attempt, the fencing number: every function here that changes a running job
asks for the attempt that its caller holds, and a worker whose claim was taken away changes nothing.
Leases and waits are measured by the database's clock alone. The caller owns the transaction; rows
are locked as jobs in id order, then holds, then accounts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy import func, insert, select, text, tuple_, update
from sqlalchemy.orm import Session

from ledger import holds
from tasks import jobs
from tasks.tables import Job, Output

Phase = Literal["loading", "drawing"]

# The error code of a job that succeeded, but not with all its pictures.
PARTIAL_RESULT = "partial_result"


@dataclass(frozen=True)
class NewOutput:
    """A picture that is stored and is to be delivered with its job, as the `index`-th of it."""

    index: int
    name: str
    key: str
    seed: int
    nsfw: bool | None
    width: int
    height: int
    content_type: str
    size_bytes: int
    sha256: bytes


@dataclass(frozen=True)
class Progress:
    """How far a claimed job is: which attempt, step of steps, and what it is at."""

    attempt: int
    step: int
    steps: int
    phase: Phase | None = None


# A job that ran before runs alone: whatever became of that attempt, a job that kills its worker
# must not take the same innocent ones with it until all of them are out of attempts. What a worker
# handed back when it was told to leave has done nothing of the kind.
_CLAIM = text("""
WITH head AS (
    SELECT id, batch_key, attempt > handed_back AS ran FROM jobs
     WHERE queue = :queue AND state = 'queued' AND available_at <= now() AND deadline > now()
     ORDER BY priority DESC, id LIMIT 1
       FOR NO KEY UPDATE SKIP LOCKED
), fitting AS (
    SELECT jobs.id, jobs.num_images, jobs.priority
      FROM jobs, head
     WHERE queue = :queue AND state = 'queued' AND available_at <= now() AND deadline > now()
       -- Not a join: its plan would filter the whole queue for a key that few jobs have.
       AND jobs.batch_key = (SELECT batch_key FROM head)
       AND (jobs.id = head.id OR NOT head.ran AND jobs.attempt = jobs.handed_back)
     ORDER BY jobs.priority DESC, jobs.id
     LIMIT (SELECT CASE WHEN ran THEN 1 ELSE :max_images END FROM head)
       FOR NO KEY UPDATE OF jobs SKIP LOCKED
), counted AS (
    SELECT id, sum(num_images) OVER by_rank AS images, row_number() OVER by_rank AS rank
      FROM fitting WINDOW by_rank AS (ORDER BY priority DESC, id)
)
UPDATE jobs SET state = 'running', attempt = attempt + 1, worker_id = :worker_id,
                started_at = now(), step = 0, steps = 0, phase = NULL,
                lease_expires_at = now() + make_interval(secs => :lease_s)
  FROM counted
 WHERE jobs.id = counted.id AND (counted.images <= :max_images OR counted.rank = 1)
RETURNING jobs.*
""")


def claim(
    session: Session, queue: str, worker_id: str, max_images: int, lease_s: float
) -> list[Job]:
    """Take the head of a queue and what can run with it, up to `max_images` pictures.

    One job by itself may have more. Racing workers skip each other's rows; an empty list means that
    nothing is ready.
    """
    claimed = session.scalars(
        select(Job).from_statement(_CLAIM).execution_options(populate_existing=True),
        {"queue": queue, "worker_id": worker_id, "max_images": max_images, "lease_s": lease_s},
    ).all()
    return sorted(claimed, key=lambda job: (-job.priority, job.id))


# The lease has an index, so extending it writes to every index of the row; progress alone does not
# touch it, and what has not changed is not written at all.
_RENEW = text("""
WITH mine AS (
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:step AS int[]),
                         CAST(:steps AS int[]), CAST(:phases AS varchar[]))
           AS mine (id, attempt, step, steps, phase)
), changed AS (
    SELECT jobs.id, mine.step, mine.steps, mine.phase
      FROM mine JOIN jobs ON jobs.id = mine.id AND jobs.attempt = mine.attempt
     WHERE jobs.state = 'running'
       AND (:extend OR jobs.step <> mine.step OR jobs.steps <> mine.steps
            OR jobs.phase IS DISTINCT FROM mine.phase)
     ORDER BY jobs.id FOR NO KEY UPDATE OF jobs
), written AS (
    UPDATE jobs SET step = changed.step, steps = changed.steps, phase = changed.phase,
           lease_expires_at =
           CASE WHEN :extend THEN now() + make_interval(secs => :lease_s) ELSE lease_expires_at END
      FROM changed WHERE jobs.id = changed.id
)
SELECT jobs.id FROM mine JOIN jobs ON jobs.id = mine.id AND jobs.attempt = mine.attempt
 WHERE jobs.state = 'running'
""")


def renew(
    session: Session, running: Mapping[UUID, Progress], lease_s: float, *, extend: bool = True
) -> set[UUID]:
    """Note the progress of claimed jobs, and extend their leases; returns the ids still held.

    A job that is missing from the answer was canceled, expired, or given to another worker.
    """
    rows = session.scalars(
        _RENEW,
        {
            "ids": list(running),
            "attempts": [one.attempt for one in running.values()],
            "step": [one.step for one in running.values()],
            "steps": [one.steps for one in running.values()],
            "phases": [one.phase for one in running.values()],
            "lease_s": lease_s,
            "extend": extend,
        },
    )
    return set(rows)


def succeed(
    session: Session,
    finished: Mapping[tuple[UUID, int], Sequence[NewOutput]],
    missing: Mapping[UUID, str] | None = None,
) -> set[UUID]:
    """Settle a batch: deliver and charge each (job id, attempt) that is still current.

    A job is charged for the pictures that it delivers, one at least. Where that is not all of them,
    the job says so, with what `missing` has to say about the others, and the rest of its hold is
    given back.

    Returns the ids that were settled; a job whose claim was lost is left as it is.
    """
    current = _lock_running(session, list(finished))
    if not current:
        return set()
    session.execute(
        update(Job)
        .where(Job.id.in_([job.id for job in current]))
        .values(state="succeeded", step=Job.steps, lease_expires_at=None, finished_at=func.now())
    )
    units: dict[UUID, int] = {}
    rows = []
    for job in current:
        outputs = finished[job.id, job.attempt]
        rows += [{"job_id": job.id, **vars(output)} for output in outputs]
        units[job.hold_id] = job.units // job.num_images * len(outputs)
        if len(outputs) < job.num_images:
            _note_missing(session, job, len(outputs), (missing or {}).get(job.id, ""))
    session.execute(insert(Output), rows)
    holds.capture(session, units)
    return {job.id for job in current}


def _note_missing(session: Session, job: Job, delivered: int, why: str) -> None:
    said = f"{delivered} of {job.num_images} pictures were made and charged."
    session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(
            error_code=PARTIAL_RESULT,
            error_message=f"{said} {why}".rstrip(),
            # An upload that failed may have left its object nevertheless.
            swept=False,
        )
    )


def fail(session: Session, job_id: UUID, attempt: int, code: str, message: str) -> bool:
    """End a claimed job without pictures and give its funds back; False when the claim was lost."""
    current = _lock_running(session, [(job_id, attempt)])
    jobs.end(session, current, "failed", code, message)
    return bool(current)


def requeue(session: Session, job_id: UUID, attempt: int, delay_s: float) -> bool:
    """Put a claimed job back into its queue, for later; False when the claim was lost."""
    current = _lock_running(session, [(job_id, attempt)])
    queue_again(session, current, delay_s)
    return bool(current)


def hand_back(session: Session, held: Collection[tuple[UUID, int]]) -> set[UUID]:
    """Put claimed jobs back into their queues at once, because their worker is told to leave.

    This does not count as an attempt. Returns the ids of those whose claims were current.
    """
    current = _lock_running(session, held)
    queue_again(session, current, delay_s=0, handed_back=1)
    return {job.id for job in current}


def _lock_running(session: Session, claims: Collection[tuple[UUID, int]]) -> Sequence[Job]:
    """Lock, in id order, the jobs whose claims are still current."""
    return session.scalars(
        select(Job)
        .where(tuple_(Job.id, Job.attempt).in_(claims), Job.state == "running")
        .order_by(Job.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).all()


def queue_again(
    session: Session, lost: Sequence[Job], delay_s: float, *, handed_back: int = 0
) -> None:
    """Put locked running jobs back into their queues, to be claimed after a while."""
    if not lost:
        return
    session.execute(
        update(Job)
        .where(Job.id.in_([job.id for job in lost]))
        .values(
            state="queued",
            lease_expires_at=None,
            worker_id=None,
            available_at=func.now() + jobs.interval(delay_s),
            handed_back=Job.handed_back + handed_back,
            swept=False,
        )
    )


def leave_to_sweep(session: Session, job_ids: Collection[UUID]) -> None:
    """Say that an attempt that lost its claim may have stored objects for these jobs.

    It may have been stopped for so long that the sweeper has been there before it.
    """
    session.execute(update(Job).where(Job.id.in_(job_ids)).values(swept=False))
