"""Claims: what goes together, in which order, and never to two workers."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tasks import claims, jobs, sweeps
from tasks.claims import Progress
from tasks.tables import Job
from tests.invariants import assert_sound
from tests.stage import IMAGE, OTHER, Stage, eventually


def prompts(some: list[Job]) -> list[str]:
    return [job.params["prompt"] for job in some]


def test_a_batch_is_the_head_and_what_shares_its_key(stage: Stage) -> None:
    stage.submit("1")
    stage.submit("more steps", num_inference_steps=5)
    stage.submit("2", seed=8)
    stage.submit("another model", model_id=OTHER)
    stage.submit("3", negative_prompt="blurry")
    assert prompts(stage.claim()) == ["1", "2", "3"]
    assert prompts(stage.claim()) == ["more steps"]
    assert stage.claim() == []


def test_a_batch_has_no_more_images_than_a_call(stage: Stage) -> None:
    for number, images in enumerate((1, 2, 2, 1)):
        stage.submit(str(number), num_images_per_prompt=images)
    assert prompts(stage.claim(most=4)) == ["0", "1"]
    assert prompts(stage.claim(most=4)) == ["2", "3"]


def test_a_job_with_more_images_than_a_call_goes_alone(stage: Stage) -> None:
    stage.submit("many", num_images_per_prompt=16)
    stage.submit("one")
    assert prompts(stage.claim(most=4)) == ["many"]
    assert prompts(stage.claim(most=4)) == ["one"]


def test_priority_goes_before_age(stage: Stage) -> None:
    for prompt, priority in (("old", 0), ("urgent", 9), ("young", 0), ("more urgent", 9)):
        stage.submit(prompt, priority=priority)
    assert prompts(stage.claim(most=3)) == ["urgent", "more urgent", "old"]


def test_what_waits_for_its_time_is_left_until_then(stage: Stage) -> None:
    stage.submit("patient")
    (job,) = stage.claim()
    with stage.sessions.begin() as session:
        claims.requeue(session, job.id, 1, delay_s=0.3)
    assert stage.claim() == []
    eventually(stage.claim)
    assert stage.job(job.id).attempt == 2


def test_what_ran_before_runs_alone(stage: Stage) -> None:
    """Or one job that kills its worker would take the same neighbours along every time."""
    for number in range(4):
        stage.submit(str(number))
    for job in stage.claim(most=2):
        with stage.sessions.begin() as session:
            claims.requeue(session, job.id, 1, delay_s=0)
    assert prompts(stage.claim()) == ["0"]
    assert prompts(stage.claim()) == ["1"]
    assert prompts(stage.claim()) == ["2", "3"]


def test_a_fresh_batch_leaves_out_what_ran_before(stage: Stage) -> None:
    stage.submit("again")
    (again,) = stage.claim()
    stage.submit("1", priority=1)
    stage.submit("2")
    with stage.sessions.begin() as session:
        claims.requeue(session, again.id, 1, delay_s=0)
    assert prompts(stage.claim()) == ["1", "2"]
    assert prompts(stage.claim()) == ["again"]


def test_what_was_handed_back_has_not_run(stage: Stage) -> None:
    """It may have company, and as many attempts as before; whoever holds it no more changes it."""
    some = [stage.submit(str(number)) for number in range(2)]
    held = [(job.id, job.attempt) for job in stage.claim(most=2)]
    for _ in range(2):
        with stage.sessions.begin() as session:
            given = claims.hand_back(session, held)
        assert given in ({job.id for job in some}, set())
    found = [stage.job(job.id) for job in some]
    assert [(job.state, job.attempt, job.tries) for job in found] == [("queued", 1, 0)] * 2
    assert [job.worker_id for job in found] == [None] * 2
    assert prompts(stage.claim()) == ["0", "1"]
    stage.execute("UPDATE jobs SET lease_expires_at = now() - interval '1 s'")
    with stage.sessions.begin() as session:
        assert len(sweeps.reclaim_lost(session, max_attempts=2)) == 2
    assert prompts(stage.claim()) == ["0"], "a lost worker is another matter"


def test_pipelines_have_queues_of_their_own(stage: Stage) -> None:
    stage.submit("edit", pipeline=IMAGE, image_size=(64, 64), input_key="inputs/x")
    assert stage.claim() == []


def test_racing_workers_claim_every_job_once(stage: Stage) -> None:
    with stage.sessions.begin() as session:
        made = [jobs.submit(session, stage.order(f"cat {number}"))[0] for number in range(200)]
    racers = 3
    start = threading.Barrier(racers)

    def work(name: int) -> list[Job]:
        start.wait(30)
        mine: list[Job] = []
        while taken := stage.claim(most=3, worker=f"w{name}"):
            mine += taken
        return mine

    with ThreadPoolExecutor(racers) as pool:
        taken = [job for mine in pool.map(work, range(racers)) for job in mine]
    # A worker that finds all heads locked for a moment stops early; the others take the rest.
    assert Counter(job.id for job in taken) == Counter(job.id for job in made)
    assert {(job.state, job.attempt) for job in taken} == {("running", 1)}
    assert_sound(stage.sessions)


def test_a_claim_and_a_cancel_that_meet_leave_one_winner(stage: Stage) -> None:
    for _ in range(20):
        job = stage.submit("contested")
        start = threading.Barrier(2)

        def claim(start: threading.Barrier = start) -> list[Job]:
            start.wait(30)
            return stage.claim()

        with ThreadPoolExecutor(1) as pool:
            claiming = pool.submit(claim)
            start.wait(30)
            stage.cancel(job)
            claimed = claiming.result()
        # Claimed before or not at all: canceled in both cases, and its money is back.
        assert stage.job(job.id).state == "canceled"
        with stage.sessions.begin() as session:
            assert (
                claims.renew(session, {one.id: Progress(1, 1, 4) for one in claimed}, 30) == set()
            )
    assert_sound(stage.sessions)


def test_progress_alone_does_not_touch_the_lease(stage: Stage) -> None:
    stage.submit("a cat")
    (job,) = stage.claim(lease_s=30)
    with stage.sessions.begin() as session:
        claims.renew(session, {job.id: Progress(1, 1, 4)}, 1000, extend=False)
    noted = stage.job(job.id)
    assert (noted.step, noted.steps, noted.lease_expires_at) == (1, 4, job.lease_expires_at)
    with stage.sessions.begin() as session:
        claims.renew(session, {job.id: Progress(1, 1, 4)}, 1000)
    extended = stage.job(job.id).lease_expires_at
    assert extended is not None
    assert job.lease_expires_at is not None
    assert extended > job.lease_expires_at
