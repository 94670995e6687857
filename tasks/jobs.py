"""The state machine of jobs, and what a gateway does with them: ask, submit, look, cancel.

A job's state and its money change in one transaction, which the caller owns.

    queued -> running -> succeeded | failed | canceled | expired

What a worker does with a job is in `tasks.claims`, what time does to it in `tasks.sweeps`. Rows are
locked as jobs, then holds, then accounts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload, selectinload
from uuid_utils.compat import uuid7

from ledger import holds, limits, offers
from ledger.errors import LedgerError, NoPriceLimit, OverPriceLimit
from ledger.holds import Terms
from ledger.limits import Limit
from ledger.money import UnitPrice
from ledger.offers import Capability, Quote
from tasks import market, placing, routing
from tasks.errors import IdempotencyConflict, JobNotCancelable, JobNotFound, NoOffer
from tasks.params import Generation
from tasks.results import Task
from tasks.routing import DEFAULT_WEIGHTS, Weights
from tasks.tables import Job
from tasks.waiting import Wait

Final = Literal["succeeded", "failed", "canceled", "expired"]
FINAL_STATES: tuple[Final, ...] = ("succeeded", "failed", "canceled", "expired")
STATES = ("queued", "running", *FINAL_STATES)


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
    # What whoever is told of the end is told with it.
    callback: Mapping[str, Any] | None = None
    # Which of the gateway's keys spends, for a budget of its own.
    api_key_id: str | None = None
    max_rate_age: timedelta = timedelta(days=1)
    weights: Weights = DEFAULT_WEIGHTS
    # Where its trace goes on, if there is one.
    traceparent: str | None = None

    @property
    def orchestrator(self) -> str | None:
        """The only one that may have the job, by name; None: whoever is best."""
        task = Task.of(self.callback)
        return None if task is None else task.orchestrator


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
    traceparent: str | None = None


# --- asking -----------------------------------------------------------------------------------


def estimate(
    session: Session,
    gateway_id: UUID,
    generation: Generation,
    max_price: UnitPrice | None,
    *,
    max_rate_age: timedelta = timedelta(days=1),
    weights: Weights = DEFAULT_WEIGHTS,
    orchestrator: str | None = None,
) -> Estimate:
    """Price a generation by the best live offer within the gateway's limit. Holds nothing.

    Raises:
        NoOffer: No orchestrator offers the capability, or not the one that is asked.
        NoRate, StaleRate: No offer's price can be converted.
        NoPriceLimit: The gateway has set no limit for it.
        OverPriceLimit: Every offer is above the limit.
    """
    capability = Capability(generation.pipeline, generation.model_id)
    found = market.look(session, gateway_id, capability, max_rate_age).only(orchestrator)
    return _best(found, generation, max_price, weights)


def _best(
    found: market.Market, generation: Generation, max_price: UnitPrice | None, weights: Weights
) -> Estimate:
    cheapest = found.candidates[0].offer
    capability = cheapest.capability
    limit = limits.effective(found.limits, capability, max_price, found.rates)
    if limit is None:
        raise NoPriceLimit(
            capability.pipeline, capability.model_id, cheapest.price, cheapest.orchestrator
        )
    lot = random.random()  # noqa: S311  nobody gains by guessing it
    chosen = routing.choose(found.candidates, limit, found.rates, weights, lot=lot)
    if chosen is None:
        assert limit.price is not None  # noqa: S101  a limit without a price allows everything
        raise OverPriceLimit(limit.price, cheapest.price, cheapest.orchestrator)
    quote = offers.quote(chosen.offer, generation.units, found.rates)
    return Estimate(quote, limit, chosen.live, chosen.warm)


# --- submitting -------------------------------------------------------------------------------


def submit(session: Session, order: Order) -> tuple[Job, Wait | None]:
    """Quote, hold and queue a job, all or nothing; returns it, and what it waits for.

    With an idempotency key seen before, the job that it made is returned with None, and nothing
    else happens.
    What it writes, it writes in one statement: a session that commits each statement by itself will
    do, and costs two round trips in all.

    Raises:
        IdempotencyConflict: The key was used with another request.
        NoOffer, NoRate, StaleRate, NoPriceLimit, OverPriceLimit: As `estimate`.
        InsufficientFunds, OverBudget: The gateway's balance, or a budget, does not cover the
            amount.
    """
    try:
        return _make(session, order)
    except (LedgerError, NoOffer, IntegrityError):
        # Whatever the reason: what the key has made before is the answer, and a twin may just have
        # made it with the last of the funds.
        earlier = _earlier(session, order)
        if earlier is None:
            raise
        return earlier, None


def _make(session: Session, order: Order) -> tuple[Job, Wait]:
    generation = order.generation
    capability = Capability(generation.pipeline, generation.model_id)
    found = market.look(session, order.gateway_id, capability, order.max_rate_age)
    found = found.only(order.orchestrator)
    best = _best(found, generation, order.max_price, order.weights)
    deadline = found.seen_at + timedelta(seconds=order.deadline_s)
    job_id = uuid7()
    terms = Terms(order.gateway_id, str(job_id), best.quote, best.limit, deadline, order.api_key_id)
    offer = best.quote.offer
    facts = {
        "id": job_id,
        "idempotency_key": order.idempotency_key,
        "request_hash": order.request_hash,
        "queue": routing.queue_name(offer.capability, offer.orchestrator),
        "batch_key": generation.batch_key,
        "params": generation.to_json(),
        "input_key": order.input_key,
        "num_images": generation.num_images_per_prompt,
        "priority": order.priority,
        "callback": order.callback,
        "traceparent": order.traceparent,
    }
    with _kept_apart(session, order):
        job, ahead = placing.place(session, terms, facts)
    return job, Wait(ahead, best.live)


def _kept_apart(session: Session, order: Order) -> AbstractContextManager[object]:
    """Keep a transaction around the statement alive when its key turns out to be used already.

    Where each statement commits by itself there is none to be kept.
    """
    if order.idempotency_key is None or session.connection().connection.autocommit:
        return nullcontext()
    return session.begin_nested()


_FIND_KEY = text(
    "SELECT id, request_hash FROM jobs WHERE gateway_id = :gateway_id AND idempotency_key = :key"
)


def _earlier(session: Session, order: Order) -> Job | None:
    """Return the job that the order's key has made."""
    key = order.idempotency_key
    if key is None:
        return None
    found = session.execute(_FIND_KEY, {"gateway_id": order.gateway_id, "key": key}).one_or_none()
    if found is None:
        return None
    if found.request_hash != order.request_hash:
        raise IdempotencyConflict(key, found.id)
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
            # A task's folder is still to be told why nothing is in it.
            swept=and_(Job.attempt == 0, ~func.coalesce(Job.callback.has_key("task"), False)),
        )
    )
    release = holds.expire if state == "expired" else holds.void
    release(session, [job.hold_id for job in jobs])


def interval(seconds: float) -> ColumnElement[Any]:
    """Return a span of time, to be added to the database's clock."""
    return func.make_interval(0, 0, 0, 0, 0, 0, seconds)
