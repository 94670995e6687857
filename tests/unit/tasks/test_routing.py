"""Who gets a job, and on which queue."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from ledger.limits import Limit
from ledger.money import unit_price
from ledger.offers import Capability, LiveOffer
from tasks.routing import (
    DEFAULT_WEIGHTS,
    Candidate,
    Weights,
    choose,
    expected_wait_s,
    queue_name,
    slug,
)

CAPABILITY = Capability("text-to-image", "acme/turbo")
NOW = datetime(2026, 11, 1, tzinfo=UTC)
ANY = Limit(None, None, None)
MEGA = 1_000_000


def candidate(
    name: str,
    price: str = "1",
    *speeds: float | None,
    warm: bool = True,
    queued: int = 0,
    capacity: int = 1,
) -> Candidate:
    offer = LiveOffer(1, UUID(int=0), name, CAPABILITY, unit_price(price), NOW, capacity=capacity)
    return Candidate(offer, speeds or (None,), warm, queued)


def silent(name: str, price: str = "1", queued: int = 0) -> Candidate:
    return Candidate(candidate(name, price).offer, queued_units=queued)


def chosen(
    *candidates: Candidate, limit: Limit = ANY, weights: Weights = DEFAULT_WEIGHTS
) -> str | None:
    for order in (candidates, candidates[::-1]):
        best = choose(order, limit, weights=weights)
        assert best == choose(candidates, limit, weights=weights), "the order of offers decided"
    return best.offer.orchestrator if best else None


# --- in order: the limit, a live worker, a warm model, the wait, the price, the name -----------


def test_the_limit_goes_before_all() -> None:
    limit = Limit(None, None, unit_price("1.5"))
    assert chosen(candidate("live", "2"), silent("a", "1"), limit=limit) == "a"


def test_a_price_equal_to_the_limit_is_within() -> None:
    limit = Limit(None, None, unit_price("3", 2))
    assert chosen(candidate("a", "1.5"), limit=limit) == "a"


def test_nobody_when_all_are_above() -> None:
    limit = Limit(None, None, unit_price("0.999999999999999999"))
    assert chosen(candidate("a", "1"), candidate("b", "2"), limit=limit) is None


def test_a_live_worker_goes_before_a_warm_model_a_wait_and_a_price() -> None:
    live = candidate("live", "2", 1.0, warm=False, queued=MEGA)
    assert chosen(silent("silent"), live) == "live"


def test_a_warm_model_goes_before_a_wait_and_a_price() -> None:
    warm = candidate("warm", "2", 1.0, queued=80_000)
    assert chosen(candidate("cold", "1", 1.0, warm=False), warm) == "warm"


def test_the_shorter_wait_goes_before_a_price() -> None:
    near = candidate("near", "2", 1.0 * MEGA, queued=10)
    assert chosen(candidate("far", "1", 1.0 * MEGA, queued=11), near) == "near"


def test_the_cheapest_of_equals_and_then_the_name() -> None:
    assert chosen(candidate("a", "2"), candidate("b", "1"), candidate("c", "3")) == "b"
    assert chosen(candidate("b", "1"), candidate("a", "1")) == "a"


def test_silent_ones_go_by_price_whatever_is_queued() -> None:
    for first in (silent("a", "1", queued=MEGA), deep(silent("a", "1", queued=MEGA))):
        assert chosen(first, silent("b", "2")) == "a"


# --- the wait -------------------------------------------------------------------------------------


def test_a_wait_is_what_is_queued_over_the_speed_of_the_workers() -> None:
    assert expected_wait_s(candidate("a", "1", 10.0, 30.0, queued=80, capacity=2)) == 2
    assert expected_wait_s(candidate("a", "1", 10.0)) == 0


def test_a_faster_one_with_more_to_do_may_still_be_sooner() -> None:
    fast = candidate("fast", "1", 100.0, queued=500)
    assert chosen(fast, candidate("slow", "1", 10.0, queued=51)) == "fast"
    assert chosen(fast, candidate("slow", "1", 10.0, queued=49)) == "slow"


def test_no_more_workers_count_than_were_promised() -> None:
    assert expected_wait_s(candidate("a", "1", 10.0, 20.0, 40.0, queued=120, capacity=1)) == 3
    assert expected_wait_s(candidate("a", "1", 10.0, 20.0, 40.0, queued=120, capacity=2)) == 2
    assert expected_wait_s(candidate("a", "1", 10.0, queued=120, capacity=9)) == 12


def test_an_unmeasured_worker_is_as_fast_as_the_measured_are_on_average() -> None:
    new = candidate("new", "1", None, queued=100)
    assert chosen(new, candidate("old", "1", 10.0, 30.0, queued=199, capacity=2)) == "old"
    assert chosen(new, candidate("old", "1", 10.0, 30.0, queued=201, capacity=2)) == "new"


def test_where_nobody_is_measured_the_shorter_queue_wins() -> None:
    a, b = candidate("a", "1", None, queued=3 * MEGA), candidate("b", "2", None, queued=2 * MEGA)
    assert expected_wait_s(a) == 3
    assert chosen(a, b) == "b"


def deep(one: Candidate) -> Candidate:
    return replace(one, is_deep=True)


def test_of_deep_queues_each_gets_its_part_by_lot() -> None:
    fast, slow = (
        deep(candidate("fast", "1", 30.0, queued=9)),
        candidate("slow", "1", 10.0, queued=9),
    )
    for pool in ([fast, slow], [fast, deep(slow)], [deep(slow), fast]):
        drawn = [choose(pool, ANY, lot=number / 100) for number in range(100)]
        got = Counter(one.offer.orchestrator for one in drawn if one)
        assert got == {"fast": 75, "slow": 25}


def test_a_queue_that_is_known_to_be_shorter_needs_no_lot() -> None:
    busy, idle = deep(candidate("busy", "1", 30.0, queued=90)), candidate("idle", "2", 1.0)
    assert {choose([busy, idle], ANY, lot=lot) for lot in (0, 0.5, 0.99)} == {idle}


def test_a_lot_falls_on_nobody_who_is_cold_silent_or_too_dear() -> None:
    busy = deep(candidate("busy", "1", 1.0, queued=90))
    cold = deep(candidate("cold", "1", 100.0, warm=False, queued=9))
    others = [cold, silent("silent"), candidate("dear", "3", 100.0)]
    limit = Limit(None, None, unit_price("2"))
    assert {choose([busy, *others], limit, lot=lot) for lot in (0, 0.5, 0.99)} == {busy}
    weights = Weights(price_s=1)
    dear = candidate("dear", "2", 1.0, queued=91)
    assert {choose([busy, dear], limit, None, weights, lot=lot) for lot in (0, 0.99)} == {busy}


# --- the weights ----------------------------------------------------------------------------------


def test_who_knows_how_long_a_model_loads_may_wait_less() -> None:
    busy = candidate("busy", "1", 1.0, queued=30)
    idle = candidate("idle", "1", 1.0, warm=False)
    assert chosen(busy, idle) == "busy"
    assert chosen(busy, idle, weights=Weights(cold_s=29)) == "idle"
    assert chosen(busy, idle, weights=Weights(cold_s=31)) == "busy"


def test_who_would_rather_wait_than_pay_may_say_for_how_long() -> None:
    cheap = candidate("cheap", "1", 1.0, queued=30)
    dear = candidate("dear", "1.5", 1.0)
    assert chosen(cheap, dear) == "dear"
    assert chosen(cheap, dear, weights=Weights(price_s=59)) == "dear"
    assert chosen(cheap, dear, weights=Weights(price_s=61)) == "cheap"


# --- queues ---------------------------------------------------------------------------------------


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
