"""The broker emptied, restarted, gone or silent: it costs time, and never a job."""

from __future__ import annotations

from tasks.exits import STALLED
from tests.faults.conftest import House
from tests.stage import eventually


def test_bells_that_are_flushed_away_are_rung_again(house: House) -> None:
    with house.sweeping():
        worker = house.start_worker()
        house.wait_until_idle(worker)
        some = [house.stage.submit(str(number), width=64 + 8 * number) for number in range(5)]
        house.broker.client.flushall()
        house.wait_until_done()
    assert house.stage.states(some) == ["succeeded"] * 5
    house.assert_sound()


def test_a_worker_hears_again_after_the_broker_was_restarted(house: House) -> None:
    with house.sweeping():
        worker = house.start_worker()
        house.wait_until_idle(worker)
        house.broker.client.config_set("appendonly", "no")
        house.broker.restart()
        before = house.stage.submit("rung by the sweeper alone")
        house.wait_until_done()
        house.broker.kill()
        during = house.stage.submit("submitted while the broker was away")
        house.broker.start()
        house.wait_until_done()
    assert house.stage.states([before, during]) == ["succeeded", "succeeded"]
    assert worker.is_running()
    house.assert_sound()


def test_a_worker_that_hears_nothing_ends_itself_and_the_next_one_needs_no_broker(
    house: House,
) -> None:
    deaf = house.start_worker(PIXELTOLL_WORKER_STALL_S="2")
    house.wait_until_idle(deaf)
    house.broker.freeze()
    some = [house.stage.submit(str(number)) for number in range(3)]
    assert deaf.wait() == STALLED
    house.broker.kill()
    house.start_worker()
    house.wait_until_done()
    assert house.stage.states(some) == ["succeeded"] * 3
    house.assert_sound()


def test_a_worker_at_work_minds_no_broker(house: House) -> None:
    some = [house.stage.submit(str(number), num_images_per_prompt=4) for number in range(2)]
    worker = house.start_worker(step_s=0.2)
    house.wait_for_step()
    house.broker.kill()
    house.wait_until_done()
    assert house.stage.states(some) == ["succeeded"] * 2
    eventually(worker.is_running)
    house.assert_sound()
