"""A worker's loop with bad luck: whatever fails, each job ends settled, waiting, or another's.

And the worker goes on: it holds no claim that it does not work on, and serves what comes next.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Self

import pytest
import structlog.testing
from PIL import Image
from sqlalchemy import func, select

from ledger import holds
from tasks.engine.protocol import Batch, StepCallback
from tasks.errors import InferenceError
from tasks.generate import Runner
from tasks.runtime import Runtime
from tasks.scheduler import Sweeper
from tasks.storage import ObjectStore
from tasks.tables import Job
from tests.fakes import EXPLODES, SPOILS, BrokenEngine, FakeEngine, Gate, MoodyStore
from tests.invariants import assert_no_orphans, assert_sound
from tests.stage import IMAGE, UNLOADABLE, Stage


def outcome(stage: Stage, job: Job) -> tuple[str, int, str | None]:
    now = stage.job(job.id)
    return now.state, now.attempt, now.error_code


def sweep(stage: Stage, store: ObjectStore) -> None:
    at_once = stage.settings.model_copy(update={"lease_s": 0.0})
    Sweeper(stage.sessions, store, lambda _bell: None, at_once).tidy()


def stage_with(stage: Stage, **settings: float) -> Stage:
    return replace(stage, settings=stage.settings.model_copy(update=settings))


def assert_no_orphans_after_sweep(stage: Stage, store: ObjectStore) -> None:
    sweep(stage, store)
    assert_sound(stage.sessions, store)
    assert_no_orphans(stage.sessions, store)


class Serving:
    """A runner that serves in a thread of its own, while the test does something to it."""

    def __init__(self, runner: Runner, runtime: Runtime, gate: Gate) -> None:
        self.runtime = runtime
        self._gate = gate
        self._pool = ThreadPoolExecutor(1)
        self._serving = self._pool.submit(runner.serve)

    def __enter__(self) -> Self:
        self._gate.wait_for_arrival()
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.open()
        self._serving.result(30)
        self._pool.shutdown()


# --- the engine -------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    stage: Stage, store: ObjectStore
) -> None:
    some = [stage.submit(str(number)) for number in range(4)]
    engine = FakeEngine(most=1)
    runner, _ = stage.runner(engine, store)
    runner.serve()
    assert engine.sizes == [4, 2, 1, 1, 1, 1]
    assert stage.states(some) == ["succeeded"] * 4
    assert_sound(stage.sessions, store)


def test_what_does_not_fit_alone_fails_at_once(stage: Stage, store: ObjectStore) -> None:
    job = stage.submit("a cat", num_images_per_prompt=2)
    runner, runtime = stage.runner(FakeEngine(most=0), store)
    runner.serve()
    assert outcome(stage, job) == ("failed", 1, "out_of_memory")
    assert runtime.leases.idle
    assert_sound(stage.sessions, store)


def test_one_job_that_spoils_a_batch_does_not_cost_the_others(
    stage: Stage, store: ObjectStore
) -> None:
    good, bad, late = (stage.submit(prompt) for prompt in ("good", SPOILS, "late"))
    engine = FakeEngine()
    runner, runtime = stage.runner(engine, store)
    runner.serve()
    # All together, each by itself, and the bad one once more: it may have been the device.
    assert engine.sizes == [3, 1, 1, 1, 1]
    assert outcome(stage, good) == outcome(stage, late) == ("succeeded", 1, None)
    assert outcome(stage, bad) == ("failed", 2, "inference_failed")
    assert runtime.leases.idle
    assert_sound(stage.sessions, store)


def test_what_nobody_foresaw_is_tried_again_and_then_fails(
    stage: Stage, store: ObjectStore
) -> None:
    good, bad = stage.submit("good"), stage.submit(EXPLODES)
    runner, runtime = stage.runner(FakeEngine(), store)
    with structlog.testing.capture_logs() as logs:
        runner.serve()
    assert outcome(stage, good) == ("succeeded", 2, None)
    assert outcome(stage, bad) == ("failed", 3, "internal_error")
    assert "nobody thought" not in str(stage.job(bad.id).error_message)
    told = [one for one in logs if one.get("code") == "internal_error"]
    assert all(isinstance(one["exc_info"], ZeroDivisionError) for one in told)
    assert runtime.leases.idle
    assert not runner.is_broken
    assert_sound(stage.sessions, store)


def test_a_model_that_cannot_be_loaded_is_tried_again_and_then_fails(
    stage: Stage, store: ObjectStore
) -> None:
    bad = stage.submit("a cat", model_id=UNLOADABLE)
    runner, runtime = stage.runner(FakeEngine(), store, models=[UNLOADABLE])
    runner.serve()
    assert outcome(stage, bad) == ("failed", 3, "model_load_failed")
    assert runtime.leases.idle
    assert_sound(stage.sessions, store)


def test_a_model_that_the_worker_does_not_know_is_tried_again_and_then_fails(
    stage: Stage, store: ObjectStore
) -> None:
    job = stage.submit("a cat")
    stage.execute("UPDATE jobs SET model_id = 'acme/newer'")
    runner, _ = stage.runner(FakeEngine(), store)
    runner.serve()
    assert outcome(stage, job) == ("failed", 3, "unknown_model")


def test_parameters_that_cannot_be_read_fail_only_their_job(
    stage: Stage, store: ObjectStore
) -> None:
    bad, good = stage.submit("bad", num_images_per_prompt=4), stage.submit("good")
    stage.execute("UPDATE jobs SET params = params - 'seed' WHERE id = :id", id=bad.id)
    runner, _ = stage.runner(FakeEngine(), store)
    runner.serve()
    assert outcome(stage, bad) == ("failed", 3, "internal_error")
    assert outcome(stage, good) == ("succeeded", 1, None)


def test_an_engine_that_loses_pictures_is_not_believed(stage: Stage, store: ObjectStore) -> None:
    class Forgetful(FakeEngine):
        def generate(self, batch: Batch, on_step: StepCallback) -> list[Image.Image]:
            return super().generate(batch, on_step)[:-1]

    job = stage.submit("a cat", num_images_per_prompt=2)
    runner, _ = stage.runner(Forgetful(), store)
    runner.serve()
    assert outcome(stage, job) == ("failed", 2, "inference_failed")
    assert "0 pictures were made where 1 were asked" in str(stage.job(job.id).error_message)


def test_a_worker_that_fails_job_after_job_gives_up_itself_and_not_the_jobs(
    stage: Stage, store: ObjectStore
) -> None:
    stage = stage_with(stage, retry_delay_s=60.0)
    some = [stage.submit(str(number), num_images_per_prompt=4) for number in range(7)]
    runner, runtime = stage.runner(BrokenEngine(), store)
    runner.serve()
    assert runner.is_broken
    assert stage.states(some) == ["queued"] * 7
    assert [stage.job(job.id).attempt for job in some] == [1, 1, 1, 1, 1, 0, 0]
    assert runtime.leases.idle
    assert_sound(stage.sessions, store)


def test_messages_are_cut_to_what_a_row_can_hold(stage: Stage, store: ObjectStore) -> None:
    job = stage.submit("a cat")
    runner, _ = stage.runner(BrokenEngine(InferenceError("x\x00y" * 1000)), store)
    runner.serve()
    assert outcome(stage, job) == ("failed", 2, "inference_failed")
    assert str(stage.job(job.id).error_message).startswith("xyxy")


# --- the object store -------------------------------------------------------------------------


def test_an_input_that_is_gone_fails_the_job_at_once(stage: Stage, store: ObjectStore) -> None:
    lost = stage.submit("edit", pipeline=IMAGE, image_size=(64, 64), input_key="inputs/gone")
    runner, runtime = stage.runner(FakeEngine(), store)
    runner.serve()
    assert outcome(stage, lost) == ("failed", 1, "object_not_found")
    assert runtime.leases.idle
    assert_sound(stage.sessions, store)


def test_an_input_that_is_damaged_fails_the_job_at_once(stage: Stage, store: ObjectStore) -> None:
    store.put("inputs/bad", b"\x89PNG no more", "image/png")
    bad = stage.submit("edit", pipeline=IMAGE, image_size=(64, 64), input_key="inputs/bad")
    runner, _ = stage.runner(FakeEngine(), store)
    runner.serve()
    assert outcome(stage, bad) == ("failed", 1, "invalid_image")


@pytest.mark.parametrize("asked", [{}, {"input_key": "inputs/x", "pipeline": IMAGE}])
def test_a_store_that_is_down_makes_jobs_wait_longer_and_longer_until_they_fail(
    stage: Stage, moody_store: MoodyStore, asked: dict[str, object]
) -> None:
    stage = stage_with(stage, retry_delay_s=100.0)
    size = {"image_size": (64, 64)} if asked else {}
    job = stage.submit("a cat", **asked, **size)
    moody_store.is_down = True
    runner, runtime = stage.runner(FakeEngine(), moody_store)
    for attempt, wait_s in ((1, 100), (2, 200)):
        runner.serve()
        assert outcome(stage, job) == ("queued", attempt, None)
        with stage.sessions.begin() as session:
            until, now = session.execute(select(Job.available_at, func.now())).one()
        assert timedelta(seconds=wait_s - 30) < until - now <= timedelta(seconds=wait_s)
        stage.execute("UPDATE jobs SET available_at = now()")
    runner.serve()
    assert outcome(stage, job) == ("failed", 3, "storage_error")
    assert runtime.leases.idle
    assert_sound(stage.sessions)


def test_a_job_whose_pictures_could_not_be_stored_runs_again_and_leaves_nothing_behind(
    stage: Stage, moody_store: MoodyStore
) -> None:
    job = stage.submit("a cat", num_images_per_prompt=12)

    def fail_after_the_first(_key: str) -> None:
        moody_store.is_down = stage.job(job.id).attempt == 1

    moody_store.on_put = fail_after_the_first
    engine = FakeEngine()
    engine.on_load = lambda: setattr(moody_store, "is_down", False)
    runner, _ = stage.runner(engine, moody_store)
    runner.serve()
    runner.serve()
    assert outcome(stage, job) == ("succeeded", 2, None)
    sweep(stage, moody_store)
    assert_sound(stage.sessions, moody_store)
    assert_no_orphans(stage.sessions, moody_store)


# --- a claim that goes ------------------------------------------------------------------------


def test_a_job_that_is_canceled_while_its_model_loads_is_not_made(
    stage: Stage, store: ObjectStore
) -> None:
    job = stage.submit("a cat")
    engine = FakeEngine()
    gate = engine.on_load = Gate()
    with Serving(*stage.runner(engine, store), gate) as serving:
        stage.cancel(job)
        serving.runtime.leases.tick()
    assert engine.batches == []
    assert stage.states([job]) == ["canceled"]
    assert_sound(stage.sessions, store)


def test_a_job_that_is_canceled_while_it_is_made_stops_at_the_next_step(
    stage: Stage, store: ObjectStore
) -> None:
    job, after = stage.submit("a cat"), stage.submit("next", num_inference_steps=3)
    engine = FakeEngine()
    steps: list[int] = []
    gate = Gate()

    def at_step(step: int) -> None:
        steps.append(step)
        if len(steps) == 2:
            gate()

    engine.on_step = at_step
    with Serving(*stage.runner(engine, store), gate) as serving:
        stage.cancel(job)
        serving.runtime.leases.tick()
    assert steps == [1, 2, 1, 2, 3]
    assert stage.states([job, after]) == ["canceled", "succeeded"]
    assert serving.runtime.leases.idle
    assert_sound(stage.sessions, store)


def test_a_batch_goes_on_for_those_who_still_want_it(stage: Stage, store: ObjectStore) -> None:
    gone, wanted = stage.submit("gone"), stage.submit("wanted")
    engine = FakeEngine()
    gate = engine.on_step = Gate()
    with Serving(*stage.runner(engine, store), gate) as serving:
        stage.cancel(gone)
        serving.runtime.leases.tick()
    assert stage.states([gone, wanted]) == ["canceled", "succeeded"]
    assert stage.outputs(gone) == []
    assert_no_orphans_after_sweep(stage, store)


def test_a_call_that_nobody_wants_does_not_shift_the_pictures_of_the_next_one(
    stage: Stage, store: ObjectStore
) -> None:
    gone = stage.submit("gone", num_images_per_prompt=2)
    wanted = stage.submit("wanted", num_images_per_prompt=2)
    engine = FakeEngine(most=2)
    gate = engine.on_step = Gate()
    with Serving(*stage.runner(engine, store), gate) as serving:
        stage.cancel(gone)
        serving.runtime.leases.tick()
    assert engine.sizes == [4, 2, 2]
    assert [task.prompt for task in engine.batches[-1].tasks] == ["wanted", "wanted"]
    assert stage.states([gone, wanted]) == ["canceled", "succeeded"]
    assert_no_orphans_after_sweep(stage, store)


def test_a_claim_that_goes_between_two_calls_spares_the_second(
    stage: Stage, store: ObjectStore
) -> None:
    job = stage.submit("many", num_images_per_prompt=8)
    engine = FakeEngine()
    gate = Gate()
    engine.on_step = lambda step: gate() if step == 4 else None
    with Serving(*stage.runner(engine, store), gate) as serving:
        stage.cancel(job)
        serving.runtime.leases.tick()
    assert engine.sizes == [4]
    assert stage.states([job]) == ["canceled"]


def test_a_job_that_is_canceled_while_it_is_stored_is_not_charged(
    stage: Stage, moody_store: MoodyStore
) -> None:
    job = stage.submit("a cat")
    gate = Gate()
    moody_store.on_put = gate
    with Serving(*stage.runner(FakeEngine(), moody_store), gate):
        stage.cancel(job)
        # The sweeper comes before the late worker, which must then ask it to come again.
        sweep(stage, moody_store)
        moody_store.on_put = lambda _key: None
        moody_store.put(f"outputs/{job.id}/1/late.png", b"late", "image/png")
    assert outcome(stage, job) == ("canceled", 1, None)
    assert [one.key for one in moody_store.list("outputs/")] == [f"outputs/{job.id}/1/late.png"]
    assert_no_orphans_after_sweep(stage, moody_store)


def test_a_cancel_that_no_tick_has_noticed_is_noticed_by_the_fence(
    stage: Stage, store: ObjectStore
) -> None:
    job = stage.submit("a cat")
    engine = FakeEngine()
    gate = engine.on_step = Gate()
    with Serving(*stage.runner(engine, store), gate):
        stage.cancel(job)
    assert outcome(stage, job) == ("canceled", 1, None)
    assert list(store.list("outputs/"))
    assert_no_orphans_after_sweep(stage, store)


def test_a_worker_that_was_stopped_for_longer_than_its_lease_gives_way(
    stage: Stage, store: ObjectStore
) -> None:
    """It need not be told: after a whole lease without renewal, the claim counts as gone."""
    stage = stage_with(stage, lease_s=0.05)
    job = stage.submit("a cat")
    engine = FakeEngine(step_s=0.1)
    runner, runtime = stage.runner(engine, store)
    runner.serve()
    assert outcome(stage, job) == ("running", 1, None)
    assert list(store.list("outputs/")) == []
    assert runtime.leases.idle


# --- the books and the database ---------------------------------------------------------------


def test_one_job_that_the_books_refuse_does_not_cost_the_others(
    stage: Stage, store: ObjectStore
) -> None:
    good, spoilt, late = (stage.submit(prompt) for prompt in ("good", "spoilt", "late"))
    with stage.sessions.begin() as session:
        holds.void(session, [spoilt.hold_id])
    runner, runtime = stage.runner(FakeEngine(), store)
    # A round may take it again, where settling it was faster than looking for more.
    while (tried := stage.job(spoilt.id).attempt) < 3:
        runner.serve()
        assert tried < stage.job(spoilt.id).attempt <= 3
    assert outcome(stage, good) == outcome(stage, late) == ("succeeded", 1, None)
    # It cannot even fail: the books must be mended first. Until then it is in nobody's way.
    assert stage.states([spoilt]) == ["running"]
    assert stage.outputs(spoilt) == []
    assert runtime.leases.idle


def test_a_database_that_cannot_be_asked_ends_the_round_and_not_the_worker(
    stage: Stage, store: ObjectStore
) -> None:
    job = stage.submit("a cat")
    runner, _ = stage.runner(FakeEngine(), store)
    with stage.broken("jobs"):
        runner.serve()
    runner.serve()
    assert outcome(stage, job) == ("succeeded", 1, None)
