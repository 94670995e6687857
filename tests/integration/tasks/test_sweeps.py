"""Sweeps: bells that are rung again, the heads of queues, and what lost attempts left behind."""

from __future__ import annotations

from collections.abc import Sequence

import structlog.testing

from tasks import claims, sweeps, telemetry, workers
from tasks.scheduler import Sweeper
from tasks.storage import ObjectStore
from tasks.tables import Job
from tests.fakes import MoodyStore
from tests.integration.tasks.test_states import outputs
from tests.invariants import assert_no_orphans
from tests.stage import OTHER, SMALL, Stage, queue


def listen(stage: Stage, *queues: str) -> None:
    with stage.sessions.begin() as session:
        workers.heartbeat(session, "w", stage.orchestrator_id, queues, [])


def forgotten(stage: Stage, after_s: float = 0) -> list[str]:
    with stage.sessions.begin() as session:
        return [bell.queue for bell in sweeps.forgotten(session, after_s)]


def backlogs(stage: Stage, queues: Sequence[str]) -> list[tuple[str, str, int]]:
    with stage.sessions.begin() as session:
        found = sweeps.backlogs(session, queues)
    return [(one.queue, one.model_id, one.priority) for one in found]


def test_what_the_scheduler_does_to_a_job_is_logged_with_its_gateway_and_attempt(
    stage: Stage, store: ObjectStore
) -> None:
    lost, worn_out, overdue = (stage.submit(prompt) for prompt in ("lost", "worn out", "overdue"))
    stage.claim(most=2)
    stage.execute("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE attempt = 1")
    stage.execute("UPDATE jobs SET attempt = 3 WHERE id = :id", id=worn_out.id)
    stage.execute("UPDATE jobs SET deadline = now() - interval '1 s' WHERE id = :id", id=overdue.id)
    store.put(f"outputs/{worn_out.id}/1/left.png", b"x", "image/png")
    sweeper = Sweeper(stage.sessions, store, lambda _bell: None, stage.settings)
    with structlog.testing.capture_logs() as lines:
        sweeper.reclaim()
        sweeper.expire()
        stage.execute(
            "UPDATE jobs SET finished_at = now() - interval '1 h', swept = false"
            " WHERE finished_at IS NOT NULL"
        )
        sweeper.clear()
    said = {line["event"]: (line["job_id"], line["gateway_id"], line["attempt"]) for line in lines}
    owner = str(stage.gateway_id)
    assert said == {
        "job_reclaimed": (str(lost.id), owner, 1),
        "job_failed": (str(worn_out.id), owner, 3),
        "job_expired": (str(overdue.id), owner, 0),
        "objects_swept": (str(worn_out.id), owner, 3),
    }
    assert {line["code"] for line in lines if "code" in line} == {"worker_lost"}


# --- bells ------------------------------------------------------------------------------------


def test_one_bell_for_each_queue_that_waits(stage: Stage) -> None:
    listen(stage, queue(SMALL), queue(OTHER))
    for model_id in (SMALL, SMALL, OTHER):
        stage.submit("a cat", model_id=model_id)
    assert sorted(forgotten(stage)) == [queue(OTHER), queue(SMALL)]


def test_a_bell_that_was_rung_is_given_time(stage: Stage) -> None:
    listen(stage, queue())
    stage.submit("a cat")
    assert forgotten(stage, after_s=60) == []
    stage.execute("UPDATE jobs SET rung_at = now() - interval '61 s'")
    assert forgotten(stage, after_s=60) == [queue()]
    assert forgotten(stage, after_s=60) == []


def test_nobody_rings_where_nobody_listens(stage: Stage) -> None:
    """Bells would pile up in the broker for as long as no worker comes."""
    listen(stage, queue(OTHER))
    stage.submit("a cat")
    assert forgotten(stage) == []
    listen(stage, queue())
    stage.execute("UPDATE workers SET heartbeat_at = now() - interval '1 minute'")
    assert forgotten(stage) == []


def test_nobody_rings_for_what_is_not_ready(stage: Stage) -> None:
    listen(stage, queue())
    stage.submit("running")
    (job,) = stage.claim()
    assert forgotten(stage) == []
    with stage.sessions.begin() as session:
        claims.requeue(session, job.id, 1, delay_s=60)
    stage.submit("overdue")
    stage.execute("UPDATE jobs SET deadline = now() WHERE attempt = 0")
    assert forgotten(stage) == []


def test_a_head_that_somebody_is_at_is_left_alone(stage: Stage) -> None:
    listen(stage, queue())
    stage.submit("a cat")
    with stage.sessions.begin() as session:
        claims.claim(session, queue(), "w", 1, 30)
        assert forgotten(stage) == []


# --- heads ------------------------------------------------------------------------------------


def test_the_heads_of_the_queues_that_are_asked_for(stage: Stage) -> None:
    stage.submit("old")
    stage.submit("urgent", priority=5)
    stage.submit("elsewhere", model_id=OTHER)
    assert backlogs(stage, [queue(), queue("acme/nothing")]) == [(queue(), SMALL, 5)]
    assert backlogs(stage, []) == []


def test_a_head_has_waited_since_it_was_ready(stage: Stage) -> None:
    stage.submit("a cat")
    stage.execute("UPDATE jobs SET available_at = now() - interval '90 s'")
    with stage.sessions.begin() as session:
        (head,) = sweeps.backlogs(session, [queue()])
    assert 90 <= head.waited_s < 100


# --- leftovers --------------------------------------------------------------------------------


def sweeper(stage: Stage, store: ObjectStore) -> Sweeper:
    at_once = stage.settings.model_copy(update={"lease_s": 0.0})
    return Sweeper(stage.sessions, store, lambda _bell: None, at_once)


def test_what_lost_attempts_stored_is_deleted_and_nothing_else(
    stage: Stage, store: ObjectStore
) -> None:
    winner, loser = stage.submit("winner"), stage.submit("loser")
    for number in (1, 2):
        (job,) = stage.claim(most=1)
        store.put(f"outputs/{job.id}/{number}/lost.png", b"lost", "image/png")
        with stage.sessions.begin() as session:
            claims.requeue(session, job.id, job.attempt, delay_s=0)
    job = next(job for job in stage.claim(most=1) if job.id == winner.id)
    made = outputs(job)
    for output in made:
        store.put(output.key, b"won", "image/png")
    store.put("outputs/of-somebody-else", b"kept", "image/png")
    with stage.sessions.begin() as session:
        claims.succeed(session, {(job.id, job.attempt): made})
    stage.cancel(loser)
    sweeper(stage, store).tidy()
    assert sorted(one.key for one in store.list("outputs/")) == sorted(
        ["outputs/of-somebody-else", *(output.key for output in made)]
    )
    store.delete(["outputs/of-somebody-else"])
    assert_no_orphans(stage.sessions, store)


def test_a_job_that_never_ran_has_nothing_to_sweep(stage: Stage) -> None:
    stage.cancel(stage.submit("a cat"))
    with stage.sessions.begin() as session:
        assert sweeps.unswept(session, after_s=-1) == {}


def nothing_kept(job: Job) -> sweeps.Leftovers:
    return sweeps.Leftovers((f"outputs/{job.id}/",), frozenset(), job)


def test_leftovers_are_given_the_time_in_which_they_may_still_be_written(stage: Stage) -> None:
    stage.submit("a cat")
    (job,) = stage.claim()
    stage.cancel(job)
    with stage.sessions.begin() as session:
        assert sweeps.unswept(session, after_s=60) == {}
        assert sweeps.unswept(session, after_s=-1) == {job.id: nothing_kept(job)}


def test_an_attempt_that_comes_late_has_the_job_swept_again(stage: Stage) -> None:
    stage.submit("a cat")
    (job,) = stage.claim()
    stage.cancel(job)
    with stage.sessions.begin() as session:
        sweeps.mark_swept(session, job.id)
        assert sweeps.unswept(session, after_s=-1) == {}
        claims.leave_to_sweep(session, [job.id])
        assert sweeps.unswept(session, after_s=-1) == {job.id: nothing_kept(job)}


def test_a_chore_that_fails_does_not_stop_the_others(stage: Stage) -> None:
    listen(stage, queue())
    stage.submit("a cat")
    stage.execute("UPDATE jobs SET rung_at = now() - interval '1 day'")
    rung: list[str] = []
    store = ObjectStore.from_settings(
        stage.settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"})
    )
    sweeps_with_a_fault = Sweeper(
        stage.sessions, store, lambda bell: rung.append(bell.queue), stage.settings
    )
    # What reclaims and expires reads whole rows; what rings does not.
    with stage.broken("jobs", "error_code"):
        sweeps_with_a_fault.sweep()
    assert rung == [queue()]


# --- results that had their time --------------------------------------------------------------


def test_pictures_that_had_their_time_are_deleted_with_the_input(
    stage: Stage, store: ObjectStore
) -> None:
    store.put("inputs/a.png", b"in", "image/png")
    old = stage.submit(
        "old", pipeline="image-to-image", image_size=(64, 64), input_key="inputs/a.png"
    )
    young, waiting = stage.submit("young"), stage.submit("waiting")
    for name, job in (("image-to-image", old), ("text-to-image", young)):
        with stage.sessions.begin() as session:
            (claimed,) = claims.claim(session, queue(SMALL, name), "w", 1, 30)
            made = outputs(claimed)
            claims.succeed(session, {(job.id, claimed.attempt): made})
        for output in made:
            store.put(output.key, b"out", "image/png")
    stage.execute("UPDATE jobs SET finished_at = now() - interval '61 s' WHERE id = :id", id=old.id)

    sweeper(stage, store).tidy()
    assert len(list(store.list(""))) == 3
    keeping = stage.settings.model_copy(update={"keep_results_s": 60})
    with structlog.testing.capture_logs() as said:
        for _ in range(2):
            Sweeper(stage.sessions, store, lambda _bell: None, keeping).tidy()

    [line] = [line for line in said if line["event"] == "results_deleted"]
    assert (line["jobs"], line["objects"]) == ([telemetry.of(stage.job(old.id))], 2)
    assert [one.key for one in store.list("")] == [f"outputs/{young.id}/1/0.png"]
    kept = [
        stage.scalar("SELECT kept FROM jobs WHERE id = :id", id=job.id)
        for job in (old, young, waiting)
    ]
    assert kept == [False, True, True]
    assert len(stage.outputs(old)) == 1


def test_a_store_that_is_away_is_asked_again(stage: Stage, store: ObjectStore) -> None:
    job = stage.submit("a cat")
    stage.cancel(job)
    stage.execute("UPDATE jobs SET finished_at = now() - interval '61 s', input_key = 'a'")
    keeping = stage.settings.model_copy(update={"keep_results_s": 60})
    moody = MoodyStore.from_settings(stage.settings)
    assert isinstance(moody, MoodyStore)
    moody.is_down = True
    tidy = Sweeper(stage.sessions, moody, lambda _bell: None, keeping).tidy
    assert not tidy()
    assert stage.scalar("SELECT kept FROM jobs") is True
    moody.is_down = False
    assert tidy()
    assert stage.scalar("SELECT kept FROM jobs") is False
