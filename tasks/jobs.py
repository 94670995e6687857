"""The state machine of jobs, and its services.

A job's state and its money change in one transaction, which the caller owns.

    queued -> running -> succeeded | failed | canceled | expired

A claim raises the job's attempt, the fencing number: a worker whose claim was taken away can change
nothing any more. Leases, deadlines and waits are measured by the database's clock alone. Rows are
locked as jobs, then holds, then accounts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Interval,
    cast,
    func,
    insert,
    select,
    text,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.orm import Session, joinedload, selectinload
from uuid_utils.compat import uuid7

from ledger import holds, limits, offers
from ledger.errors import NoPriceLimit, OverPriceLimit
from ledger.limits import Limit
from ledger.money import UnitPrice
from ledger.offers import Capability, Quote
from ledger.tables import Offer
from tasks import routing, workers
from tasks.errors import IdempotencyConflict, JobNotCancelable, JobNotFound, NoOffer
from tasks.params import Generation
from tasks.tables import Job, Output

Final = Literal["succeeded", "failed", "canceled", "expired"]
FINAL_STATES: tuple[Final, ...] = ("succeeded", "failed", "canceled", "expired")
STATES = ("queued", "running", *FINAL_STATES)

# Counting jobs ahead costs time; nobody needs to know more than this.
MAX_QUEUE_POSITION = 10_000


@dataclass(frozen=True)
class Order:
    """A request that is ready to become a job."""

    gateway_id: UUID
    generation: Generation
    request_hash: bytes
    deadline_s: float
    input_key: str | None = None
    max_price: UnitPrice | None = None
    priority: int = 0
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Estimate:
    """What a job would cost, by whose offer, and the limit that allows it."""

    quote: Quote
    limit: Limit
    live: bool
    warm: bool


@dataclass(frozen=True)
class NewOutput:
    """A picture that is stored and is to be delivered with its job."""

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
class Bell:
    """A queue message to send: which job, on which queue."""

    job_id: UUID
    queue: str
    model_id: str


# --- asking -----------------------------------------------------------------------------------


def estimate(
    session: Session, gateway_id: UUID, generation: Generation, max_price: UnitPrice | None
) -> Estimate:
    """Price a generation by the best live offer within the gateway's limit. Holds nothing.

    Raises:
        NoOffer: No orchestrator offers the capability.
        NoPriceLimit: The gateway has set no limit for it.
        OverPriceLimit: Every offer is above the limit.
    """
    capability = Capability(generation.pipeline, generation.model_id)
    candidates = _candidates(session, capability)
    best = candidates[0].offer
    limit = limits.effective(limits.list_limits(session, gateway_id), capability, max_price)
    if limit is None:
        raise NoPriceLimit(capability.pipeline, capability.model_id, best.price, best.orchestrator)
    chosen = routing.choose(candidates, limit)
    if chosen is None:
        assert limit.price is not None  # noqa: S101  a limit without a price allows everything
        raise OverPriceLimit(limit.price, best.price, best.orchestrator)
    quote = offers.quote(chosen.offer, generation.units)
    return Estimate(quote, limit, chosen.live, chosen.warm)


def _candidates(session: Session, capability: Capability) -> list[routing.Candidate]:
    """Return the live offers of a capability, cheapest first, with what their workers say."""
    found = offers.live_for(session, capability)
    if not found:
        others = offers.live(session, Offer.pipeline == capability.pipeline)
        names = sorted({offer.capability.model_id for offer in others})
        raise NoOffer(capability.pipeline, capability.model_id, names)
    return workers.candidates(session, found)


def seconds(seconds: float) -> ColumnElement[Any]:
    return cast(f"{seconds} seconds", Interval)


# --- submitting -------------------------------------------------------------------------------


def submit(session: Session, order: Order) -> tuple[Job, bool]:
    """Quote, hold and queue a job, all or nothing; returns it, and whether it is new.

    With an idempotency key seen before, the job that it made is returned, and nothing else happens.

    Raises:
        IdempotencyConflict: The key was used with another request.
        NoOffer, NoPriceLimit, OverPriceLimit: As `estimate`.
        InsufficientFunds: The gateway's balance does not cover the amount.
    """
    earlier = _earlier(session, order)
    if earlier is not None:
        return earlier, False
    generation = order.generation
    best = estimate(session, order.gateway_id, generation, order.max_price)
    offer = best.quote.offer
    job_id = uuid7()
    deadline: datetime = session.scalars(select(func.now() + seconds(order.deadline_s))).one()
    hold_id = holds.authorize(
        session, order.gateway_id, str(job_id), best.quote, best.limit, deadline
    )
    session.execute(
        insert(Job).values(
            id=job_id,
            gateway_id=order.gateway_id,
            orchestrator_id=offer.orchestrator_id,
            hold_id=hold_id,
            idempotency_key=order.idempotency_key,
            request_hash=order.request_hash,
            pipeline=generation.pipeline,
            model_id=generation.model_id,
            queue=routing.queue_name(offer.capability, offer.orchestrator),
            batch_key=generation.batch_key,
            params=generation.to_json(),
            input_key=order.input_key,
            num_images=generation.num_images_per_prompt,
            units=generation.units,
            priority=order.priority,
            deadline=deadline,
        )
    )
    return find(session, order.gateway_id, job_id), True


def _earlier(session: Session, order: Order) -> Job | None:
    """Return the job that the order's key made before, after waiting for a twin in flight."""
    if order.idempotency_key is None:
        return None
    name = f"{order.gateway_id}:{order.idempotency_key}"
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))
    found = session.execute(
        select(Job.id, Job.request_hash).where(
            Job.gateway_id == order.gateway_id, Job.idempotency_key == order.idempotency_key
        )
    ).one_or_none()
    if found is None:
        return None
    if found.request_hash != order.request_hash:
        raise IdempotencyConflict(order.idempotency_key, found.id)
    return find(session, order.gateway_id, found.id)


# --- looking ----------------------------------------------------------------------------------

_WHOLE = (joinedload(Job.hold), joinedload(Job.orchestrator), selectinload(Job.outputs))


def find(session: Session, gateway_id: UUID, job_id: UUID) -> Job:
    """Return a gateway's job with its hold, orchestrator and outputs.

    Raises:
        JobNotFound: There is none, or it is another gateway's.
    """
    query = select(Job).where(Job.id == job_id, Job.gateway_id == gateway_id).options(*_WHOLE)
    job = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if job is None:
        raise JobNotFound(job_id)
    return job


def list_jobs(
    session: Session,
    gateway_id: UUID,
    *where: ColumnElement[bool],
    before: UUID | None = None,
    limit: int,
) -> list[Job]:
    """Return a page of a gateway's jobs, newest first; `before` is the id to go on from."""
    query = select(Job).where(Job.gateway_id == gateway_id, *where).options(*_WHOLE)
    if before is not None:
        query = query.where(Job.id < before)
    return list(session.scalars(query.order_by(Job.id.desc()).limit(limit)))


def queue_position(session: Session, job: Job) -> int | None:
    """Return how many queued jobs come before this one (0: it is next); None when not queued.

    It is counted up to `MAX_QUEUE_POSITION`.
    """
    if job.state != "queued":
        return None
    # Two ranges of one index, where a single comparison of pairs would be a filter over the whole
    # queue.
    queued = select(Job.id).where(Job.queue == job.queue, Job.state == "queued")
    ahead = union_all(
        queued.where(Job.priority > job.priority).limit(MAX_QUEUE_POSITION),
        queued.where(Job.priority == job.priority, Job.id < job.id).limit(MAX_QUEUE_POSITION),
    ).subquery()
    counted = session.scalars(select(func.count()).select_from(ahead)).one()
    return min(counted, MAX_QUEUE_POSITION)


# --- running ----------------------------------------------------------------------------------

_CLAIM = text("""
WITH head AS (
    SELECT batch_key FROM jobs
     WHERE queue = :queue AND state = 'queued' AND available_at <= now() AND deadline > now()
     ORDER BY priority DESC, id LIMIT 1
       FOR NO KEY UPDATE SKIP LOCKED
), fitting AS (
    SELECT jobs.id, jobs.num_images, jobs.priority FROM jobs JOIN head ON head.batch_key =
    jobs.batch_key
     WHERE queue = :queue AND state = 'queued' AND available_at <= now() AND deadline > now()
     ORDER BY jobs.priority DESC, jobs.id LIMIT :max_images
       FOR NO KEY UPDATE OF jobs SKIP LOCKED
), counted AS (
    SELECT id, sum(num_images) OVER by_rank AS images, row_number() OVER by_rank AS rank
      FROM fitting WINDOW by_rank AS (ORDER BY priority DESC, id)
)
UPDATE jobs SET state = 'running', attempt = attempt + 1, worker_id = :worker_id, started_at =
now(),
                lease_expires_at = now() + make_interval(secs => :lease_s), step = 0, steps = 0
  FROM counted
 WHERE jobs.id = counted.id AND (counted.images <= :max_images OR counted.rank = 1)
RETURNING jobs.*
""")


def claim(
    session: Session, queue: str, worker_id: str, max_images: int, lease_s: float
) -> list[Job]:
    """Take the head of a queue and what can run with it, up to `max_images` pictures.

    One job by itself may have more. Racing workers skip each other's rows; an empty list means that nothing is ready.
    """
    jobs = session.scalars(
        select(Job).from_statement(_CLAIM).execution_options(populate_existing=True),
        {"queue": queue, "worker_id": worker_id, "max_images": max_images, "lease_s": lease_s},
    ).all()
    return sorted(jobs, key=lambda job: (-job.priority, job.id))


_RENEW = text("""
WITH mine AS (
    SELECT jobs.id, mine.step, mine.steps
      FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:step AS int[]), CAST(:steps
      AS int[]))
           AS mine (id, attempt, step, steps)
      JOIN jobs ON jobs.id = mine.id AND jobs.attempt = mine.attempt
     WHERE jobs.state = 'running'
     ORDER BY jobs.id FOR NO KEY UPDATE OF jobs
)
UPDATE jobs SET lease_expires_at = now() + make_interval(secs => :lease_s), step = mine.step, steps
= mine.steps
  FROM mine WHERE jobs.id = mine.id
RETURNING jobs.id
""")


@dataclass(frozen=True)
class Progress:
    """How far a claimed job is: which attempt, and step of steps."""

    attempt: int
    step: int
    steps: int


def renew(session: Session, running: Mapping[UUID, Progress], lease_s: float) -> set[UUID]:
    """Extend the leases of claimed jobs and note their progress; returns the ids still held.

    A job that is missing from the answer was canceled, expired, or given to another worker.
    """
    rows = session.scalars(
        _RENEW,
        {
            "ids": list(running),
            "attempts": [one.attempt for one in running.values()],
            "step": [one.step for one in running.values()],
            "steps": [one.steps for one in running.values()],
            "lease_s": lease_s,
        },
    )
    return set(rows)


def succeed(
    session: Session, finished: Mapping[tuple[UUID, int], Sequence[NewOutput]]
) -> set[UUID]:
    """Settle a batch: deliver and charge each (job id, attempt) that is still current.

    Returns the ids that were settled; a job whose claim was lost is left as it is.
    """
    jobs = _lock_running(session, list(finished))
    session.execute(
        update(Job)
        .where(Job.id.in_([job.id for job in jobs]))
        .values(state="succeeded", step=Job.steps, lease_expires_at=None, finished_at=func.now())
    )
    rows = [
        {"job_id": job.id, "index": index, **vars(output)}
        for job in jobs
        for index, output in enumerate(finished[job.id, job.attempt])
    ]
    if rows:
        session.execute(insert(Output), rows)
    holds.capture(session, {job.hold_id: job.units for job in jobs})
    return {job.id for job in jobs}


def fail(session: Session, job_id: UUID, attempt: int, code: str, message: str) -> bool:
    """End a claimed job without pictures and give its funds back; False when the claim was lost."""
    jobs = _lock_running(session, [(job_id, attempt)])
    end(session, jobs, "failed", code, message)
    return bool(jobs)


def requeue(session: Session, job_id: UUID, attempt: int, delay_s: float) -> bool:
    """Put a claimed job back into its queue, for later; False when the claim was lost."""
    jobs = _lock_running(session, [(job_id, attempt)])
    queue_again(session, jobs, delay_s)
    return bool(jobs)


def _lock_running(session: Session, claims: Sequence[tuple[UUID, int]]) -> Sequence[Job]:
    """Lock, in id order, the jobs whose claims are still current."""
    return session.scalars(
        select(Job)
        .where(tuple_(Job.id, Job.attempt).in_(claims), Job.state == "running")
        .order_by(Job.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).all()


def end(
    session: Session, jobs: Sequence[Job], state: Final, code: str | None, message: str | None
) -> None:
    """Finish jobs that deliver nothing: their holds are given back in the same transaction."""
    session.execute(
        update(Job)
        .where(Job.id.in_([job.id for job in jobs]))
        .values(
            state=state,
            error_code=code,
            error_message=message,
            lease_expires_at=None,
            finished_at=func.now(),
            swept=Job.attempt == 0,
        )
    )
    release = holds.expire if state == "expired" else holds.void
    release(session, [job.hold_id for job in jobs])


def queue_again(session: Session, jobs: Sequence[Job], delay_s: float) -> None:
    session.execute(
        update(Job)
        .where(Job.id.in_([job.id for job in jobs]))
        .values(
            state="queued",
            lease_expires_at=None,
            worker_id=None,
            available_at=func.now() + seconds(delay_s),
            swept=False,
        )
    )


# --- ending early -----------------------------------------------------------------------------


def cancel(session: Session, gateway_id: UUID, job_id: UUID) -> Job:
    """Cancel a queued or running job and give its funds back at once.

    A worker that runs it finds its claim gone at the next step, and stops.

    Raises:
        JobNotFound: There is no such job of this gateway.
        JobNotCancelable: The job has already ended otherwise. Canceling twice is no error.
    """
    job = session.scalars(
        select(Job)
        .where(Job.id == job_id, Job.gateway_id == gateway_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if job is None:
        raise JobNotFound(job_id)
    if job.state in ("queued", "running"):
        end(session, [job], "canceled", None, None)
    elif job.state != "canceled":
        raise JobNotCancelable(job_id, job.state)
    return find(session, gateway_id, job_id)
