"""Which orchestrator gets a job, and on which queue. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ledger.limits import Limit
from ledger.offers import Capability, LiveOffer


@dataclass(frozen=True)
class Candidate:
    """An offer and what the workers say: is one alive, and has one the model in memory."""

    offer: LiveOffer
    live: bool
    warm: bool


def choose(candidates: Iterable[Candidate], limit: Limit) -> Candidate | None:
    """Return the best candidate within the limit, or None when every price is above it.

    A live worker goes before a silent one, then a warm model before a cold one, then the price.
    """
    within = [one for one in candidates if limit.allows(one.offer.price)]
    return min(within, key=_rank, default=None)


def _rank(one: Candidate) -> tuple[bool, bool, object, str]:
    return not one.live, not one.warm, one.offer.price.fraction, one.offer.orchestrator


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
