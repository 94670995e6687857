"""Leases: renewed while they are held, and gone as soon as anybody could think that they are."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.orm import Session, sessionmaker
from structlog.testing import capture_logs

from ledger.db import make_engine, session_factory
from tasks import claims, telemetry
from tasks.leases import Leases
from tasks.tables import Job
from tests.stage import Stage, eventually


@pytest.fixture
def job(stage: Stage) -> Job:
    stage.submit("a cat")
    (job,) = stage.claim(lease_s=30)
    return job


def held(sessions: sessionmaker[Session], job: Job, lease_s: float = 30) -> Leases:
    leases = Leases(sessions, lease_s)
    leases.hold([job], time.monotonic())
    return leases


def nowhere() -> sessionmaker[Session]:
    return session_factory(make_engine("postgresql://postgres@127.0.0.1:1/nothing"))


def test_a_tick_extends_the_lease(stage: Stage, job: Job) -> None:
    leases = held(stage.sessions, job, lease_s=1000)
    leases.tick()
    extended = stage.job(job.id).lease_expires_at
    assert extended is not None
    assert job.lease_expires_at is not None
    assert (extended - job.lease_expires_at).total_seconds() > 900
    # The next one is not yet due: the row is left alone.
    leases.tick()
    assert stage.job(job.id).lease_expires_at == extended
    assert not leases.is_lost(job)


def test_a_tick_tells_the_progress(stage: Stage, job: Job) -> None:
    leases = held(stage.sessions, job)
    leases.note([job], 3, 8)
    leases.tick()
    now = stage.job(job.id)
    assert (now.step, now.steps) == (3, 8)


def test_a_tick_learns_of_a_cancel(stage: Stage, job: Job) -> None:
    leases = held(stage.sessions, job)
    stage.cancel(job)
    assert not leases.is_lost(job)
    leases.tick()
    assert leases.is_lost(job)
    assert not leases.idle


def test_what_is_dropped_is_not_renewed(stage: Stage, job: Job) -> None:
    leases = held(stage.sessions, job, lease_s=1000)
    leases.drop([job])
    leases.tick()
    assert leases.idle
    assert leases.is_lost(job)
    assert stage.job(job.id).lease_expires_at == job.lease_expires_at


def test_a_lease_that_could_not_be_renewed_in_time_is_lost(job: Job) -> None:
    leases = held(nowhere(), job, lease_s=0.3)
    with capture_logs() as lines:
        leases.tick()
    [line] = [one for one in lines if one["event"] == "lease_renewal_failed"]
    assert line["jobs"] == [telemetry.of(job)]
    assert not leases.is_lost(job)
    time.sleep(0.3)
    assert leases.is_lost(job)
    leases.tick()
    assert leases.is_lost(job)


def test_a_lease_is_counted_from_before_it_was_asked_for(stage: Stage, job: Job) -> None:
    leases = Leases(stage.sessions, 30)
    leases.hold([job], time.monotonic() - 30)
    assert leases.is_lost(job)


def test_a_job_claimed_anew_during_a_tick_is_not_lost_by_the_old_claim(
    stage: Stage, job: Job
) -> None:
    leases = held(stage.sessions, job)
    ticking = threading.Event()

    def tick() -> None:
        ticking.set()
        leases.tick()

    with ThreadPoolExecutor(1) as pool:
        with stage.sessions.begin() as session:
            # The row is locked, so the tick waits for it while the claim is given up and retaken.
            assert claims.requeue(session, job.id, 1, delay_s=0)
            future = pool.submit(tick)
            assert ticking.wait(30)
            time.sleep(0.2)
            leases.drop([job])
        (again,) = eventually(stage.claim)
        leases.hold([again], time.monotonic())
        future.result(30)
    assert not leases.is_lost(again)
    assert leases.is_lost(job)


def test_the_end_of_one_attempt_is_not_the_end_of_the_next(stage: Stage, job: Job) -> None:
    """A worker that requeues a job may claim it again before it has finished with that batch."""
    leases = held(stage.sessions, job)
    with stage.sessions.begin() as session:
        claims.requeue(session, job.id, 1, delay_s=0)
    (again,) = stage.claim()
    leases.hold([again], time.monotonic())
    leases.note([job], 3, 4)
    leases.drop([job])
    leases.tick()
    assert not leases.is_lost(again)
    assert stage.job(job.id).step == 0


def test_it_is_still_when_nothing_is_brought_forward(stage: Stage, job: Job) -> None:
    leases = held(stage.sessions, job)
    time.sleep(0.1)
    leases.tick()
    assert leases.still_s >= 0.1
    leases.note([job], 1, 8)
    assert leases.still_s < 0.1
    time.sleep(0.1)
    leases.touch()
    assert leases.still_s < 0.1
