"""Leases: renewed while they are held, and gone as soon as anybody could think that they are."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.orm import Session, sessionmaker

from ledger.db import make_engine, session_factory
from tasks import claims
from tasks.leases import Leases
from tasks.tables import Job
from tests.stage import Stage


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
    assert not leases.is_lost(job.id)


def test_a_tick_tells_the_progress(stage: Stage, job: Job) -> None:
    leases = held(stage.sessions, job)
    leases.note([job.id], 3, 8)
    leases.tick()
    now = stage.job(job.id)
    assert (now.step, now.steps) == (3, 8)


def test_a_tick_learns_of_a_cancel(stage: Stage, job: Job) -> None:
    leases = held(stage.sessions, job)
    stage.cancel(job)
    assert not leases.is_lost(job.id)
    leases.tick()
    assert leases.is_lost(job.id)
    assert not leases.idle


def test_what_is_dropped_is_not_renewed(stage: Stage, job: Job) -> None:
    leases = held(stage.sessions, job, lease_s=1000)
    leases.drop([job.id])
    leases.tick()
    assert leases.idle
    assert leases.is_lost(job.id)
    assert stage.job(job.id).lease_expires_at == job.lease_expires_at


def test_a_lease_that_could_not_be_renewed_in_time_is_lost(job: Job) -> None:
    leases = held(nowhere(), job, lease_s=0.3)
    leases.tick()
    assert not leases.is_lost(job.id)
    time.sleep(0.3)
    assert leases.is_lost(job.id)
    leases.tick()
    assert leases.is_lost(job.id)


def test_a_lease_is_counted_from_before_it_was_asked_for(stage: Stage, job: Job) -> None:
    leases = Leases(stage.sessions, 30)
    leases.hold([job], time.monotonic() - 30)
    assert leases.is_lost(job.id)


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
            leases.drop([job.id])
        (again,) = stage.claim()
        leases.hold([again], time.monotonic())
        future.result(30)
    assert not leases.is_lost(job.id)


def test_it_is_still_when_nothing_is_brought_forward(stage: Stage, job: Job) -> None:
    leases = held(stage.sessions, job)
    time.sleep(0.1)
    leases.tick()
    assert leases.still_s >= 0.1
    leases.note([job.id], 1, 8)
    assert leases.still_s < 0.1
