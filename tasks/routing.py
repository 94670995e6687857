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

How much is queued is known up to a number of jobs. Where the best is deeper than that, its wait is
only known to be longer, and a lot decides between all that cost the same otherwise, by their speed:
then a burst of any size is shared so that all of them come to its end at the same time.

A worker that has not been measured on a queue is taken to be as fast as the measured ones are on
average, whoever's they are; where none is, a megapixel a second, which makes waits comparable to
each other. A silent orchestrator's wait is unknown, so there the price alone decides.
"""

from __future__ import annotations

import heapq
import itertools
import math
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
    `is_deep` says that more than `queued_units` may wait: only so many jobs were looked at.
    """

    offer: LiveOffer
    speeds: tuple[float | None, ...] = ()
    warm: bool = False
    queued_units: int = 0
    is_deep: bool = False

    @property
    def live(self) -> bool:
        """Tell whether any worker is alive to serve the offer."""
        return bool(self.speeds)


def choose(
    candidates: Iterable[Candidate],
    limit: Limit,
    rates: Rates | None = None,
    weights: Weights = DEFAULT_WEIGHTS,
    *,
    lot: float = 0.0,
) -> Candidate | None:
    """Return the best candidate within the limit, or None when every price is above it.

    Without rates, all prices are in one currency. `lot` is a random number from 0 to 1.

    Raises:
        NoRate, StaleRate: A price cannot be compared.
    """
    known = list(candidates)
    usual = _usual_speed(known)
    priced = [
        (rates.settled(one.offer.price) if rates else one.offer.price.fraction, one)
        for one in known
        if limit.allows(one.offer.price, rates)
    ]
    if not priced:
        return None
    cheapest = min(price for price, _ in priced)
    ranked = sorted(
        (_rank(one, price, cheapest, weights, usual) for price, one in priced), key=_order
    )
    best = ranked[0]
    if not (best.candidate.live and best.candidate.is_deep):
        return best.candidate
    return _drawn([one.candidate for one in ranked if one.burden_s == best.burden_s], usual, lot)


@dataclass(frozen=True)
class _Ranked:
    """A candidate, its price, the wait, and what it is burdened with besides, in seconds."""

    candidate: Candidate
    price: Fraction
    wait_s: float
    burden_s: float


def _rank(
    one: Candidate, price: Fraction, cheapest: Fraction, weights: Weights, usual: float
) -> _Ranked:
    if not one.live:
        return _Ranked(one, price, 0.0, math.inf)
    # Seconds are no amount: they only put candidates in order.
    burden_s = weights.price_s * float(price / cheapest - 1)
    return _Ranked(
        one, price, expected_wait_s(one, usual), burden_s + (0.0 if one.warm else weights.cold_s)
    )


def _order(one: _Ranked) -> tuple[float, Fraction, str]:
    return one.wait_s + one.burden_s, one.price, one.candidate.offer.orchestrator


def _drawn(candidates: Sequence[Candidate], usual: float, lot: float) -> Candidate:
    """Return one of some live candidates, each with a chance in proportion to its speed."""
    by_name = sorted(candidates, key=lambda one: one.offer.orchestrator)
    speeds = [_speed(one, usual) for one in by_name]
    ends = itertools.accumulate(speeds)
    target = lot * sum(speeds)
    return next((one for one, end in zip(by_name, ends, strict=True) if target < end), by_name[-1])


def expected_wait_s(one: Candidate, unmeasured: float = _UNMEASURED) -> float:
    """Return how long what is queued for a live candidate will take its workers, at least."""
    return one.queued_units / _speed(one, unmeasured)


def _speed(one: Candidate, unmeasured: float) -> float:
    """Return the speed of those who work on an offer: at most `capacity` workers, the fastest."""
    speeds = (unmeasured if speed is None else speed for speed in one.speeds)
    return sum(heapq.nlargest(one.offer.capacity, speeds))


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
