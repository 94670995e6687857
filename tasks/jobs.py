"""The state machine of jobs, and what a gateway does with them: ask, submit, look, cancel.

A job's state and its money change in one transaction, which the caller owns.

    queued -> running -> succeeded | failed | canceled | expired

What a worker does with a job is in `tasks.claims`, what time does to it in `tasks.sweeps`. Rows are
locked as jobs, then holds, then accounts.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    bindparam,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import Session, aliased, joinedload, selectinload
from sqlalchemy.orm.attributes import set_committed_value
from uuid_utils.compat import uuid7

from ledger import holds, limits, offers
from ledger.errors import NoPriceLimit, OverPriceLimit
from ledger.limits import Limit
from ledger.money import UnitPrice
from ledger.offers import Capability, Quote
from ledger.tables import Hold, Orchestrator
from tasks import market, routing
from tasks.errors import IdempotencyConflict, JobNotCancelable, JobNotFound
from tasks.params import Generation
from tasks.tables import Job

Final = Literal["succeeded", "failed", "canceled", "expired"]
FINAL_STATES: tuple[Final, ...] = ("succeeded", "failed", "canceled", "expired")
STATES = ("queued", "running", *FINAL_STATES)

# Counting jobs ahead costs time; nobody needs to know more than this.
MAX_QUEUE_POSITION = 1_000


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
    # Which of the gateway's keys spends, for a budget of its own.
    api_key_id: str | None = None
    max_rate_age: timedelta = timedelta(days=1)


@dataclass(frozen=True)
class Estimate:
    """What a job would cost, by whose offer, and the limit that allows it."""

    quote: Quote
    limit: Limit
    live: bool
    warm: bool


@dataclass(frozen=True)
class Bell:
    """A queue message to send: which job, on which queue."""

    job_id: UUID
    queue: str
    model_id: str


# --- asking -----------------------------------------------------------------------------------


def estimate(
    session: Session,
    gateway_id: UUID,
    generation: Generation,
    max_price: UnitPrice | None,
    *,
    max_rate_age: timedelta = timedelta(days=1),
) -> Estimate:
    """Price a generation by the best live offer within the gateway's limit. Holds nothing.

    Raises:
        NoOffer: No orchestrator offers the capability.
        NoRate, StaleRate: No offer's price can be converted.
        NoPriceLimit: The gateway has set no limit for it.
        OverPriceLimit: Every offer is above the limit.
    """
    capability = Capability(generation.pipeline, generation.model_id)
    found = market.look(session, gateway_id, capability, max_rate_age)
    return _best(found, generation, max_price)


def _best(found: market.Market, generation: Generation, max_price: UnitPrice | None) -> Estimate:
    cheapest = found.candidates[0].offer
    capability = cheapest.capability
    limit = limits.effective(found.limits, capability, max_price, found.rates)
    if limit is None:
        raise NoPriceLimit(
            capability.pipeline, capability.model_id, cheapest.price, cheapest.orchestrator
        )
    chosen = routing.choose(found.candidates, limit, found.rates)
    if chosen is None:
        assert limit.price is not None  # noqa: S101  a limit without a price allows everything
        raise OverPriceLimit(limit.price, cheapest.price, cheapest.orchestrator)
    quote = offers.quote(chosen.offer, generation.units, found.rates)
    return Estimate(quote, limit, chosen.live, chosen.warm)


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
    capability = Capability(generation.pipeline, generation.model_id)
    found = market.look(session, order.gateway_id, capability, order.max_rate_age)
    best = _best(found, generation, order.max_price)
    deadline = found.seen_at + timedelta(seconds=order.deadline_s)
    job_id = uuid7()
    hold_id = holds.authorize(
        session,
        order.gateway_id,
        str(job_id),
        best.quote,
        best.limit,
        deadline,
        api_key_id=order.api_key_id,
    )
    offer = best.quote.offer
    facts = {
        "id": job_id,
        "gateway_id": order.gateway_id,
        "orchestrator_id": offer.orchestrator_id,
        "hold_id": hold_id,
        "idempotency_key": order.idempotency_key,
        "request_hash": order.request_hash,
        "pipeline": generation.pipeline,
        "model_id": generation.model_id,
        "queue": routing.queue_name(offer.capability, offer.orchestrator),
        "batch_key": generation.batch_key,
        "params": generation.to_json(),
        "input_key": order.input_key,
        "num_images": generation.num_images_per_prompt,
        "units": generation.units,
        "priority": order.priority,
        "deadline": deadline,
    }
    return _insert(session, facts), True


_LOCK_KEY = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
_FIND_KEY = text(
    "SELECT id, request_hash FROM jobs WHERE gateway_id = :gateway_id AND idempotency_key = :key"
)


def _earlier(session: Session, order: Order) -> Job | None:
    """Return the job that the order's key made before, after waiting for a twin in flight."""
    key = order.idempotency_key
    if key is None:
        return None
    # Two statements, because the second one must see what the twin committed while we waited.
    session.execute(_LOCK_KEY, {"name": f"{order.gateway_id}:{key}"})
    found = session.execute(_FIND_KEY, {"gateway_id": order.gateway_id, "key": key}).one_or_none()
    if found is None:
        return None
    if found.request_hash != order.request_hash:
        raise IdempotencyConflict(key, found.id)
    return find(session, order.gateway_id, found.id)


def _insert(session: Session, facts: Mapping[str, object]) -> Job:
    """Insert a job, and return it as `find` would."""
    job: Job
    job, hold, orchestrator = session.execute(
        _inserting(tuple(facts)), {f"new_{name}": value for name, value in facts.items()}
    ).one()
    set_committed_value(job, "hold", hold)
    set_committed_value(job, "orchestrator", orchestrator)
    set_committed_value(job, "outputs", [])
    return job


@functools.cache  # building the statement costs more than running it
def _inserting(columns: tuple[str, ...]) -> Select[Job, Hold, Orchestrator]:
    """Return what inserts a job and answers with it, its hold and its orchestrator."""
    row = insert(Job).values({name: bindparam(f"new_{name}") for name in columns})
    new = aliased(Job, row.returning(*Job.__table__.columns).cte("new"))
    return (
        select(new, Hold, Orchestrator)
        .join(Hold, Hold.id == new.hold_id)
        .join(Orchestrator, Orchestrator.id == new.orchestrator_id)
    )


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


# Two ranges of one index, where one comparison of pairs would be a filter over the whole queue.
# Written out, because every submission asks it: building a statement costs more than running it.
_AHEAD = text("""
SELECT count(*) FROM (
    (SELECT 1 FROM jobs WHERE queue = :queue AND state = 'queued' AND priority > :priority
      LIMIT :most)
    UNION ALL
    (SELECT 1 FROM jobs WHERE queue = :queue AND state = 'queued' AND priority = :priority
        AND id < :id LIMIT :most)
) AS ahead
""")


def queue_position(session: Session, job: Job) -> int | None:
    """Return how many queued jobs come before this one (0: it is next); None when not queued.

    It is counted up to `MAX_QUEUE_POSITION`.
    """
    if job.state != "queued":
        return None
    facts = {"queue": job.queue, "priority": job.priority, "id": job.id, "most": MAX_QUEUE_POSITION}
    ahead: int = session.scalars(_AHEAD, facts).one()
    return min(ahead, MAX_QUEUE_POSITION)


# --- ending -----------------------------------------------------------------------------------


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


def end(
    session: Session, jobs: Sequence[Job], state: Final, code: str | None, message: str | None
) -> None:
    """Finish locked jobs that deliver nothing, and give their funds back."""
    if not jobs:
        return
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


def interval(seconds: float) -> ColumnElement[Any]:
    """Return a span of time, to be added to the database's clock."""
    return func.make_interval(0, 0, 0, 0, 0, 0, seconds)
