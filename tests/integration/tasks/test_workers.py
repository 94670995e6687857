"""Workers: who is heard of, what they serve, and when silence counts."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from ledger import accounts, offers
from ledger.offers import Capability, LiveOffer
from tasks import worker, workers
from tasks.errors import NoOffer
from tasks.tables import Worker
from tests import stage as stages
from tests.fakes import FakeEngine
from tests.stage import IMAGE, OTHER, OWNER, SMALL, TEXT, UNLOADABLE, Stage, queue


def is_served(stage: Stage, name: str) -> bool:
    with stage.sessions.begin() as session:
        return workers.has_live_worker(session, name)


def test_a_worker_is_live_from_its_heartbeat_until_it_leaves(stage: Stage) -> None:
    assert not is_served(stage, queue())
    for _ in range(2):
        stage.heartbeat(queues=[queue()])
    assert is_served(stage, queue())
    assert not is_served(stage, queue(OTHER))
    with stage.sessions.begin() as session:
        workers.leave(session, "w", is_done=True)
    assert not is_served(stage, queue())


def known(stage: Stage) -> list[object]:
    """Forget who is to be forgotten, and return who is left."""
    with stage.sessions.begin() as session:
        workers.forget_silent(session)
        return list(session.scalars(select(Worker.id).order_by(Worker.id)))


def silence(stage: Stage, worker_id: str, span: str) -> None:
    stage.execute(
        "UPDATE workers SET heartbeat_at = now() - CAST(:span AS interval) WHERE id = :id",
        span=span,
        id=worker_id,
    )


def test_a_silent_worker_is_not_live_and_is_forgotten_in_time(stage: Stage) -> None:
    stage.heartbeat(queues=[queue()])
    silence(stage, "w", "16 s")
    assert not is_served(stage, queue())
    assert known(stage) == ["w"]
    stage.heartbeat(queues=[queue()])
    assert is_served(stage, queue())
    silence(stage, "w", "59 minutes")
    assert known(stage) == ["w"], "so it is known when the queue was served last"
    silence(stage, "w", "61 minutes")
    assert known(stage) == []


def test_a_silent_worker_is_forgotten_sooner_when_another_took_its_place(stage: Stage) -> None:
    for worker_id, queues, span in (
        ("a", [queue()], "5 minutes 1 second"),
        ("b", [queue()], "6 minutes"),
        ("c", [queue(), queue(OTHER)], "7 minutes"),
    ):
        stage.heartbeat(worker_id, queues=queues)
        silence(stage, worker_id, span)
    assert known(stage) == ["a", "c"], "nobody else has served the other queue since"


def offered(stage: Stage, *models: str, owner: str = OWNER) -> list[LiveOffer]:
    with stage.sessions.begin() as session:
        return worker.offered(session, accounts.find_orchestrator(session, owner), models)


def test_a_worker_serves_its_orchestrators_offers(stage: Stage) -> None:
    every = [queue(model, pipe) for model in (SMALL, OTHER, UNLOADABLE) for pipe in (TEXT, IMAGE)]
    assert list(worker.queues(offered(stage))) == sorted(every)
    assert worker.queues(offered(stage, SMALL)) == (queue(SMALL, IMAGE), queue(SMALL, TEXT))


def test_a_model_that_is_not_offered_cannot_be_served(stage: Stage) -> None:
    with pytest.raises(NoOffer, match="acme/nothing"):
        offered(stage, SMALL, "acme/nothing")
    stage.execute("INSERT INTO orchestrators (name) VALUES ('idle')")
    with pytest.raises(NoOffer):
        offered(stage, owner="idle")


class Memory(FakeEngine):
    """An engine that has room for so many models."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    @property
    def loaded(self) -> tuple[str, ...]:
        return super().loaded[-self.room :]


def warmed_up(stage: Stage, room: int) -> list[str]:
    """Promise every model of the market but the first, and return what a worker tries to load."""
    with stage.sessions.begin() as session:
        for model_id in (UNLOADABLE, OTHER, "acme/uncatalogued"):
            capability = Capability(TEXT, model_id)
            offers.publish(
                session, stage.orchestrator_id, capability, stages.PRICE, "USD", warm=True
            )
    engine = Memory(room)
    engine.load(stage.catalog.get(SMALL), TEXT)
    worker.warm_up(engine, stage.catalog, offered(stage))
    return [model_id for model_id, _ in engine.loads]


def test_promised_models_are_loaded_and_one_that_cannot_be_stops_no_other(stage: Stage) -> None:
    assert sorted(warmed_up(stage, room=9)) == sorted([SMALL, OTHER, UNLOADABLE])


def test_warming_up_ends_where_memory_does(stage: Stage) -> None:
    loads = warmed_up(stage, room=1)
    assert loads[-1] == OTHER, "which pushed the first one out"
