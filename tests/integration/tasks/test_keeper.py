"""The keeper: a worker is seen while it lives, and judged by what it gets done."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import NoReturn

import pytest
import structlog.testing
from sqlalchemy.exc import SQLAlchemyError

from tasks import draining, sweeps, workers
from tasks.exits import NOT_REGISTERED
from tasks.generate import Runner
from tasks.keeper import Keeper
from tasks.runtime import Runtime
from tasks.storage import ObjectStore
from tests.fakes import FakeEngine
from tests.stage import Stage, eventually, queue

Crew = tuple[Keeper, Runner, Runtime]


class MeasuredEngine(FakeEngine):
    """Knows its memory."""

    @property
    def memory_bytes(self) -> Mapping[str, int]:
        return {"device": 3, "device_budget": 10}


@pytest.fixture
def crew(stage: Stage, store: ObjectStore) -> Crew:
    runner, runtime = stage.runner(MeasuredEngine(), store)
    return Keeper(runtime, runner), runner, runtime


def why_stalled(crew: Crew) -> str | None:
    keeper, _, runtime = crew
    with runtime.sessions.begin() as session:
        return keeper._why_stalled(sweeps.backlogs(session, runtime.queues))


def is_live(stage: Stage) -> bool:
    with stage.sessions.begin() as session:
        return workers.has_live_worker(session, queue())


def memory_bytes(stage: Stage) -> dict[str, int]:
    with stage.sessions.begin() as session:
        return workers.memory_bytes(session)


def test_a_worker_is_seen_while_it_lives(stage: Stage, crew: Crew) -> None:
    keeper, _, _ = crew
    keeper.start()
    eventually(lambda: is_live(stage))
    assert memory_bytes(stage) == {"device": 3, "device_budget": 10}
    keeper.stop()
    assert not is_live(stage)
    assert memory_bytes(stage) == {}


def test_claims_are_kept_alive_whatever_else_fails(stage: Stage, crew: Crew) -> None:
    keeper, _, runtime = crew
    stage.submit("a cat")
    (job,) = stage.claim()
    with stage.broken("workers"):
        keeper.start()
        runtime.leases.hold([job], time.monotonic())
        runtime.leases.note([job], 2, 4)
        eventually(lambda: stage.job(job.id).step == 2)
        with pytest.raises(SQLAlchemyError):
            keeper.stop()


def test_an_idle_worker_that_leaves_work_lying_is_deaf(stage: Stage, crew: Crew) -> None:
    _, runner, runtime = crew
    stage.submit("a cat")
    stage.execute("UPDATE jobs SET available_at = now() - interval '61 s'")
    assert why_stalled(crew) is None, "it has only just looked"
    long_ago = time.monotonic() - 61
    runner.looked_at = runtime.leases._moved_at = long_ago
    assert why_stalled(crew) == "deaf"
    runtime.leases.drop([])
    assert why_stalled(crew) is None, "it has only just finished"


def test_a_worker_without_work_is_not_deaf(stage: Stage, crew: Crew) -> None:
    _, runner, runtime = crew
    runner.looked_at = runtime.leases._moved_at = time.monotonic() - 3600
    assert why_stalled(crew) is None
    stage.submit("just now")
    assert why_stalled(crew) is None


def test_a_worker_whose_batch_stands_still_has_a_stuck_device(stage: Stage, crew: Crew) -> None:
    _, runner, runtime = crew
    stage.submit("running")
    claimed = stage.claim()
    stage.submit("waiting")
    stage.execute("UPDATE jobs SET available_at = now() - interval '1 hour'")
    runtime.leases.hold(claimed, time.monotonic())
    runner.looked_at = time.monotonic() - 61
    assert why_stalled(crew) is None
    runtime.leases._moved_at = time.monotonic() - 1799
    assert why_stalled(crew) is None
    runtime.leases._moved_at = time.monotonic() - 1801
    assert why_stalled(crew) == "no_progress"
    runtime.leases.note(claimed, 1, 4)
    assert why_stalled(crew) is None


def test_a_heartbeat_tells_how_fast_the_worker_is(stage: Stage, crew: Crew) -> None:
    keeper, runner, _ = crew
    stage.submit("a cat", num_images_per_prompt=2)
    runner.serve()
    keeper._beat()
    rows = stage.scalar(
        "SELECT speeds FROM workers WHERE orchestrator_id = :id", id=stage.orchestrator_id
    )
    assert isinstance(rows, dict)
    assert list(rows) == [queue()]
    assert rows[queue()] > 0


def test_a_worker_that_is_to_leave_is_silent_at_once(
    stage: Stage, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, runner, runtime = crew
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *call: told.append(call))
    keeper._beat()
    with stage.sessions.begin() as session:
        draining.ask(session, [runtime.worker_id])
    keeper._beat()
    assert told == [(os.getpid(), signal.SIGTERM)]
    assert runner.is_leaving
    keeper._beat()
    assert not is_live(stage)
    stage.submit("left for others")
    stage.execute("UPDATE jobs SET available_at = now() - interval '1 hour'")
    runner.looked_at = runtime.leases._moved_at = time.monotonic() - 3600
    keeper._beat()  # It is not deaf.
    assert (len(told), keeper.pulse.is_healthy) == (1, True)
    with stage.sessions.begin() as session:
        assert [one.state for one in draining.look(session)] == ["draining"]
    keeper.note_done()
    with stage.sessions.begin() as session:
        assert [(one.state, one.is_done) for one in draining.look(session)] == [("drained", True)]


def test_what_is_not_done_in_time_is_handed_back_as_soon_as_that_is_possible(
    stage: Stage, crew: Crew
) -> None:
    keeper, runner, runtime = crew
    stage.submit("a cat")
    (job,) = stage.claim()
    runtime.leases.hold([job], time.monotonic())
    runner.stop()
    runner._stopped_at -= 21
    with stage.broken("jobs"):
        keeper.start()
        eventually(lambda: keeper._has_left)
        assert not runtime.leases.is_lost(job)
    eventually(lambda: runtime.leases.is_lost(job))
    keeper.stop()
    found = stage.job(job.id)
    assert (found.state, found.tries) == ("queued", 0)


def test_a_worker_whose_key_is_revoked_ends(
    stage: Stage, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, _, _ = crew
    keeper._beat()
    assert is_live(stage)
    stage.execute("UPDATE orchestrator_keys SET revoked_at = now()")

    def ended(status: int) -> NoReturn:
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", ended)
    with structlog.testing.capture_logs() as logs, pytest.raises(SystemExit) as end:
        keeper._beat()
    assert end.value.code == NOT_REGISTERED
    assert "unknown or revoked" in logs[-1]["why"]
    assert not is_live(stage), "and nobody sends it jobs"
