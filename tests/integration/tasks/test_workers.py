"""Workers: who is heard of, what they serve, and when silence counts."""

from __future__ import annotations

import pytest

from ledger import accounts, offers
from ledger.offers import Capability, LiveOffer
from tasks import worker, workers
from tasks.errors import NoOffer
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
        workers.leave(session, "w")
    assert not is_served(stage, queue())


def test_a_silent_worker_is_not_live_and_is_forgotten_in_time(stage: Stage) -> None:
    stage.heartbeat(queues=[queue()])
    stage.execute("UPDATE workers SET heartbeat_at = now() - interval '16 s'")
    assert not is_served(stage, queue())
    with stage.sessions.begin() as session:
        workers.forget_silent(session)
    stage.heartbeat(queues=[queue()])
    assert is_served(stage, queue())
    stage.execute("UPDATE workers SET heartbeat_at = now() - interval '61 minutes'")
    with stage.sessions.begin() as session:
        workers.forget_silent(session)
        assert session.connection().exec_driver_sql("SELECT count(*) FROM workers").scalar() == 0


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
