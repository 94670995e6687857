"""Waiting for jobs: woken by the database, without asking it again and again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text

from api.waiting import CHANNEL, Waiting
from tests.databases import as_owner
from tests.integration.api.conftest import MakeWorld
from tests.integration.api.world import World
from tests.stage import eventually

_SLOW_S, _FAST_S = 3600.0, 0.05


class Polls:
    """Clients that wait for jobs, each in a thread, and what they were answered."""

    def __init__(self, world: World, job_ids: Sequence[str]) -> None:
        self.states: list[str] = []
        self._threads = [
            threading.Thread(target=self._poll, args=(world, one), daemon=True) for one in job_ids
        ]
        for thread in self._threads:
            thread.start()
        eventually(lambda: world.runtime.waiting.taken == len(job_ids))

    def _poll(self, world: World, job_id: str) -> None:
        self.states.append(world.client().get(f"/v1/jobs/{job_id}?wait=60").json["state"])

    def join(self) -> list[str]:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        return self.states


def listening(world: World, poll_s: float) -> World:
    """Let the world's API look for lost notifications this often."""
    engine = world.sessions.kw["bind"]
    vars(world.runtime)["waiting"] = Waiting(engine, 512, 512, poll_s)
    return world


def test_a_process_that_is_to_end_lets_waiting_requests_go(world: World) -> None:
    """Who can ask again at once; who cannot, as late as possible, and whoever comes after."""
    waiting, gateway_id = Waiting(world.sessions.kw["bind"], 512, 512), world.gateway_id
    job_id = UUID(world.submit()["id"])
    ended: list[str] = []

    def wait(name: str, *, can_ask_again: bool) -> threading.Thread:
        def run() -> None:
            with waiting.place(gateway_id):
                waiting.wait(gateway_id, job_id, 60, can_ask_again=can_ask_again)
            ended.append(name)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    threads = [wait("first", can_ask_again=True), wait("last", can_ask_again=False)]
    eventually(lambda: waiting.taken == 2)
    waiting.leave(patience_s=3600)
    threads[0].join(30)
    assert ended == ["first"]
    wait("second", can_ask_again=True).join(30)
    assert ended == ["first", "second"]
    waiting.leave(patience_s=0)
    threads[1].join(30)
    wait("too late", can_ask_again=False).join(30)
    assert ended == ["first", "second", "last", "too late"]


def backend(world: World) -> int | None:
    """The database's process that serves the listener, once it has looked."""
    with world.sessions() as session:
        found: int | None = session.scalar(
            text(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND state = 'idle' AND query LIKE 'SELECT id FROM jobs WHERE id = ANY%'"
            )
        )
    return found


@contextmanager
def without_notifications(world: World) -> Iterator[None]:
    def switch(how: str) -> None:
        statement = text(f"ALTER TABLE jobs {how} TRIGGER notify_ended")
        with as_owner(world.sessions) as session:
            session.execute(statement)

    switch("DISABLE")
    yield
    switch("ENABLE")


def cancel(world: World, job_id: str) -> None:
    assert world.client().post(f"/v1/jobs/{job_id}/cancel").status_code == 200


def test_everybody_who_waits_is_woken_by_the_end_of_the_job_alone(world: World) -> None:
    listening(world, _SLOW_S)
    waited, other = world.submit()["id"], world.submit()["id"]
    polls = Polls(world, [waited, waited, other])
    assert eventually(lambda: backend(world))

    world.succeed()
    eventually(lambda: world.runtime.waiting.taken == 1)
    cancel(world, other)

    assert sorted(polls.join()) == ["canceled", "succeeded", "succeeded"]


def test_many_who_wait_ask_the_database_nothing(world: World) -> None:
    listening(world, _SLOW_S)
    jobs = [world.submit()["id"] for _ in range(3)]
    polls = Polls(world, jobs * 20)
    assert eventually(lambda: backend(world))
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    engine = world.sessions.kw["bind"]
    eventually(lambda: engine.pool.checkedout() == 0)
    event.listen(engine, "before_cursor_execute", note)
    assert not threading.Event().wait(0.5)
    event.remove(engine, "before_cursor_execute", note)

    assert asked == []
    assert engine.pool.checkedout() == 0
    for job_id in jobs:
        cancel(world, job_id)
    assert polls.join() == ["canceled"] * 60


def test_a_lost_notification_is_made_good_by_a_look(world: World) -> None:
    listening(world, _FAST_S)
    job_id = world.submit()["id"]
    polls = Polls(world, [job_id])
    with without_notifications(world):
        cancel(world, job_id)
        assert polls.join() == ["canceled"]


def test_a_listener_that_loses_its_connection_listens_again(world: World) -> None:
    listening(world, _SLOW_S)
    job_id = world.submit()["id"]
    polls = Polls(world, [job_id])
    first = eventually(lambda: backend(world))

    world.change(lambda session: session.execute(text(f"SELECT pg_terminate_backend({first})")))
    eventually(lambda: backend(world) not in (None, first))
    cancel(world, job_id)

    assert polls.join() == ["canceled"]


def test_a_notification_that_names_no_job_wakes_nobody(world: World) -> None:
    listening(world, _SLOW_S)
    job_id = world.submit()["id"]
    polls = Polls(world, [job_id])
    assert eventually(lambda: backend(world))

    world.change(lambda session: session.execute(text(f"NOTIFY {CHANNEL}, 'nonsense'")))
    cancel(world, job_id)

    assert polls.join() == ["canceled"]


def test_a_job_that_has_ended_is_not_waited_for(world: World) -> None:
    job_id = world.submit()["id"]
    cancel(world, job_id)

    assert world.client().get(f"/v1/jobs/{job_id}?wait=60").json["state"] == "canceled"


@pytest.mark.parametrize("running", [False, True])
def test_a_job_that_goes_on_wakes_nobody(world: World, running: bool) -> None:
    listening(world, _SLOW_S)
    job_id = world.submit()["id"]
    if running:
        world.claim()
    polls = Polls(world, [job_id])
    assert eventually(lambda: backend(world))

    world.change(lambda session: session.execute(text("UPDATE jobs SET step = 1")))

    assert not polls.states
    assert world.runtime.waiting.taken == 1
    cancel(world, job_id)
    polls.join()


def test_when_all_places_are_taken_the_next_poll_is_answered_at_once(make_world: MakeWorld) -> None:
    world = make_world(max_waiting=1)
    job_id = world.submit()["id"]
    polls = Polls(world, [job_id])

    # Had it waited, nobody would end the job, and this would take a minute.
    assert world.client().get(f"/v1/jobs/{job_id}?wait=60").json["state"] == "queued"

    cancel(world, job_id)
    assert polls.join() == ["canceled"]
