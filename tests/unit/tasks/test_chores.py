"""Pins when chores are done: at every interval, and first of all sooner where that is asked."""

from __future__ import annotations

import threading

from tasks import chores


def test_the_first_time_may_come_sooner_than_an_interval() -> None:
    done, stopping = threading.Event(), threading.Event()

    chores.repeat(done.set, 3600.0, stopping, first_s=0.0)

    assert done.wait(30)
    stopping.set()


def test_an_interval_that_is_shorter_is_not_made_longer() -> None:
    done, stopping = threading.Event(), threading.Event()

    chores.repeat(done.set, 0.01, stopping, first_s=3600.0)

    assert done.wait(30)
    stopping.set()
