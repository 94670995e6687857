"""Who gets a job, and on which queue."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from ledger.limits import Limit
from ledger.money import unit_price
from ledger.offers import Capability, LiveOffer
from tasks.routing import Candidate, choose, queue_name, slug

CAPABILITY = Capability("text-to-image", "acme/turbo")
NOW = datetime(2026, 11, 1, tzinfo=UTC)
ANY = Limit(None, None, None)


def candidate(name: str, price: str, *, live: bool = True, warm: bool = False) -> Candidate:
    offer = LiveOffer(1, UUID(int=0), name, CAPABILITY, unit_price(price), NOW)
    return Candidate(offer, live=live, warm=warm)


def chosen(*candidates: Candidate, limit: Limit = ANY) -> str | None:
    for order in (candidates, candidates[::-1]):
        best = choose(order, limit)
        assert best == choose(candidates, limit), "the order of the offers decided"
    return best.offer.orchestrator if best else None


def test_the_cheapest_of_equals() -> None:
    assert chosen(candidate("a", "2"), candidate("b", "1"), candidate("c", "3")) == "b"


def test_a_live_worker_goes_before_a_price() -> None:
    assert chosen(candidate("silent", "1", live=False), candidate("live", "2")) == "live"


def test_a_warm_model_goes_before_a_price() -> None:
    assert chosen(candidate("cold", "1"), candidate("warm", "2", warm=True)) == "warm"


def test_no_model_is_warm_without_a_worker() -> None:
    silent = candidate("silent", "1", live=False, warm=True)
    assert chosen(silent, candidate("cold", "2")) == "cold"


def test_the_limit_goes_before_all() -> None:
    limit = Limit(None, None, unit_price("1.5"))
    assert chosen(candidate("warm", "2", warm=True), candidate("a", "1"), limit=limit) == "a"


def test_a_price_equal_to_the_limit_is_within() -> None:
    limit = Limit(None, None, unit_price("3", 2))
    assert chosen(candidate("a", "1.5"), limit=limit) == "a"


def test_nobody_when_all_are_above() -> None:
    limit = Limit(None, None, unit_price("0.999999999999999999"))
    assert chosen(candidate("a", "1"), candidate("b", "2"), limit=limit) is None


def test_the_name_breaks_a_tie() -> None:
    assert chosen(candidate("b", "1"), candidate("a", "1")) == "a"


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", "stabilityai-stable-diffusion-xl-base-1-0"),
        ("SG161222/RealVisXL_V4.0", "sg161222-realvisxl-v4-0"),
        ("turbo", "turbo"),
        ("turbo.", "turbo"),
    ],
)
def test_a_slug(model_id: str, expected: str) -> None:
    assert slug(model_id) == expected


def test_a_queue_names_work_model_and_owner() -> None:
    assert queue_name(CAPABILITY, "north") == "text-to-image.acme-turbo.north"
