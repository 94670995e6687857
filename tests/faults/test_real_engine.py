"""A worker with real diffusers, killed in the middle of a batch: its jobs end once, paid once.

Each job has its own picture in the end, whoever made it.
"""

from __future__ import annotations

import pytest

from tasks.catalog import DEMO
from tests.faults import roles
from tests.faults.conftest import House
from tests.shapes import MODEL, PROMPTS, assert_own_pictures, with_shapes


@pytest.fixture
def shapes_house(house: House) -> House:
    house.stage = with_shapes(house.stage)
    house.env |= {
        "PIXELTOLL_CATALOG": str(DEMO),
        # While torch is imported and a model loaded, other threads may not run for seconds on a
        # busy machine: a lease as short as in the other tests would end by itself.
        "PIXELTOLL_LEASE_S": "10",
    }
    return house


@pytest.mark.slow
def test_a_real_worker_killed_in_the_middle_of_a_batch(shapes_house: House) -> None:
    house = shapes_house
    some = [house.stage.submit(prompt, model_id=MODEL) for prompt in PROMPTS]
    workers = [house.start(roles.real_worker, MODEL) for _ in range(2)]
    house.wait_for_step(within_s=90)  # Two workers load torch first.
    # All jobs are in one batch, of the worker that was ready first.
    (owner,) = {house.stage.job(job.id).worker_id for job in some}
    next(worker for worker in workers if f"-{worker.pid}-" in str(owner)).kill()
    with house.sweeping():
        house.wait_until_done(within_s=90)
    assert house.stage.states(some) == ["succeeded"] * 24
    assert {house.stage.job(job.id).attempt for job in some} == {2}
    assert_own_pictures(house.stage, house.store, some)
    house.assert_sound()
