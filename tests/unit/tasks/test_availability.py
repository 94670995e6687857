"""Whether a model can be had now, and what is said where it cannot."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from ledger.money import unit_price
from ledger.offers import Capability, LiveOffer
from tasks import availability
from tasks.catalog import ModelSpec
from tasks.routing import Candidate

SPEC = ModelSpec("acme/small", "/models/small", "stable-diffusion", ("text-to-image",))
UNPINNED = replace(SPEC, source="acme/small")
OFFER = LiveOffer(
    id=1,
    orchestrator_id=UUID(int=1),
    orchestrator="north",
    capability=Capability("text-to-image", "acme/small"),
    price=unit_price("1"),
    valid_from=datetime(2026, 1, 1, tzinfo=UTC),
)
SILENT, LIVE, WARM = Candidate(OFFER), Candidate(OFFER, (1.0,)), Candidate(OFFER, (1.0,), warm=True)


@pytest.mark.parametrize(
    ("spec", "candidates", "state", "said"),
    [
        (SPEC, [SILENT, LIVE, WARM], "warm", None),
        (SPEC, [SILENT, LIVE], "on_demand", None),
        (SPEC, [SILENT], "unavailable", "No worker"),
        (SPEC, [], "unavailable", "Nobody offers"),
        (UNPINNED, [LIVE], "unavailable", "no pinned revision"),
        (UNPINNED, [], "unavailable", "Nobody offers"),
    ],
)
def test_a_model_is_as_available_as_the_best_who_offers_it(
    spec: ModelSpec, candidates: list[Candidate], state: str, said: str | None
) -> None:
    found = availability.of(spec, candidates)
    assert found.state == state
    assert found.reason is None if said is None else said in str(found.reason)
