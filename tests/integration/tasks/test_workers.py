"""Workers: who is heard of, what they serve, and when silence counts."""

from __future__ import annotations

import pytest

from tasks import worker, workers
from tasks.errors import NoOffer
from tests.stage import IMAGE, OTHER, OWNER, SMALL, TEXT, UNLOADABLE, Stage, queue


def is_served(stage: Stage, name: str) -> bool:
    with stage.sessions.begin() as session:
        return workers.has_live_worker(session, name)


def test_a_worker_is_live_from_its_heartbeat_until_it_leaves(stage: Stage) -> None:
    assert not is_served(stage, queue())
    for _ in range(2):
        with stage.sessions.begin() as session:
            workers.heartbeat(session, "w", [queue()], [])
    assert is_served(stage, queue())
    assert not is_served(stage, queue(OTHER))
    with stage.sessions.begin() as session:
        workers.leave(session, "w")
    assert not is_served(stage, queue())


def test_a_silent_worker_is_not_live_and_is_forgotten_in_time(stage: Stage) -> None:
    with stage.sessions.begin() as session:
        workers.heartbeat(session, "w", [queue()], [])
    stage.execute("UPDATE workers SET heartbeat_at = now() - interval '16 s'")
    assert not is_served(stage, queue())
    with stage.sessions.begin() as session:
        workers.forget_silent(session)
        workers.heartbeat(session, "w", [queue()], [])
    assert is_served(stage, queue())
    stage.execute("UPDATE workers SET heartbeat_at = now() - interval '10 minutes'")
    with stage.sessions.begin() as session:
        workers.forget_silent(session)
        assert session.connection().exec_driver_sql("SELECT count(*) FROM workers").scalar() == 0


def test_a_worker_serves_its_orchestrators_offers(stage: Stage) -> None:
    every = [queue(model, pipe) for model in (SMALL, OTHER, UNLOADABLE) for pipe in (TEXT, IMAGE)]
    assert list(worker.offered_queues(stage.sessions, OWNER, [])) == sorted(every)
    asked = worker.offered_queues(stage.sessions, OWNER, [SMALL])
    assert list(asked) == [queue(SMALL, IMAGE), queue(SMALL, TEXT)]


def test_a_model_that_is_not_offered_cannot_be_served(stage: Stage) -> None:
    with pytest.raises(NoOffer, match="acme/nothing"):
        worker.offered_queues(stage.sessions, OWNER, [SMALL, "acme/nothing"])
    stage.execute("INSERT INTO orchestrators (name) VALUES ('idle')")
    with pytest.raises(NoOffer):
        worker.offered_queues(stage.sessions, "idle", [])
