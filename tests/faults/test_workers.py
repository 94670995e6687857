"""Workers that die, are stopped, leave, or break: every job ends once, and is charged once."""

from __future__ import annotations

import signal

import pytest

from tasks.exits import NOT_REGISTERED, STALLED
from tasks.workers import SILENCE_S
from tests.fakes import KILLS
from tests.faults import roles
from tests.faults.conftest import House
from tests.stage import eventually


def test_a_worker_killed_in_the_middle_of_a_batch(house: House) -> None:
    some = [house.stage.submit(f"cat {number}") for number in range(6)]
    first = house.start_worker(step_s=0.3)
    house.wait_for_step()
    first.kill()
    with house.sweeping():
        house.start_worker()
        house.wait_until_done()
        assert house.stage.states(some) == ["succeeded"] * 6
        # Four were in the batch that was lost; each of them ran again, and by itself.
        assert [house.stage.job(job.id).attempt for job in some] == [2, 2, 2, 2, 1, 1]
        house.assert_sound()


def test_a_worker_that_sleeps_through_its_lease_is_no_danger_when_it_wakes(house: House) -> None:
    job = house.stage.submit("a cat", num_images_per_prompt=2)
    zombie = house.start_worker(step_s=0.5)
    house.wait_for_step()
    zombie.signal(signal.SIGSTOP)
    with house.sweeping():
        eventually(lambda: house.count("state = 'queued'"))
        house.start_worker()
        house.wait_until_done()
        before = [output.key for output in house.stage.outputs(job)]
        zombie.signal(signal.SIGCONT)
        eventually(lambda: zombie.said("claim_gone"))
        # It goes on to do honest work.
        house.processes[1].kill()
        after = house.stage.submit("next")
        house.wait_until_done()
    assert house.stage.job(job.id).attempt == 2
    assert [output.key for output in house.stage.outputs(job)] == before
    assert house.stage.states([after]) == ["succeeded"]
    house.assert_sound()


@pytest.mark.parametrize("is_rung", [False, True])
def test_a_worker_that_is_told_to_leave_ends_its_batch_and_leaves_the_rest(
    house: House, *, is_rung: bool
) -> None:
    """Whether it is at what it found when it started, or was rung later."""
    worker = house.start_worker(step_s=0.6)  # a busy machine is late to signal it
    if is_rung:
        house.wait_until_idle(worker)
    with house.sweeping():
        some = [house.stage.submit(str(number), num_images_per_prompt=4) for number in range(3)]
        house.wait_for_step()
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert house.stage.states(some) == ["succeeded", "queued", "queued"]
    # Its row stays for a while, and is silent at once.
    live = "SELECT count(*) FROM workers WHERE heartbeat_at > now() - make_interval(secs => :s)"
    assert house.stage.scalar(live, s=SILENCE_S) == 0
    house.assert_sound()


def test_a_job_that_kills_its_worker_every_time_does_not_live_for_ever(house: House) -> None:
    some = [house.stage.submit(prompt) for prompt in ("before", KILLS, "after")]
    with house.sweeping():
        for _ in range(3):
            assert house.start_worker().wait() == -signal.SIGKILL
        house.start_worker()
        house.wait_until_done()
    assert house.stage.states(some) == ["succeeded", "failed", "succeeded"]
    killer = house.stage.job(some[1].id)
    assert (killer.attempt, killer.error_code) == (3, "worker_lost")
    house.assert_sound()


def test_a_worker_whose_device_has_faulted_asks_for_a_new_process(house: House) -> None:
    broken = house.start(roles.broken_worker, PIXELTOLL_RETRY_DELAY_S="3")
    house.wait_until_idle(broken)
    with house.sweeping():
        some = [house.stage.submit(str(number), num_images_per_prompt=4) for number in range(6)]
        assert broken.wait() == STALLED
        assert house.states() == {"queued": 6}
        house.start_worker()
        house.wait_until_done()
    assert house.stage.states(some) == ["succeeded"] * 6
    house.assert_sound()


def test_a_worker_whose_device_hangs_ends_itself_and_its_job_is_done_by_another(
    house: House,
) -> None:
    job = house.stage.submit("a cat")
    stuck = house.start(roles.stuck_worker, PIXELTOLL_BATCH_STALL_S="1")
    assert stuck.wait() == STALLED
    with house.sweeping():
        house.start_worker()
        house.wait_until_done()
    assert house.stage.job(job.id).attempt == 2
    house.assert_sound()


def test_a_worker_whose_key_is_revoked_ends_and_its_job_runs_elsewhere(house: House) -> None:
    job = house.stage.submit("a cat")
    # A heartbeat is due twice within the time that makes a stall.
    worker = house.start_worker(step_s=60, PIXELTOLL_WORKER_STALL_S="2")
    eventually(lambda: house.count("state = 'running'"))
    house.stage.execute("UPDATE orchestrator_keys SET revoked_at = now()")
    assert worker.wait() == NOT_REGISTERED
    assert worker.said("worker_not_registered")
    house.stage.execute("UPDATE orchestrator_keys SET revoked_at = NULL")
    with house.sweeping():
        house.start_worker()
        house.wait_until_done()
    assert house.stage.states([job]) == ["succeeded"]
    house.assert_sound()
