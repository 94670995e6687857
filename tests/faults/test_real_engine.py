"""A worker with real diffusers, killed in the middle of a batch: its jobs end once, paid once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ledger.offers import Capability
from tasks import catalog
from tests import stage as stages
from tests.faults import roles
from tests.faults.conftest import House
from tests.stage import PRICE, TEXT

MODEL = "pixeltoll/demo-sd"


@pytest.fixture
def demo_house(house: House, tmp_path: Path) -> House:
    target = tmp_path / "demo"
    assert house.start(roles.demo_models, str(target)).wait(within_s=100) == 0
    path = target / "catalog.toml"
    with house.stage.sessions.begin() as session:
        stages.offer(session, house.stage.orchestrator_id, Capability(TEXT, MODEL), PRICE)
    house.env |= {
        "PIXELTOLL_CATALOG": str(path),
        "OMP_NUM_THREADS": "1",
        # While torch is imported and a model loaded, other threads may not run for seconds on a
        # busy machine: a lease as short as in the other tests would end by itself.
        "PIXELTOLL_LEASE_S": "10",
    }
    house.stage = replace(house.stage, catalog=catalog.load(path))
    return house


@pytest.mark.slow
def test_a_real_worker_killed_in_the_middle_of_a_batch(demo_house: House) -> None:
    house = demo_house
    asked = {"model_id": MODEL, "width": 64, "height": 64, "num_inference_steps": 100}
    some = [house.stage.submit(f"a house by the sea, {number}", **asked) for number in range(2)]
    workers = [house.start(roles.real_worker, MODEL) for _ in range(2)]
    house.wait_for_step(within_s=90)  # Two workers load torch first.
    # Both jobs are in one batch, of the worker that was ready first.
    (owner,) = {house.stage.job(job.id).worker_id for job in some}
    next(worker for worker in workers if f"-{worker.pid}-" in str(owner)).kill()
    with house.sweeping():
        house.wait_until_done(within_s=60)
    assert house.stage.states(some) == ["succeeded"] * 2
    assert [house.stage.job(job.id).attempt for job in some] == [2, 2]
    house.assert_sound()
