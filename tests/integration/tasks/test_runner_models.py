"""A worker's loop around what engines add: models that load, adapters, and the safety checker."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from PIL import Image

from tasks import names
from tasks.catalog import ModelSpec
from tasks.engine.protocol import Batch, StepCallback
from tasks.errors import (
    InferenceError,
    LoraError,
    LoraIncompatible,
    LoraNotAllowed,
    LoraNotFound,
    ModelLoadError,
    StorageError,
)
from tasks.storage import ObjectStore
from tasks.tables import Job
from tests.fakes import BrokenEngine, FakeEngine, Gate
from tests.invariants import assert_sound
from tests.stage import OTHER, SMALL, UNLOADABLE, Stage

SET = '{"acme/style": 1}'


def stored_pictures(stage: Stage, store: ObjectStore, job: Job) -> list[Image.Image]:
    return [Image.open(io.BytesIO(store.get(output.key))) for output in stage.outputs(job)]


def test_a_job_says_that_its_model_is_loading_and_then_that_it_is_drawn(
    stage: Stage, store: ObjectStore
) -> None:
    job = stage.submit()
    engine, loading, drawing = FakeEngine(), Gate(), Gate()
    engine.on_load, engine.on_step = loading, drawing
    runner, runtime = stage.runner(engine, store)
    thread = threading.Thread(target=runner.serve)
    thread.start()
    loading.wait_for_arrival()
    runtime.leases.tick()
    assert (stage.job(job.id).phase, stage.job(job.id).steps) == ("loading", 0)
    loading.open()
    drawing.wait_for_arrival()
    engine.on_step = done = Gate()
    drawing.open()
    done.wait_for_arrival()
    runtime.leases.tick()
    assert (stage.job(job.id).phase, stage.job(job.id).step) == ("drawing", 1)
    done.open()
    thread.join(30)
    assert stage.job(job.id).state == "succeeded"


def test_a_model_that_is_there_already_is_not_said_to_load(
    stage: Stage, store: ObjectStore
) -> None:
    engine = FakeEngine()
    runner, runtime = stage.runner(engine, store)
    stage.submit()
    runner.serve()
    job = stage.submit()
    gate = Gate()
    engine.on_load = gate
    thread = threading.Thread(target=runner.serve)
    thread.start()
    gate.wait_for_arrival()
    runtime.leases.tick()
    assert stage.job(job.id).phase is None
    gate.open()
    thread.join(30)


class RoomForOne(FakeEngine):
    """Has memory for one model, and makes pictures of that one alone."""

    def load(self, model: ModelSpec, pipeline: str) -> None:
        if self.loaded != (model.model_id,):
            self._loaded = ()
        super().load(model, pipeline)

    def generate(self, batch: Batch, on_step: StepCallback) -> list[Image.Image]:
        assert self.loaded == (batch.model.model_id,)
        return super().generate(batch, on_step)

    @property
    def switches(self) -> int:
        """How often another model was brought into memory."""
        order = [model_id for model_id, _ in self.loads]
        return sum(before != after for before, after in pairwise(["", *order]))


def test_jobs_of_two_models_in_turn_get_the_right_one_each_and_few_switches(
    stage: Stage, store: ObjectStore
) -> None:
    some = [stage.submit(model_id=SMALL if n % 2 else OTHER, prompt=f"cat {n}") for n in range(20)]
    engine = RoomForOne()
    runner, _ = stage.runner(engine, store)
    runner.serve()
    assert stage.states(some) == ["succeeded"] * 20
    for job in some:
        (made,) = stored_pictures(stage, store, job)
        spec = stage.catalog.get(job.model_id)
        assert made.info["model_hash"] == names.weights_hash(spec)
    assert engine.switches == 2
    drawn = {
        (batch.model.model_id, task.prompt) for batch in engine.batches for task in batch.tasks
    }
    assert drawn == {(job.model_id, job.params["prompt"]) for job in some}


def test_models_that_cannot_be_loaded_do_not_take_the_worker_down(
    stage: Stage, store: ObjectStore
) -> None:
    hasty = replace(stage, settings=stage.settings.model_copy(update={"max_attempts": 1}))
    runner, _ = hasty.runner(FakeEngine(), store, models=(UNLOADABLE,))
    some = [stage.submit(model_id=UNLOADABLE, seed=seed) for seed in range(7)]
    for _ in some:
        runner.serve()
    assert {stage.job(job.id).error_code for job in some} == {ModelLoadError.code}
    assert not runner.is_broken
    assert_sound(stage.sessions, store)


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (LoraNotFound("no"), 1),
        (LoraNotAllowed("no"), 1),
        (LoraIncompatible("no"), 1),
        (LoraError("no"), 2),
    ],
)
def test_an_adapter_that_cannot_be_used_fails_its_job_by_its_own_code(
    error: LoraError, attempts: int, stage: Stage, store: ObjectStore
) -> None:
    quick = stage.settings.model_copy(update={"max_attempts": 2, "retry_delay_s": 0.0})
    runner, _ = replace(stage, settings=quick).runner(BrokenEngine(error), store)
    some = [stage.submit(seed=seed, loras=SET) for seed in range(6)]
    runner.serve()
    done = [stage.job(job.id) for job in some]
    assert {(job.state, job.error_code, job.attempt) for job in done} == {
        ("failed", error.code, attempts)
    }
    assert not runner.is_broken
    assert_sound(stage.sessions, store)


def test_only_jobs_with_the_same_adapters_share_a_call(stage: Stage, store: ObjectStore) -> None:
    engine = FakeEngine()
    runner, _ = stage.runner(engine, store)
    for text in ("", SET, "{}", '{"acme/style": 1.0}', '{"acme/style": 0.5}'):
        stage.submit(loras=text)
    runner.serve()
    assert [(len(one.tasks), dict(one.loras)) for one in engine.batches] == [
        (2, {}),
        (2, {"acme/style": 1.0}),
        (1, {"acme/style": 0.5}),
    ]


# --- The safety checker ---------------------------------------------------------------------------


def test_every_picture_has_its_verdict(stage: Stage, store: ObjectStore) -> None:
    engine = FakeEngine()
    engine.has_checker = True
    runner, _ = stage.runner(engine, store)
    job = stage.submit(num_images_per_prompt=4)
    unasked = stage.submit(safety_check=False)
    runner.serve()
    colours = [made.convert("RGB").tobytes()[:2] for made in stored_pictures(stage, store, job)]
    assert [output.nsfw for output in stage.outputs(job)] == [red > green for red, green in colours]
    assert [output.nsfw for output in stage.outputs(unasked)] == [None]
    assert engine.looked_at == [4]


def test_the_next_batch_is_made_while_the_last_one_is_looked_at(
    stage: Stage, store: ObjectStore
) -> None:
    first, second = (stage.submit(str(number), num_images_per_prompt=4) for number in range(2))
    looking, drawing = Gate(), Gate()

    class Careful(FakeEngine):
        def verdicts(self, pictures: Sequence[Image.Image]) -> list[bool | None]:
            looking()
            return super().verdicts(pictures)

    engine = Careful()
    engine.on_step = lambda _: drawing() if len(engine.batches) == 2 else None
    runner, _ = stage.runner(engine, store)
    thread = threading.Thread(target=runner.serve)
    thread.start()
    looking.wait_for_arrival()
    drawing.wait_for_arrival()
    assert stage.outputs(first) == []
    looking.open()
    drawing.open()
    thread.join(30)
    assert stage.states([first, second]) == ["succeeded", "succeeded"]


def test_without_a_checker_the_verdict_is_null(stage: Stage, store: ObjectStore) -> None:
    runner, _ = stage.runner(FakeEngine(), store)
    job = stage.submit()
    runner.serve()
    assert [output.nsfw for output in stage.outputs(job)] == [None]


@pytest.mark.parametrize(
    "error", [InferenceError("no"), StorageError("no"), ModelLoadError("no"), ZeroDivisionError()]
)
def test_a_picture_that_could_not_be_looked_at_does_not_go_out(
    error: Exception, stage: Stage, store: ObjectStore
) -> None:
    engine = FakeEngine()
    engine.checker_error = error
    patient = replace(stage, settings=stage.settings.model_copy(update={"retry_delay_s": 60.0}))
    runner, runtime = patient.runner(engine, store)
    job, unasked = stage.submit(), stage.submit(safety_check=False, seed=9)
    runner.serve()
    assert stage.job(job.id).state == "queued"
    assert stage.outputs(job) == []
    assert stage.job(unasked.id).state == "succeeded"
    assert runtime.leases.idle
    engine.checker_error = None
    stage.execute("UPDATE jobs SET available_at = now()")
    runner.serve()
    assert stage.job(job.id).state == "succeeded"
    assert_sound(stage.sessions, store)
