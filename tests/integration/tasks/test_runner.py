"""A worker's loop with good luck: batches, chunks, pictures, and leaving when told to."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import structlog
from PIL import Image
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from tasks import claims, names, telemetry
from tasks.engine.protocol import ImageTask
from tasks.storage import ObjectStore
from tasks.tables import Job
from tests.fakes import FakeEngine, Gate, MoodyStore, picture
from tests.invariants import assert_no_orphans, assert_sound
from tests.stage import FUNDS, IMAGE, OTHER, SIDE, SMALL, Stage

_log = structlog.get_logger()


def stored(stage: Stage, store: ObjectStore, job: Job) -> list[Image.Image]:
    return [Image.open(io.BytesIO(store.get(output.key))) for output in stage.outputs(job)]


def png(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(data, "PNG")
    return data.getvalue()


def assert_same(got: Image.Image, expected: Image.Image) -> None:
    assert got.convert("RGB").tobytes() == expected.tobytes()


def test_a_job_becomes_pictures_that_are_paid_for(stage: Stage, store: ObjectStore) -> None:
    job = stage.submit("a cat", negative_prompt="blurry", num_images_per_prompt=2, seed=40)
    runner, runtime = stage.runner(FakeEngine(), store)
    runner.serve()
    done = stage.job(job.id)
    assert (done.state, done.attempt, done.step, done.error_code) == (
        "succeeded",
        1,
        done.steps,
        None,
    )
    first, second = stage.outputs(job)
    assert (first.seed, second.seed) == (40, 41)
    assert first.key == f"outputs/{job.id}/1/{first.name}"
    assert (first.width, first.height, first.content_type) == (SIDE, SIDE, "image/png")
    for output, made in zip((first, second), stored(stage, store, job), strict=True):
        assert_same(made, picture(ImageTask("a cat", "blurry", output.seed), SIDE, SIDE))
        assert made.info == {
            "seed": str(output.seed),
            "model": SMALL,
            "model_hash": names.weights_hash(stage.catalog.get(SMALL)),
            "job_id": str(job.id),
        }
    assert stage.balance().available == FUNDS - Decimal(2 * SIDE * SIDE) * Decimal("1.9073484e-08")
    assert runtime.leases.idle
    assert_sound(stage.sessions, store)
    assert_no_orphans(stage.sessions, store)


class Chatty(MoodyStore):
    """A store whose client has something to say of every call."""

    def _complain(self, key: str) -> None:
        _log.warning(key.partition("/")[0])


def test_what_libraries_say_meanwhile_is_about_the_jobs_of_the_batch(
    stage: Stage, store: ObjectStore
) -> None:
    store.put("inputs/x.png", png(SIDE, SIDE), "image/png")
    some = [
        stage.submit(prompt, pipeline=IMAGE, image_size=(SIDE, SIDE), input_key="inputs/x.png")
        for prompt in ("a secret cat", "a secret dog")
    ]
    engine = FakeEngine()
    engine.on_step = lambda _step: _log.warning("steps")

    with capture_logs(processors=[merge_contextvars]) as said:
        stage.runner(engine, Chatty.from_settings(stage.settings))[0].serve()

    each = [str(job.id) for job in some]
    for event in ("inputs", "outputs"):
        assert sorted(line["job_id"] for line in said if line["event"] == event) == each
    steps = [line["jobs"] for line in said if line["event"] == "steps"]
    assert steps[0] == [telemetry.of(stage.job(job.id)) for job in some]
    assert "secret" not in repr(said)


def test_jobs_that_share_a_key_share_a_call_and_get_their_own_pictures(
    stage: Stage, store: ObjectStore
) -> None:
    some = [
        stage.submit(prompt, num_images_per_prompt=images, seed=seed)
        for prompt, images, seed in (("a", 1, 5), ("b", 2, 5), ("c", 1, 900))
    ]
    stage.submit("another size", width=128)
    engine = FakeEngine()
    runner, _ = stage.runner(engine, store)
    runner.serve()
    assert engine.sizes == [4, 1]
    for job in some:
        for k, made in enumerate(stored(stage, store, job)):
            task = ImageTask(job.params["prompt"], "", job.params["seed"] + k)
            assert_same(made, picture(task, SIDE, SIDE))
    assert_sound(stage.sessions, store)


def test_a_job_with_more_pictures_than_a_call_takes_several(
    stage: Stage, store: ObjectStore
) -> None:
    job = stage.submit("many", num_images_per_prompt=10)
    engine = FakeEngine()
    gate = Gate()
    runner, runtime = stage.runner(engine, store)

    def hold_up(step: int) -> None:
        if len(engine.batches) == 2 and step == 3:
            gate()

    engine.on_step = hold_up
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(runner.serve)
        gate.wait_for_arrival()
        runtime.leases.tick()
        # Three pictures of four steps each, and two steps of the three that are being made.
        now = stage.job(job.id)
        assert (now.step, now.steps) == (3 * 4 + 3 * 2, 10 * 4)
        gate.open()
        serving.result()
    assert engine.sizes == [3, 3, 4]
    assert [output.seed for output in stage.outputs(job)] == list(range(7, 17))
    assert_sound(stage.sessions, store)


def test_an_input_picture_is_brought_to_the_size_that_is_run(
    stage: Stage, store: ObjectStore
) -> None:
    store.put("inputs/x.png", png(100, 90), "image/png")
    job = stage.submit("edit", pipeline=IMAGE, image_size=(100, 90), input_key="inputs/x.png")
    engine = FakeEngine()
    runner, _ = stage.runner(engine, store)
    runner.serve()
    (made,) = stored(stage, store, job)
    assert made.size == (104, 96)
    (batch,) = engine.batches
    (task,) = batch.tasks
    assert task.image is not None
    assert (task.image.size, task.image.mode) == ((104, 96), "RGB")
    assert_same(made, picture(task, 104, 96))


def test_a_loaded_model_is_served_before_another_is_loaded(
    stage: Stage, store: ObjectStore
) -> None:
    for model_id in (SMALL, OTHER, SMALL):
        stage.submit("a cat", model_id=model_id, num_images_per_prompt=4)
    engine = FakeEngine()
    runner, _ = stage.runner(engine, store)
    runner.serve()
    assert [batch.model.model_id for batch in engine.batches] == [SMALL, SMALL, OTHER]


def test_a_worker_that_comes_too_late_in_one_queue_goes_on_to_the_next(
    stage: Stage, store: ObjectStore
) -> None:
    taken, free = stage.submit("taken", priority=9), stage.submit("free", model_id=OTHER)
    runner, _ = stage.runner(FakeEngine(), store)
    with stage.sessions.begin() as faster:
        claims.claim(faster, taken.queue, "faster", 1, 30)
        runner.serve()
    assert stage.states([taken, free]) == ["running", "succeeded"]


def test_a_worker_that_is_told_to_stop_ends_its_batch_and_leaves_the_rest(
    stage: Stage, store: ObjectStore
) -> None:
    some = [stage.submit(str(number), num_images_per_prompt=4) for number in range(2)]
    engine = FakeEngine()
    gate = engine.on_step = Gate()
    runner, runtime = stage.runner(engine, store)
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(runner.serve)
        gate.wait_for_arrival()
        runner.stop()
        gate.open()
        serving.result()
    assert stage.states(some) == ["succeeded", "queued"]
    assert runtime.leases.idle
    assert_sound(stage.sessions, store)


def test_the_next_batch_is_made_while_the_last_one_is_stored(
    stage: Stage, moody_store: MoodyStore
) -> None:
    first, second = (stage.submit(str(number), num_images_per_prompt=4) for number in range(2))
    gate = Gate()
    moody_store.on_put = lambda key: gate() if str(first.id) in key else None
    engine = FakeEngine()
    making_second = Gate()
    engine.on_step = lambda _: making_second() if len(engine.batches) == 2 else None
    runner, _ = stage.runner(engine, moody_store)
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(runner.serve)
        gate.wait_for_arrival()
        making_second.wait_for_arrival()
        assert stage.states([first, second]) == ["running", "running"]
        gate.open()
        making_second.open()
        serving.result()
    assert stage.states([first, second]) == ["succeeded", "succeeded"]
    assert_sound(stage.sessions, moody_store)
