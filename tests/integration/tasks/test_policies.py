"""What becomes of flagged pictures, by their gateway's policy: delivered, blurred, or withheld."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from tasks import policies
from tasks.policies import Safety
from tasks.scheduler import Sweeper
from tasks.storage import ObjectStore
from tasks.tables import Job
from tests.fakes import FakeEngine
from tests.invariants import assert_no_orphans, assert_sound
from tests.stage import FUNDS, PRICE, SIDE, Stage

EACH = PRICE.price_per_unit * SIDE * SIDE


class FlaggingEngine(FakeEngine):
    """Draws chess boards, and flags those at these places of a job."""

    def __init__(self, *flagged: int) -> None:
        super().__init__()
        self._flagged = flagged

    def generate(self, *arguments: object) -> list[Image.Image]:
        board = Image.fromarray(np.kron([[0, 255] * 2, [255, 0] * 2] * 2, np.ones((16, 16))))
        made = super().generate(*arguments)  # type: ignore[arg-type]
        return [board.convert("RGB") for _ in made]

    def verdicts(self, pictures: Sequence[Image.Image]) -> list[bool | None]:
        return [place in self._flagged for place in range(len(pictures))]


def run(
    stage: Stage,
    store: ObjectStore,
    safety: Safety | None,
    engine: FakeEngine,
    **params: object,
) -> tuple[Job, list[float]]:
    """Run a job of three pictures; returns it, and the contrast of what it delivered."""
    if safety is not None:
        with stage.sessions.begin() as session:
            policies.set_safety(session, stage.gateway_id, safety)
    job = stage.submit("a cat", num_images_per_prompt=3, **params)
    runner, runtime = stage.runner(engine, store)
    runner.serve()
    assert not runner.is_broken
    assert runtime.leases.idle
    delivered = [Image.open(io.BytesIO(store.get(one.key))) for one in stage.outputs(job)]
    now = stage.job(job.id)
    if now.state != "queued":
        at_once = stage.settings.model_copy(update={"lease_s": 0.0})
        Sweeper(stage.sessions, store, lambda _bell: None, at_once).tidy()
        assert_no_orphans(stage.sessions, store)
        assert_sound(stage.sessions, store)
    return now, [float(np.asarray(one).std()) for one in delivered]


@pytest.mark.parametrize("safety", ["blur", "withhold"])
def test_what_nobody_could_look_at_does_not_go_out(
    stage: Stage, store: ObjectStore, safety: Safety
) -> None:
    job, delivered = run(stage, store, safety, FakeEngine())
    assert (job.state, job.error_code, job.attempt) == ("failed", "unchecked", 1)
    assert f"{safety!r}" in str(job.error_message)
    assert "PIXELTOLL_SAFETY_CHECKER" in str(job.error_message)
    assert delivered == []
    assert stage.balance().available == FUNDS


@pytest.mark.parametrize(("safety", "safety_check"), [(None, True), ("withhold", False)])
def test_where_nobody_is_to_look_pictures_go_out_without_a_verdict(
    stage: Stage, store: ObjectStore, safety: Safety | None, *, safety_check: bool
) -> None:
    job, _ = run(stage, store, safety, FakeEngine(), safety_check=safety_check)
    assert [one.nsfw for one in stage.outputs(job)] == [None] * 3
    assert stage.balance().available == FUNDS - 3 * EACH


@pytest.mark.parametrize("safety", [None, "flag"])
def test_flagged_pictures_are_delivered_and_marked(
    stage: Stage, store: ObjectStore, safety: Safety | None
) -> None:
    job, contrast = run(stage, store, safety, FlaggingEngine(1))
    assert [one.nsfw for one in stage.outputs(job)] == [False, True, False]
    assert min(contrast) > 100
    assert stage.balance().available == FUNDS - 3 * EACH


def test_flagged_pictures_are_blurred_beyond_recognition(stage: Stage, store: ObjectStore) -> None:
    job, contrast = run(stage, store, "blur", FlaggingEngine(1))
    assert [one.nsfw for one in stage.outputs(job)] == [False, True, False]
    assert contrast[1] < 40
    assert min(contrast[0], contrast[2]) > 100
    assert (job.state, job.error_code) == ("succeeded", None)
    assert stage.balance().available == FUNDS - 3 * EACH


def test_flagged_pictures_are_withheld_and_not_charged(stage: Stage, store: ObjectStore) -> None:
    job, contrast = run(stage, store, "withhold", FlaggingEngine(0))
    assert [(one.index, one.nsfw) for one in stage.outputs(job)] == [(1, False), (2, False)]
    assert len(contrast) == 2
    assert (job.state, job.error_code) == ("succeeded", "partial_result")
    assert "withholds" in str(job.error_message)
    assert stage.balance().available == FUNDS - 2 * EACH


def test_a_job_whose_pictures_are_all_withheld_fails_and_costs_nothing(
    stage: Stage, store: ObjectStore
) -> None:
    job, contrast = run(stage, store, "withhold", FlaggingEngine(0, 1, 2))
    assert (job.state, job.error_code, job.attempt) == ("failed", "withheld", 1)
    assert contrast == []
    assert stage.balance().available == FUNDS


def test_where_the_policy_cannot_be_read_nothing_is_delivered(
    stage: Stage, store: ObjectStore
) -> None:
    with stage.broken("gateway_policies"):
        job, _ = run(stage, store, None, FlaggingEngine(1))
        assert (job.state, stage.outputs(job)) == ("queued", [])
    job, _ = run(stage, store, "flag", FlaggingEngine())
    assert job.state == "succeeded"
