"""Which orchestrator gets a job, and on which queue. Pure.

Who has a live worker goes first, because a silent one may never wake. Among those, what counts is
said in one measure, seconds of waiting, so that it can be weighed by two settings:

    the expected wait: queued units over the speed of the workers that share them
  + `cold_s`, if no live worker has the model in memory
  + `price_s` for each time that the price is the cheapest one over again

and the price, then the name, decide between equals. By default `cold_s` is a day, and `price_s` is
nothing: then a warm model goes before any wait that is shorter than a day, and the wait before the
price. An operator who knows how long a model loads says so instead; one who would rather wait than
pay raises the other.

A worker that has not been measured on a queue is taken to be as fast as the measured ones are on
average, whoever's they are; where none is, a megapixel a second, which makes waits comparable to
each other. A silent orchestrator's wait is unknown, so there the price alone decides.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ledger.limits import Limit
from ledger.offers import Capability, LiveOffer
from ledger.rates import Rates

# Units a second of workers that nobody has measured.
_UNMEASURED = 1_000_000.0


@dataclass(frozen=True)
class Weights:
    """What a cold model, and a price twice the cheapest, count for in seconds of waiting."""

    cold_s: float = 86_400.0
    price_s: float = 0.0


DEFAULT_WEIGHTS = Weights()


@dataclass(frozen=True)
class Candidate:
    """An offer, what the live workers say of it, and what waits for them.

    `speeds` has one item for each live worker that serves it: its measured units a second, or None.
    `queued_units` stops at the most jobs that are looked at: a queue so deep keeps its workers busy
    whatever is routed to others, and a shallower one is found before it runs dry.
    """

    offer: LiveOffer
    speeds: tuple[float | None, ...] = ()
    warm: bool = False
    queued_units: int = 0

    @property
    def live(self) -> bool:
        """Tell whether any worker is alive to serve the offer."""
        return bool(self.speeds)


def choose(
    candidates: Iterable[Candidate],
    limit: Limit,
    rates: Rates | None = None,
    weights: Weights = DEFAULT_WEIGHTS,
) -> Candidate | None:
    """Return the best candidate within the limit, or None when every price is above it.

    Without rates, all prices are in one currency.

    Raises:
        NoRate, StaleRate: A price cannot be compared.
    """
    known = list(candidates)
    within = [
        (rates.settled(one.offer.price) if rates else one.offer.price.fraction, one)
        for one in known
        if limit.allows(one.offer.price, rates)
    ]
    if not within:
        return None
    cheapest = min(price for price, _ in within)
    usual = _usual_speed(known)

    def rank(priced: tuple[Fraction, Candidate]) -> tuple[bool, float, Fraction, str]:
        price, one = priced
        score = 0.0
        if one.live:
            # A score is no amount: it only puts candidates in order.
            score = expected_wait_s(one, usual) + weights.price_s * float(price / cheapest - 1)
            score += 0.0 if one.warm else weights.cold_s
        return not one.live, score, price, one.offer.orchestrator

    return min(within, key=rank)[1]


def expected_wait_s(one: Candidate, unmeasured: float = _UNMEASURED) -> float:
    """Return how long what is queued for a live candidate will take its workers.

    At most `capacity` of them work on an offer at a time, the fastest ones.
    """
    speeds = (unmeasured if speed is None else speed for speed in one.speeds)
    return one.queued_units / sum(heapq.nlargest(one.offer.capacity, speeds))


def _usual_speed(candidates: Sequence[Candidate]) -> float:
    measured = [speed for one in candidates for speed in one.speeds if speed is not None]
    return sum(measured) / len(measured) if measured else _UNMEASURED


def queue_name(capability: Capability, orchestrator: str) -> str:
    """Return the Celery queue: `<pipeline>.<model-slug>.<orchestrator>`."""
    return f"{queue_prefix(capability)}{orchestrator}"


def queue_prefix(capability: Capability) -> str:
    """Return what the queues of a capability have in common: all but the orchestrator."""
    return f"{capability.pipeline}.{slug(capability.model_id)}."


def slug(model_id: str) -> str:
    """Return a model id in lower case, with hyphens for all but letters and digits.

    Two ids may have one slug; the catalog refuses to hold both.
    """
    return re.sub(r"[^a-z0-9]+", "-", model_id.lower()).strip("-")
