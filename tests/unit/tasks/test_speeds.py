"""How fast a worker has turned out to be."""

from __future__ import annotations

import pytest

from tasks.speeds import Speeds


def test_nothing_is_known_before_the_first_call() -> None:
    assert Speeds().known() == {}


def test_each_queue_has_its_own_speed() -> None:
    speeds = Speeds()
    speeds.note("a", 100, 2.0)
    speeds.note("b", 100, 4.0)
    assert speeds.known() == {"a": 50.0, "b": 25.0}


def test_a_long_call_says_more_than_a_short_one() -> None:
    speeds = Speeds()
    speeds.note("a", 1_000_000, 10.0)
    speeds.note("a", 1, 0.001)
    assert speeds.known()["a"] == pytest.approx(100_000, rel=0.01)


def test_what_was_long_ago_is_forgotten() -> None:
    speeds = Speeds()
    speeds.note("a", 100, 1.0)
    for _ in range(30):
        speeds.note("a", 300, 1.0)
    assert speeds.known()["a"] == pytest.approx(300, rel=0.01)


def test_a_call_of_no_time_is_no_speed_yet() -> None:
    speeds = Speeds()
    speeds.note("a", 100, 0.0)
    assert speeds.known() == {}
