"""Pins when chores are done, at every interval or sooner at first, and who is told of it."""

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


def test_only_what_was_done_is_a_beat() -> None:
    tries: list[int] = []
    told_after: list[int] = []
    told, stopping = threading.Event(), threading.Event()

    def chore() -> bool | None:
        tries.append(len(tries))
        if len(tries) == 1:
            raise ValueError("no good")
        return None if len(tries) > 2 else False

    def beat() -> None:
        told_after.append(len(tries))
        told.set()

    chores.repeat(chore, 0.01, stopping, beat=beat)

    assert told.wait(30)
    stopping.set()
    assert told_after[0] == 3
