"""The market's one query, against the functions of ledger and workers that say what holds."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest
from sqlalchemy import select

from ledger import accounts, limits, offers
from ledger.limits import Limit
from ledger.money import unit_price
from ledger.offers import Capability
from ledger.tables import Orchestrator
from tasks import market, workers
from tests import stage as stages
from tests.stage import IMAGE, OTHER, OWNER, PRICE, SIDE, SMALL, TEXT, Stage

CAPABILITY = Capability(TEXT, SMALL)
LOW, HIGH = unit_price("1e-08"), unit_price("3e-08", 2)


def owners(stage: Stage, *names: str) -> list[UUID]:
    with stage.sessions.begin() as session:
        return [accounts.create_orchestrator(session, name, "USD").id for name in names]


def agreed(stage: Stage) -> market.Market:
    """Look, after making sure that the parts would say the same."""
    with stage.sessions.begin() as session:
        seen = market.look(session, stage.gateway_id, CAPABILITY)
        by_parts = workers.candidates(session, offers.live_for(session, CAPABILITY))
        all_limits = limits.list_limits(session, stage.gateway_id)
    assert list(seen.candidates) == by_parts
    assert limits.effective(seen.limits, CAPABILITY) == limits.effective(all_limits, CAPABILITY)
    return seen


def names(seen: market.Market) -> list[str]:
    return [one.offer.orchestrator for one in seen.candidates]


def test_offers_are_the_newest_of_each_orchestrator_cheapest_first(stage: Stage) -> None:
    north, south, west = owners(stage, "north", "south", "west")
    with stage.sessions.begin() as session:
        stages.offer(session, north, CAPABILITY, LOW)
        stages.offer(session, north, CAPABILITY, unit_price("5"))
        stages.offer(session, south, CAPABILITY, unit_price("7"))
        stages.offer(session, south, CAPABILITY, HIGH)
        stages.offer(session, west, Capability(IMAGE, SMALL), LOW)
        stages.offer(session, west, Capability(TEXT, OTHER), LOW)
    seen = agreed(stage)
    assert names(seen) == ["south", OWNER, "north"]
    assert [one.offer.price for one in seen.candidates] == [HIGH, PRICE, unit_price("5")]


def test_withdrawn_and_future_offers_do_not_count(stage: Stage) -> None:
    north, south = owners(stage, "north", "south")
    with stage.sessions.begin() as session:
        for owner in (north, south):
            stages.offer(session, owner, CAPABILITY, LOW)
        found = offers.live_for(session, CAPABILITY)
        offers.withdraw(session, next(one for one in found if one.orchestrator == "north"))
        tomorrow = session.scalars(select(Orchestrator.created_at + stages.DAY)).first()
        offers.publish(session, south, CAPABILITY, unit_price("9"), "USD", tomorrow)
    seen = agreed(stage)
    assert names(seen) == ["south", OWNER]
    assert seen.candidates[0].offer.price == LOW


def test_workers_make_an_offer_live_and_warm(stage: Stage) -> None:
    north, south, east = owners(stage, "north", "south", "east")
    with stage.sessions.begin() as session:
        for owner in (north, south, east):
            stages.offer(session, owner, CAPABILITY, LOW)
    to_north, to_south, to_east = (stages.queue(owner=name) for name in ("north", "south", "east"))
    speeds = {to_north: 2e6, "x": 5.0}
    stage.heartbeat("w1", owner=north, queues=[to_north], loaded=[OTHER])
    stage.heartbeat("w2", owner=north, queues=["x", to_north], loaded=[OTHER, SMALL], speeds=speeds)
    stage.heartbeat("w3", owner=south, queues=[to_south], loaded=[OTHER])
    stage.heartbeat("w4", owner=east, queues=[stages.queue(OTHER, owner="east")], loaded=[SMALL])
    # A worker serves its own orchestrator only, whatever it says.
    stage.heartbeat("w5", owner=south, queues=[to_east], loaded=[SMALL])
    stage.heartbeat("w6", queues=[stages.queue()], loaded=[SMALL])
    stage.execute("UPDATE workers SET heartbeat_at = now() - interval '16 s' WHERE id = 'w6'")
    said = {one.offer.orchestrator: (one.live, one.warm) for one in agreed(stage).candidates}
    assert said == {
        "north": (True, True),
        "south": (True, False),
        "east": (False, False),
        OWNER: (False, False),
    }


def test_what_waits_is_summed_up_to_a_number_of_jobs(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for images in (1, 2, 3):
        stage.submit("a cat", num_images_per_prompt=images)
    stage.submit("another model", model_id=OTHER)
    assert [one.queued_units for one in agreed(stage).candidates] == [6 * SIDE * SIDE]
    stage.claim(most=1)
    assert [one.queued_units for one in agreed(stage).candidates] == [5 * SIDE * SIDE]
    for module in (market, workers):
        monkeypatch.setattr(module, "BACKLOG_JOBS", 1)
    [one] = agreed(stage).candidates
    assert (one.queued_units, one.is_deep) == (2 * SIDE * SIDE, True)


def test_submissions_of_one_moment_spread_by_speed(stage: Stage) -> None:
    """One after the other, with no heartbeat in between: each sees what the earlier ones queued."""
    speeds = {"north": 3e6, "south": 1e6, OWNER: 1e6}
    ids = dict(zip(("north", "south"), owners(stage, "north", "south"), strict=True))
    with stage.sessions.begin() as session:
        for owner in ids.values():
            stages.offer(session, owner, CAPABILITY, PRICE)
    for name, speed in speeds.items():
        to = stages.queue(owner=name)
        stage.heartbeat(name, owner=ids.get(name), queues=[to], loaded=[SMALL], speeds={to: speed})
    jobs = [stage.submit(f"cat {number}") for number in range(20)]
    got = Counter(job.orchestrator.name for job in jobs)
    assert sum(got.values()) == 20
    assert abs(got["north"] - 12) <= 1
    assert abs(got["south"] - got[OWNER]) <= 1


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ([], None),
        ([Limit(IMAGE, None, None), Limit(TEXT, OTHER, None)], None),
        ([Limit(None, None, LOW)], Limit(None, None, LOW)),
        ([Limit(None, None, LOW), Limit(TEXT, None, HIGH)], Limit(TEXT, None, HIGH)),
        ([Limit(TEXT, None, HIGH), Limit(TEXT, SMALL, None)], Limit(TEXT, SMALL, None)),
        ([Limit(TEXT, SMALL, LOW), Limit(TEXT, OTHER, HIGH)], Limit(TEXT, SMALL, LOW)),
    ],
)
def test_limits_are_those_that_speak_of_the_capability(
    stage: Stage, given: list[Limit], counts: Limit | None
) -> None:
    with stage.sessions.begin() as session:
        limits.replace_limits(session, stage.gateway_id, given, "USD")
    assert limits.effective(agreed(stage).limits, CAPABILITY) == counts
