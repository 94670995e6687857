"""What a gateway finds when it asks for a capability: offers, its limits, who is awake, what waits.

One round trip for all of it, because every submission waits for it. What an offer or a limit means
is the ledger's word: this must say the same as `ledger.offers.live_for`, `tasks.workers.candidates`
and `ledger.limits.list_limits` together, and a test holds it to that.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger import offers
from ledger.direct import Direct
from ledger.limits import Limit
from ledger.money import UnitPrice
from ledger.offers import Capability, LiveOffer
from ledger.rates import Rates
from ledger.rates import load as load_rates
from ledger.tables import Offer
from tasks.errors import NoOffer
from tasks.routing import Candidate, queue_prefix
from tasks.workers import BACKLOG_JOBS, SILENCE_S


@dataclass(frozen=True)
class Market:
    """Offers, cheapest first, the limits that apply, and the database's time of looking.

    Prices are compared by the rates; an offer that they cannot convert is left out.
    """

    candidates: tuple[Candidate, ...]
    limits: tuple[Limit, ...]
    rates: Rates
    seen_at: datetime

    def only(self, orchestrator: str | None) -> Market:
        """Return what one orchestrator offers, by name; None: what everybody does.

        Raises:
            NoOffer: It offers nothing of this.
        """
        if orchestrator is None:
            return self
        own = tuple(one for one in self.candidates if one.offer.orchestrator == orchestrator)
        if not own:
            there = self.candidates[0].offer.capability
            raise NoOffer(there.pipeline, there.model_id, (there.model_id,), orchestrator)
        return replace(self, candidates=own)


class _Found(NamedTuple):
    """A row of the answer: an offer with what is there to serve it, or a limit, without that."""

    offer_id: Any
    orchestrator_id: UUID
    orchestrator: str
    pipeline: str | None
    model_id: str | None
    price_per_unit: Any
    pixels_per_unit: int
    currency: str
    valid_from: datetime
    promised_warm: bool
    capacity: Any
    speeds: list[float | None]
    warm: bool
    queued_units: int
    is_deep: bool
    seen_at: datetime
    settlement: str | None


# The number of jobs is written out. By a parameter PostgreSQL does not know how many rows there are
# to be: it would plan the statement anew each time, which takes longer than to run it.
@functools.cache
def _asking(backlog_jobs: int) -> Direct:
    """Return the statement, which looks at so many jobs of each queue."""
    asking = text(f"""
WITH newest AS (
    SELECT DISTINCT ON (offers.orchestrator_id) offers.*, orchestrators.name
      FROM offers JOIN orchestrators ON orchestrators.id = offers.orchestrator_id
     WHERE pipeline = :pipeline AND model_id = :model_id AND valid_from <= now()
       AND withdraws IS NULL
       AND NOT EXISTS (SELECT FROM offers gone WHERE gone.withdraws = offers.id)
     ORDER BY offers.orchestrator_id, valid_from DESC, offers.id DESC
), settlement AS (
    SELECT currency FROM accounts WHERE gateway_id = :gateway_id AND kind = 'available'
)
SELECT newest.id AS offer_id, newest.orchestrator_id, newest.name AS orchestrator,
       NULL AS pipeline, NULL AS model_id, price_per_unit, pixels_per_unit, newest.currency,
       newest.valid_from, newest.warm AS promised_warm, newest.capacity,
       serving.speeds, serving.warm, backlog.queued_units, backlog.is_deep,
       now() AS seen_at, settlement.currency AS settlement
  FROM newest, LATERAL (
    SELECT coalesce(array_agg((speeds ->> (:queue_prefix || newest.name))::float), '{{}}')
               AS speeds,
           coalesce(bool_or(:model_id = ANY(loaded)), false) AS warm
      FROM workers
     WHERE workers.orchestrator_id = newest.orchestrator_id
       AND queues @> ARRAY[CAST(:queue_prefix || newest.name AS varchar)]
       AND heartbeat_at > now() - make_interval(secs => {SILENCE_S})
  ) AS serving, LATERAL (
    SELECT coalesce(sum(units), 0)::bigint AS queued_units, count(*) = {backlog_jobs} AS is_deep
      FROM (
        SELECT units FROM jobs
         WHERE queue = :queue_prefix || newest.name AND state = 'queued'
         ORDER BY priority DESC, id LIMIT {backlog_jobs}) AS head
  ) AS backlog
  LEFT JOIN settlement ON true
 WHERE NOT newest.withdrawn
UNION ALL
SELECT NULL, NULL, NULL, pipeline, model_id, price_per_unit, pixels_per_unit,
       price_limits.currency, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL, now(), settlement.currency
  FROM price_limits LEFT JOIN settlement ON true
 WHERE gateway_id = :gateway_id AND coalesce(pipeline, :pipeline) = :pipeline
   AND coalesce(model_id, :model_id) = :model_id
""")  # noqa: S608  numbers
    return Direct(asking)


def look(
    session: Session,
    gateway_id: UUID,
    capability: Capability,
    max_rate_age: timedelta = timedelta(days=1),
    *,
    every_rate: bool = False,
) -> Market:
    """Return what holds now for a capability and a gateway; nothing is locked.

    `every_rate`: for who has a limit in mind that is none of these, and may be in any currency.

    Raises:
        NoOffer: No orchestrator offers the capability; names the models that are offered.
        NoRate, StaleRate: No offer's price can be converted.
    """
    values = {
        "gateway_id": gateway_id,
        "pipeline": capability.pipeline,
        "model_id": capability.model_id,
        "queue_prefix": queue_prefix(capability),
    }
    rows = [_Found(*row) for row in _asking(BACKLOG_JOBS).rows(session, values)]
    offered = [_candidate(row, capability) for row in rows if row.offer_id is not None]
    if not offered:
        others = offers.live(session, Offer.pipeline == capability.pipeline)
        names = sorted({offer.capability.model_id for offer in others})
        raise NoOffer(capability.pipeline, capability.model_id, names)
    rates = _rates(session, rows, max_rate_age, every_rate=every_rate)
    usable = [one for one in offered if rates.can_settle(one.offer.price)]
    if not usable:
        rates.of(offered[0].offer.price.currency)  # says why not
    return Market(
        tuple(sorted(usable, key=lambda one: _cheapest_first(one, rates))),
        tuple(_limit(row) for row in rows if row.offer_id is None),
        rates,
        rows[0].seen_at,
    )


def _rates(
    session: Session, rows: Sequence[_Found], max_age: timedelta, *, every_rate: bool
) -> Rates:
    """Return the rates, which are asked for only where somebody uses another currency."""
    settlement = rows[0].settlement or rows[0].currency
    if not every_rate and {row.currency for row in rows} <= {settlement, None}:
        return Rates(settlement)
    return load_rates(session, settlement, max_age)


def _candidate(row: _Found, capability: Capability) -> Candidate:
    offer = LiveOffer(
        id=row.offer_id,
        orchestrator_id=row.orchestrator_id,
        orchestrator=row.orchestrator,
        capability=capability,
        price=UnitPrice(row.price_per_unit, row.pixels_per_unit, row.currency),
        valid_from=row.valid_from,
        warm=row.promised_warm,
        capacity=row.capacity,
    )
    return Candidate(offer, tuple(row.speeds), row.warm, row.queued_units, row.is_deep)


def _limit(row: _Found) -> Limit:
    if row.price_per_unit is None:
        return Limit(row.pipeline, row.model_id, None)
    price = UnitPrice(row.price_per_unit, row.pixels_per_unit, row.currency)
    return Limit(row.pipeline, row.model_id, price)


def _cheapest_first(one: Candidate, rates: Rates) -> tuple[object, str]:
    return rates.settled(one.offer.price), one.offer.orchestrator
