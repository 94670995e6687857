"""A job of which only some pictures can be made: it delivers those, is charged for them, says so.

What may help is tried first: the whole job runs again, up to its last attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import pytest

from tasks.errors import InferenceError, OutOfMemory, StorageError
from tasks.scheduler import Sweeper
from tasks.storage import ObjectStore
from tasks.tables import Job
from tests.fakes import FakeEngine, MoodyStore, PickyEngine
from tests.invariants import assert_no_orphans, assert_sound
from tests.stage import FUNDS, PRICE, SIDE, Stage

# What one picture costs by the market's price, which divides.
EACH = PRICE.price_per_unit * SIDE * SIDE
SEED = 7


def assert_partial(stage: Stage, job: Job, delivered: list[int], attempt: int) -> None:
    """Prove what a job delivered, by index, and that it is paid for that and no more."""
    now = stage.job(job.id)
    assert (now.state, now.attempt, now.error_code) == ("succeeded", attempt, "partial_result")
    said = f"{len(delivered)} of {job.num_images} pictures were made and charged. "
    assert str(now.error_message).startswith(said)
    assert [one.index for one in stage.outputs(job)] == delivered
    assert [one.seed for one in stage.outputs(job)] == [SEED + index for index in delivered]
    charged = stage.scalar("SELECT amount FROM charges WHERE hold_id = :id", id=job.hold_id)
    assert charged == EACH * len(delivered)
    assert stage.hold(job).state == "captured"


def assert_balanced(stage: Stage, pictures: int, store: ObjectStore | None = None) -> None:
    """Prove that the gateway has paid for so many pictures, and that nothing is held or left."""
    balance = stage.balance()
    assert (balance.available, balance.held) == (FUNDS - EACH * pictures, Decimal(0))
    at_once = stage.settings.model_copy(update={"lease_s": 0.0})
    if store is not None:
        Sweeper(stage.sessions, store, lambda _bell: None, at_once).tidy()
        assert_no_orphans(stage.sessions, store)
    assert_sound(stage.sessions, store)


def test_a_picture_that_does_not_fit_by_itself_is_left_out(
    stage: Stage, store: ObjectStore
) -> None:
    job = stage.submit("a cat", num_images_per_prompt=4)
    engine = PickyEngine(OutOfMemory("1 picture does not fit"), SEED + 3)
    runner, runtime = stage.runner(engine, store)
    runner.serve()
    assert engine.sizes == [4, 2, 2, 1, 1]
    assert_partial(stage, job, [0, 1, 2], attempt=1)
    assert str(stage.job(job.id).error_message).endswith("1 picture does not fit")
    assert runtime.leases.idle
    assert_balanced(stage, 3, store)


def test_a_picture_that_spoils_its_call_is_left_out_when_the_job_has_been_tried_again(
    stage: Stage, store: ObjectStore
) -> None:
    job = stage.submit("a cat", num_images_per_prompt=4)
    engine = PickyEngine(InferenceError("a picture has values that are not finite"), SEED + 1)
    runner, _ = stage.runner(engine, store)
    runner.serve()
    assert engine.sizes == [4, 4, 2, 1, 1, 1, 1]
    assert_partial(stage, job, [0, 2, 3], attempt=2)
    assert not runner.is_broken
    assert_balanced(stage, 3, store)


def test_what_nobody_foresaw_costs_its_call_and_not_the_ones_before(
    stage: Stage, store: ObjectStore
) -> None:
    job = stage.submit("a cat", num_images_per_prompt=8)
    engine = PickyEngine(ZeroDivisionError("nobody thought of this"), SEED + 6)
    runner, _ = stage.runner(engine, store)
    runner.serve()
    assert engine.sizes == [4] * 6
    assert_partial(stage, job, [0, 1, 2, 3], attempt=3)
    assert "nobody thought" not in str(stage.job(job.id).error_message)
    assert_balanced(stage, 4, store)


def test_the_others_of_a_batch_are_whole(stage: Stage, store: ObjectStore) -> None:
    first = stage.submit("first", num_images_per_prompt=2, seed=100)
    partial = stage.submit("partial", num_images_per_prompt=2)
    runner, _ = stage.runner(PickyEngine(OutOfMemory("it does not fit"), SEED), store)
    runner.serve()
    assert_partial(stage, partial, [1], attempt=1)
    assert stage.job(first.id).error_code is None
    assert len(stage.outputs(first)) == 2
    assert_balanced(stage, 3, store)


def test_a_job_without_any_picture_fails_beside_one_that_has_some(
    stage: Stage, store: ObjectStore
) -> None:
    none = stage.submit("none", num_images_per_prompt=2, seed=100)
    partial = stage.submit("partial", num_images_per_prompt=2)
    engine = PickyEngine(OutOfMemory("it does not fit"), SEED + 1, 100, 101)
    runner, runtime = stage.runner(engine, store)
    runner.serve()
    failed = stage.job(none.id)
    assert (failed.state, failed.error_code) == ("failed", "out_of_memory")
    assert_partial(stage, partial, [0], attempt=1)
    assert runtime.leases.idle
    assert_balanced(stage, 1, store)


class LossyStore(MoodyStore):
    """Stores everything, but of the pictures with this index it says that it did not."""

    refused = 1

    def put(
        self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().put(key, data, content_type, metadata)
        if f"/{self.refused}-" in key:
            raise StorageError(f"The object store did not answer for {key!r}.")


@pytest.fixture
def lossy_store(moody_store: MoodyStore) -> LossyStore:
    return LossyStore(moody_store._client, moody_store._bucket)


def test_an_upload_that_fails_for_good_costs_its_picture(
    stage: Stage, lossy_store: LossyStore
) -> None:
    job = stage.submit("a cat", num_images_per_prompt=3)
    runner, _ = stage.runner(FakeEngine(), lossy_store)
    for _attempt in range(3):
        runner.serve()
    assert_partial(stage, job, [0, 2], attempt=3)
    # The sweep takes away what the lost attempts stored, and the upload that nobody believed in.
    assert len(list(lossy_store.list("outputs/"))) == 9
    assert_balanced(stage, 2, lossy_store)


def test_a_job_whose_only_picture_cannot_be_stored_fails(
    stage: Stage, lossy_store: LossyStore
) -> None:
    lossy_store.refused = 0
    job = stage.submit("a cat")
    runner, _ = stage.runner(FakeEngine(), lossy_store)
    for _attempt in range(3):
        runner.serve()
    failed = stage.job(job.id)
    assert (failed.state, failed.attempt, failed.error_code) == ("failed", 3, "storage_error")
    assert_balanced(stage, 0, lossy_store)


def test_a_job_that_is_canceled_after_a_picture_was_left_out_costs_nothing(
    stage: Stage, store: ObjectStore
) -> None:
    job = stage.submit("a cat", num_images_per_prompt=2)
    engine = PickyEngine(OutOfMemory("it does not fit"), SEED)
    runner, runtime = stage.runner(engine, store)

    def cancel(_step: int) -> None:
        if engine.sizes == [2, 1, 1]:
            stage.cancel(job)
            runtime.leases.tick()

    engine.on_step = cancel
    runner.serve()
    assert stage.states([job]) == ["canceled"]
    assert stage.outputs(job) == []
    assert runtime.leases.idle
    assert_balanced(stage, 0, store)
