"""Queued jobs of an orchestrator that has gone silent, routed again within what is held for them.

A queue is silent when no worker has served it for a while, by the database's clock. Its jobs move,
each with its hold and in a transaction of its own, to where somebody is alive to run them, at a
price that is within the limit and the amount that the hold recorded. Where there is no such place,
a job stays where it is: its orchestrator may come back. So does a task of a runtime that is of one
orchestrator.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, text, update
from sqlalchemy import func as sql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload, sessionmaker

from ledger import offers
from ledger.errors import InvalidAmount, LedgerError, OverBudget, RateError
from ledger.limits import Limit
from ledger.offers import Capability, Quote
from ledger.reassign import reassign
from tasks import market, routing, telemetry
from tasks.errors import NoOffer
from tasks.jobs import Bell
from tasks.market import Market
from tasks.results import Task
from tasks.routing import Candidate, Weights
from tasks.sweeps import QUEUES
from tasks.tables import Job
from tasks.workers import SILENCE_S

_log = telemetry.get_logger()
# Jobs of one queue that are looked at in one sweep.
_PAGE = 100

# Only where another orchestrator's worker serves the same capability: else, nobody need look.
_HAS_A_PLACE = """
SELECT queue FROM queues
 WHERE queue IS NOT NULL
   AND NOT EXISTS (
        SELECT FROM workers
         WHERE queues @> ARRAY[queues.queue]
           AND heartbeat_at > now() - make_interval(secs => greatest(:after_s, :silence_s)))
   AND EXISTS (
        SELECT FROM workers, unnest(workers.queues) AS other (queue)
         WHERE heartbeat_at > now() - make_interval(secs => :silence_s)
           AND starts_with(other.queue, regexp_replace(queues.queue, '[^.]*$', '')))
"""
_SILENT = text(QUEUES + _HAS_A_PLACE)
_NEXT = text("""
SELECT id, priority, gateway_id, attempt,
       created_at < now() - make_interval(secs => :after_s) AND deadline > now() AS is_due
  FROM (
    (SELECT id, priority, gateway_id, attempt, created_at, deadline FROM jobs
      WHERE queue = :queue AND state = 'queued' AND priority = :priority AND id > :id
      ORDER BY id LIMIT :most)
     UNION ALL
    (SELECT id, priority, gateway_id, attempt, created_at, deadline FROM jobs
      WHERE queue = :queue AND state = 'queued' AND priority < :priority
      ORDER BY priority DESC, id LIMIT :most)
) AS page
 ORDER BY priority DESC, id LIMIT :most
""")


@dataclass(frozen=True)
class _Place:
    """A place in a queue: after this job."""

    priority: int
    id: UUID


# Before all jobs: no priority is larger.
_HEAD = _Place(32_767, UUID(int=0))


class Rerouter:
    """Goes through silent queues, a page of each at a time. Used by one thread.

    It remembers how far it has come, so that jobs which have nowhere to go keep no other waiting.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        after_s: float,
        weights: Weights,
        max_rate_age: timedelta,
    ) -> None:
        """Take how long a queue is silent before its jobs move, and what counts in routing."""
        self._sessions = sessions
        self._after_s = after_s
        self._weights = weights
        self._max_rate_age = max_rate_age
        self._places: dict[str, _Place] = {}

    def reroute(self) -> list[Bell]:
        """Move what can move of the next page of each silent queue; returns the bells to ring."""
        with self._sessions.begin() as session:
            silent = session.scalars(
                _SILENT, {"after_s": self._after_s, "silence_s": SILENCE_S}
            ).all()
        self._places = {queue: self._places.get(queue, _HEAD) for queue in silent}
        return [bell for queue in silent for bell in self._move_page(queue)]

    def _move_page(self, queue: str) -> list[Bell]:
        place = self._places[queue]
        with self._sessions.begin() as session:
            page = session.execute(
                _NEXT,
                {"queue": queue, "after_s": self._after_s, "most": _PAGE, **vars(place)},
            ).all()
        # At the end of the queue, it begins anew.
        last = page[-1] if len(page) == _PAGE else None
        self._places[queue] = _Place(last.priority, last.id) if last else _HEAD
        markets: dict[UUID, Market | None] = {}
        due = [row for row in page if row.is_due]
        return [bell for row in due if (bell := self._move(row, queue, markets))]

    def _move(self, row: Row[Any], queue: str, markets: dict[UUID, Market | None]) -> Bell | None:
        """Move one job, if it is still there, may be moved, and there is a place for it."""
        try:
            with self._sessions.begin() as session:
                job = _lock(session, row.id, queue)
                task = None if job is None else Task.of(job.callback)
                if job is None or (task is not None and task.orchestrator is not None):
                    return None
                return self._move_locked(session, job, markets)
        except (OverBudget, RateError) as error:
            _log.info("job_stays", **telemetry.of(row), why=str(error))
        except (LedgerError, IntegrityError) as error:
            # What the books refuse to one job must not keep the others.
            _log.exception("job_cannot_be_rerouted", **telemetry.of(row), error=str(error))
        return None

    def _move_locked(
        self, session: Session, job: Job, markets: dict[UUID, Market | None]
    ) -> Bell | None:
        if job.gateway_id not in markets:
            markets[job.gateway_id] = self._look(session, job)
        found = markets[job.gateway_id]
        if found is None:
            return None
        chosen = _best(found, job, self._weights)
        if chosen is None:
            return None
        best, quote = chosen
        hold_id = reassign(session, job.hold_id, quote)
        to = routing.queue_name(best.offer.capability, best.offer.orchestrator)
        session.execute(
            update(Job)
            .where(Job.id == job.id)
            .values(
                hold_id=hold_id,
                orchestrator_id=best.offer.orchestrator_id,
                queue=to,
                rung_at=sql.now(),
            )
        )
        markets[job.gateway_id] = _with_more(found, best, job.units)
        _log.warning("job_rerouted", **telemetry.of(job), queue=to)
        return Bell(job.id, to, job.model_id, job.traceparent)

    def _look(self, session: Session, job: Job) -> Market | None:
        """Return what is offered to a gateway, or None when nothing of it can be used."""
        capability = Capability(job.pipeline, job.model_id)
        try:
            # The limits that holds recorded may be in other currencies than those of today.
            return market.look(
                session, job.gateway_id, capability, self._max_rate_age, every_rate=True
            )
        except (NoOffer, RateError):
            return None


def _lock(session: Session, job_id: UUID, queue: str) -> Job | None:
    """Lock a job that waits in the queue still, unless somebody else is at it."""
    return session.scalars(
        select(Job)
        .where(Job.id == job_id, Job.state == "queued", Job.queue == queue)
        .options(joinedload(Job.hold, innerjoin=True))
        .with_for_update(of=Job, skip_locked=True)
        .execution_options(populate_existing=True)
    ).one_or_none()


def _best(found: Market, job: Job, weights: Weights) -> tuple[Candidate, Quote] | None:
    """Return who of the live should have a job, and at what amount; None: it should stay."""
    live = [one for one in found.candidates if one.live]
    if any(one.offer.orchestrator_id == job.orchestrator_id for one in live):
        return None
    within = {}
    for one in live:
        with suppress(InvalidAmount):  # an offer by which this costs more than any amount
            quote = offers.quote(one.offer, job.units, found.rates)
            if quote.currency == job.hold.currency and quote.amount <= job.hold.amount:
                within[one] = quote
    limit = Limit(job.pipeline, job.model_id, job.hold.limit_price)
    lot = random.random()  # noqa: S311  nobody gains by guessing it
    best = routing.choose(within, limit, found.rates, weights, lot=lot)
    return None if best is None else (best, within[best])


def _with_more(found: Market, chosen: Candidate, units: int) -> Market:
    """Return a market in which a candidate has more to do: it is looked at once for many jobs."""
    busier = replace(chosen, queued_units=chosen.queued_units + units)
    rest: Sequence[Candidate] = [busier if one is chosen else one for one in found.candidates]
    return replace(found, candidates=tuple(rest))
