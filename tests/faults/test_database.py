"""The database away or silent: workers wait or end themselves, and every job ends once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import Engine

from tasks.exits import STALLED
from tests.faults.conftest import APPLICATION, LEASE_S, House
from tests.stage import eventually
from tests.support import Servers


@pytest.fixture
def admin(servers: Servers) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        yield connection


@contextmanager
def away(admin: psycopg.Connection[tuple[object, ...]], name: str) -> Iterator[None]:
    """Throw everybody out of a database, and let nobody in."""
    admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
    )
    try:
        yield
    finally:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


def test_a_database_that_is_away_for_a_while(
    house: House, admin: psycopg.Connection[tuple[object, ...]], engine: Engine
) -> None:
    name = str(house.stage.scalar("SELECT current_database()"))
    some = [house.stage.submit(str(number), num_images_per_prompt=4) for number in range(3)]
    worker = house.start_worker(step_s=0.2)
    house.wait_for_step()
    with away(admin, name):
        # Long enough for the lease to be lost, and for the batch to be given up.
        eventually(lambda: worker.said("claim_gone"), within_s=10 * LEASE_S)
        eventually(lambda: worker.said("claim_failed"))
    engine.dispose()  # The test was thrown out as well.
    with house.sweeping():
        house.wait_until_done()
    assert worker.is_running()
    assert house.stage.states(some) == ["succeeded"] * 3
    house.assert_sound()


def test_a_database_that_does_not_answer_ends_the_worker_rather_than_hang_it(
    house: House, admin: psycopg.Connection[tuple[object, ...]]
) -> None:
    job = house.stage.submit("a cat")
    worker = house.start_worker(step_s=1.0, PIXELTOLL_WORKER_STALL_S="2")
    house.wait_for_step()
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
    backends = [int(str(pid)) for (pid,) in admin.execute(query, [APPLICATION])]
    assert backends
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert worker.wait() == STALLED
    finally:
        for pid in backends:
            os.kill(pid, signal.SIGCONT)
    with house.sweeping():
        house.start_worker()
        house.wait_until_done()
    assert house.stage.states([job]) == ["succeeded"]
    house.assert_sound()
