"""The state machine: every transition and every refused one, each with its money.

Each test brings a job into every state, does one thing to all of them, and says what has become of
each. After that, the books and the jobs must agree.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from ledger import holds
from ledger.tables import Hold
from tasks import claims, sweeps
from tasks.claims import NewOutput, Progress
from tasks.errors import JobNotCancelable
from tasks.tables import Job
from tests.invariants import assert_sound
from tests.stage import FUNDS, Stage

# The queued one comes last: each of the others is claimed while it is alone in the queue.
STATES = ("succeeded", "failed", "canceled", "expired", "running", "queued")
HOLDS = {
    "queued": "open",
    "running": "open",
    "succeeded": "captured",
    "failed": "voided",
    "canceled": "voided",
    "expired": "expired",
}


def outputs(job: Job) -> list[NewOutput]:
    return [
        NewOutput(
            index=index,
            name=f"{index}.png",
            key=f"outputs/{job.id}/{job.attempt}/{index}.png",
            seed=index,
            nsfw=None,
            width=64,
            height=64,
            content_type="image/png",
            size_bytes=3,
            sha256=b"x" * 32,
        )
        for index in range(job.num_images)
    ]


def overdue(stage: Stage, *some: Job) -> None:
    for job in some:
        stage.execute("UPDATE jobs SET deadline = now() - interval '1 s' WHERE id = :id", id=job.id)


def lapse(stage: Stage, *some: Job) -> None:
    """Let leases end."""
    for job in some:
        stage.execute(
            "UPDATE jobs SET lease_expires_at = now() - interval '1 s' "
            "WHERE id = :id AND state = 'running'",
            id=job.id,
        )


def arrange(stage: Stage, state: str) -> Job:
    job = stage.submit(f"a job to be {state}", num_images_per_prompt=2)
    if state == "queued":
        return job
    (job,) = stage.claim()
    if state == "canceled":
        stage.cancel(job)
    elif state == "expired":
        overdue(stage, job)
    with stage.sessions.begin() as session:
        if state == "succeeded":
            claims.succeed(session, {(job.id, 1): outputs(job)})
        elif state == "failed":
            claims.fail(session, job.id, 1, "inference_failed", "No luck.")
        elif state == "expired":
            sweeps.expire_overdue(session)
    return job


@pytest.fixture
def cast(stage: Stage) -> Iterator[dict[str, Job]]:
    """A job in every state; afterwards, the proof that money and states agree."""
    made = {state: arrange(stage, state) for state in STATES}
    assert states(stage, made) == {state: state for state in STATES}
    yield made
    assert_sound(stage.sessions)


def states(stage: Stage, made: dict[str, Job]) -> dict[str, str]:
    """What each job is now, once its hold has been seen to follow."""
    now = {was: stage.job(job.id) for was, job in made.items()}
    for job in now.values():
        assert stage.hold(job).state == HOLDS[job.state]
    open_amount = sum(job.hold.amount for job in now.values() if job.hold.state == "open")
    charged = sum(job.hold.amount for job in now.values() if job.state == "succeeded")
    assert stage.balance().held == open_amount
    assert stage.balance().available == FUNDS - open_amount - charged
    return {was: job.state for was, job in now.items()}


def becomes(**changed: str) -> dict[str, str]:
    return {state: changed.get(state, state) for state in STATES}


def test_a_claim_takes_what_is_queued(stage: Stage, cast: dict[str, Job]) -> None:
    assert [job.id for job in stage.claim(most=100)] == [cast["queued"].id]
    assert states(stage, cast) == becomes(queued="running")
    job = stage.job(cast["queued"].id)
    assert (job.attempt, job.worker_id) == (1, "w")
    assert job.started_at is not None
    assert job.lease_expires_at is not None


def test_a_renewal_finds_what_is_running(stage: Stage, cast: dict[str, Job]) -> None:
    with stage.sessions.begin() as session:
        held = claims.renew(session, {job.id: Progress(1, 2, 4) for job in cast.values()}, 30)
    assert held == {cast["running"].id}
    assert states(stage, cast) == becomes()
    assert (stage.job(cast["running"].id).step, stage.job(cast["queued"].id).step) == (2, 0)


def test_success_comes_to_what_is_running(stage: Stage, cast: dict[str, Job]) -> None:
    with stage.sessions.begin() as session:
        done = claims.succeed(session, {(job.id, 1): outputs(job) for job in cast.values()})
    assert done == {cast["running"].id}
    assert states(stage, cast) == becomes(running="succeeded")
    assert [output.seed for output in stage.outputs(cast["running"])] == [0, 1]


def test_failure_comes_to_what_is_running(stage: Stage, cast: dict[str, Job]) -> None:
    for was, job in cast.items():
        with stage.sessions.begin() as session:
            assert claims.fail(session, job.id, 1, "oh", "dear") is (was == "running")
    assert states(stage, cast) == becomes(running="failed")
    job = stage.job(cast["running"].id)
    assert (job.error_code, job.error_message) == ("oh", "dear")
    assert job.finished_at is not None


def test_what_is_running_can_go_back_to_its_queue(stage: Stage, cast: dict[str, Job]) -> None:
    for was, job in cast.items():
        with stage.sessions.begin() as session:
            assert claims.requeue(session, job.id, 1, delay_s=60) is (was == "running")
    assert states(stage, cast) == becomes(running="queued")
    job = stage.job(cast["running"].id)
    assert (job.attempt, job.worker_id, job.lease_expires_at) == (1, None, None)


def test_what_has_not_ended_can_be_canceled(stage: Stage, cast: dict[str, Job]) -> None:
    for was, job in cast.items():
        if was in ("succeeded", "failed", "expired"):
            with pytest.raises(JobNotCancelable) as refused:
                stage.cancel(job)
            assert refused.value.state == was
        else:
            stage.cancel(job)
    assert states(stage, cast) == becomes(queued="canceled", running="canceled")


def test_what_has_not_ended_expires_with_its_deadline(stage: Stage, cast: dict[str, Job]) -> None:
    with stage.sessions.begin() as session:
        assert sweeps.expire_overdue(session) == 0
    overdue(stage, *cast.values())
    assert stage.claim() == []
    with stage.sessions.begin() as session:
        assert sweeps.expire_overdue(session) == 2
    assert states(stage, cast) == becomes(queued="expired", running="expired")
    assert stage.job(cast["queued"].id).error_code == "deadline_passed"


def test_what_ran_on_a_lost_worker_is_queued_again(stage: Stage, cast: dict[str, Job]) -> None:
    with stage.sessions.begin() as session:
        assert sweeps.reclaim_lost(session, max_attempts=3) == []
    lapse(stage, *cast.values())
    with stage.sessions.begin() as session:
        bells = sweeps.reclaim_lost(session, max_attempts=3)
    assert [bell.job_id for bell in bells] == [cast["running"].id]
    assert states(stage, cast) == becomes(running="queued")


def test_what_lost_too_many_workers_fails(stage: Stage, cast: dict[str, Job]) -> None:
    lapse(stage, *cast.values())
    with stage.sessions.begin() as session:
        assert sweeps.reclaim_lost(session, max_attempts=1) == []
    assert states(stage, cast) == becomes(running="failed")
    assert stage.job(cast["running"].id).error_code == "worker_lost"


# --- the fence --------------------------------------------------------------------------------


def test_a_worker_that_lost_its_claim_settles_nothing(stage: Stage) -> None:
    stage.submit("a cat")
    (lost,) = stage.claim(worker="first")
    lapse(stage, lost)
    with stage.sessions.begin() as session:
        sweeps.reclaim_lost(session, max_attempts=3)
    (current,) = stage.claim(worker="second")
    assert (current.id, current.attempt) == (lost.id, 2)
    with stage.sessions.begin() as session:
        assert claims.renew(session, {lost.id: Progress(1, 3, 4)}, 30) == set()
        assert claims.succeed(session, {(lost.id, 1): outputs(lost)}) == set()
        assert not claims.fail(session, lost.id, 1, "oh", "dear")
        assert not claims.requeue(session, lost.id, 1, 0)
    after = stage.job(lost.id)
    assert (after.state, after.attempt, after.worker_id, after.step) == ("running", 2, "second", 0)
    assert stage.outputs(lost) == []
    with stage.sessions.begin() as session:
        assert claims.succeed(session, {(lost.id, 2): outputs(current)}) == {lost.id}
    assert_sound(stage.sessions)


def test_in_a_batch_only_current_claims_are_settled(stage: Stage) -> None:
    for number in range(3):
        stage.submit(f"cat {number}")
    first, canceled, last = stage.claim()
    stage.cancel(canceled)
    with stage.sessions.begin() as session:
        finished = {(job.id, job.attempt): outputs(job) for job in (first, canceled, last)}
        assert claims.succeed(session, finished) == {first.id, last.id}
    assert stage.states([first, canceled, last]) == ["succeeded", "canceled", "succeeded"]
    assert_sound(stage.sessions)


def test_settling_twice_changes_nothing(stage: Stage) -> None:
    stage.submit("a cat")
    (job,) = stage.claim()
    for expected in ({job.id}, set()):
        with stage.sessions.begin() as session:
            assert claims.succeed(session, {(job.id, 1): outputs(job)}) == expected
    assert len(stage.outputs(job)) == 1
    assert_sound(stage.sessions)


def test_state_and_money_change_together_or_not_at_all(stage: Stage) -> None:
    stage.submit("a cat")
    (job,) = stage.claim()

    def settle_and_crash(session: Session) -> None:
        claims.succeed(session, {(job.id, 1): outputs(job)})
        assert session.get_one(Hold, job.hold_id, populate_existing=True).state == "captured"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError), stage.sessions.begin() as session:
        settle_and_crash(session)
    assert stage.job(job.id).state == "running"
    assert stage.outputs(job) == []
    assert_sound(stage.sessions)


def test_one_job_with_spoilt_money_does_not_hold_up_the_others(stage: Stage) -> None:
    some = [stage.submit(f"cat {number}") for number in range(3)]
    with stage.sessions.begin() as session:
        holds.void(session, [some[0].hold_id])
    overdue(stage, *some)
    with stage.sessions.begin() as session:
        assert sweeps.expire_overdue(session) == 2
    assert stage.states(some) == ["queued", "expired", "expired"]
