"""The scheduler killed and started again, and several of them: nothing is lost, nothing doubled."""

from __future__ import annotations

import signal

from tests.faults import roles
from tests.faults.conftest import House
from tests.stage import eventually


def test_a_scheduler_that_was_killed_goes_on_where_it_was(house: House) -> None:
    scheduler = house.start(roles.sweeper)
    worker = house.start_worker(step_s=0.3)
    house.wait_until_idle(worker)
    some = [house.stage.submit(f"cat {number}") for number in range(3)]
    house.wait_for_step()
    scheduler.kill()
    worker.kill()
    overdue = house.stage.submit("overdue", deadline_s=0.0)
    assert house.states() == {"running": 3, "queued": 1}
    # Two at once, from now on.
    schedulers = [
        house.start(roles.sweeper, PIXELTOLL_AUDIT_INTERVAL_S="0.1"),
        house.start(roles.sweeper),
    ]
    eventually(lambda: house.count("state = 'queued'") == 3)
    house.start_worker()
    house.wait_until_done()
    assert house.stage.states([*some, overdue]) == [*["succeeded"] * 3, "expired"]
    # While they sweep, the books are audited as well.
    eventually(lambda: schedulers[0].said("books_audited"))
    for running in schedulers:
        running.signal(signal.SIGTERM)
    assert [running.wait() for running in schedulers] == [0, 0]
    house.assert_sound()
