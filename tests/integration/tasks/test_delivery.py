"""Webhooks: no end of a job without its message, and no message lost, whoever fails when."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog.testing
from prometheus_client import REGISTRY
from sqlalchemy import text
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from ledger import accounts
from tasks import claims, delivery, sweeps, webhooks
from tasks.delivery import Outcome, pause_s
from tasks.places import Rules
from tasks.tables import Job
from tests.integration.pixeltoll.helpers import outputs
from tests.integration.tasks.post import HOST, Post, Receiver, canceled
from tests.stage import Stage, eventually
from tests.web import Visit, serving


def verified(visit: Visit, secret: str | None) -> Mapping[str, object]:
    """The message, which a receiver's library has found to be ours."""
    found: Mapping[str, object] = Verifier(secret or "").verify(visit.body, dict(visit.headers))
    return found


def test_the_end_of_a_job_is_told_with_a_signature_that_the_library_verifies(post: Post) -> None:
    job = post.succeed()
    assert [(row.event, row.state) for row in post.log()] == [("job.succeeded", "pending")]
    post.courier().deliver()

    [visit] = post.web.visits
    message = json.loads(visit.body)
    assert verified(visit, post.webhook.secret) == message
    assert (visit.path, visit.headers["content-type"]) == ("/hook", "application/json")
    assert visit.headers["webhook-id"] == f"msg_{job.id.hex}"
    assert message["type"] == "job.succeeded"
    data = message["data"]
    assert (data["id"], data["state"], data["hold"]["state"]) == (
        str(job.id),
        "succeeded",
        "captured",
    )
    assert data["outputs"][0]["url"] == f"{HOST}/stream/{job.id}/0.png"
    assert message["timestamp"] == data["finished_at"]
    [row] = post.log()
    assert (row.state, row.attempts, row.status, row.error) == ("delivered", 1, 204, None)
    post.courier().deliver()
    assert len(post.web.visits) == 1
    with pytest.raises(WebhookVerificationError):
        verified(visit, "whsec_c29tZWJvZHkgZWxzZSdzIHNlY3JldA==")


def test_a_jobs_context_is_told_as_it_was(post: Post) -> None:
    context = {"order": 17, "nested": [1.5, None, "ünïcode"]}
    post.succeed(callback={"context": context})
    post.courier().deliver()
    assert json.loads(post.web.visits[0].body)["data"]["context"] == context


def counted() -> dict[str, float]:
    """What the process has counted of its deliveries."""
    outcomes = ("delivered", "failed", "given_up", "overtaken")
    name = "pixeltoll_webhook_deliveries_total"
    return {one: REGISTRY.get_sample_value(name, {"outcome": one}) or 0 for one in outcomes}


def test_deliveries_are_counted_by_outcome_and_logged_with_the_job(post: Post) -> None:
    before = counted()
    job = post.succeed()
    for give_up_s in (3600.0, 0.0):
        with structlog.testing.capture_logs() as lines:
            post.stage.execute("UPDATE webhooks SET target = 'http://127.0.0.1:1/'")
            post.due_now()
            post.courier(webhook_give_up_s=give_up_s).deliver()
        [line] = [one for one in lines if one["event"] == "webhook_failed"]
        assert line["job_id"] == str(job.id)
        assert line["gateway_id"] == str(post.stage.gateway_id)
        assert line["attempt"] == 1
    post.stage.execute("UPDATE webhooks SET target = :url", url=post.web.url("/hook"))
    post.succeed()
    over = threading.Event()
    over.set()
    beats: list[int] = []
    post.courier().deliver(over, lambda: beats.append(1))
    assert (post.web.visits, beats) == ([], []), "who leaves begins with none"
    post.courier().deliver(beat=lambda: beats.append(1))
    assert len(beats) == 1
    more = {name: count - before[name] for name, count in counted().items()}
    assert more == {"delivered": 1, "failed": 1, "given_up": 1, "overtaken": 0}


def failed(stage: Stage) -> Job:
    job = stage.submit()
    [claimed] = stage.claim()
    with stage.sessions.begin() as session:
        claims.fail(session, job.id, claimed.attempt, "out_of_memory", "It does not fit.")
    return job


def expired(stage: Stage) -> Job:
    job = stage.submit()
    stage.execute("UPDATE jobs SET deadline = now() - interval '1 s'")
    with stage.sessions.begin() as session:
        assert sweeps.expire_overdue(session) == 1
    return job


@pytest.mark.parametrize(
    ("end", "event"),
    [(canceled, "job.canceled"), (failed, "job.failed"), (expired, "job.expired")],
)
def test_every_end_is_told(post: Post, end: Callable[[Stage], Job], event: str) -> None:
    job = end(post.stage)
    post.courier().deliver()
    message = json.loads(post.web.visits[0].body)
    assert (message["type"], message["data"]["id"]) == (event, str(job.id))
    assert message["data"]["hold"]["state"] in ("voided", "expired")


def test_what_does_not_end_and_what_nobody_listens_to_writes_nothing(post: Post) -> None:
    with post.stage.sessions.begin() as session:
        webhooks.remove(session, post.stage.gateway_id, post.webhook.id)
    post.webhook = post.listen("job.failed")
    post.succeed()
    job = post.stage.submit()
    [claimed] = post.stage.claim()
    with post.stage.sessions.begin() as session:
        assert claims.requeue(session, job.id, claimed.attempt, 0)
    assert post.log() == []
    with post.stage.sessions.begin() as session:
        other = accounts.create_gateway(session, "other", "USD")
        webhooks.create(session, other.id, post.web.url(), (), post.rules)
    post.stage.cancel(job)
    assert post.stage.scalar("SELECT count(*) FROM webhook_deliveries") == 0


def test_an_end_that_is_rolled_back_is_not_told(post: Post) -> None:
    job = post.stage.submit()
    [claimed] = post.stage.claim()
    with post.stage.sessions() as session:
        claims.succeed(session, {(job.id, claimed.attempt): outputs(claimed)})
        assert session.scalar(text("SELECT count(*) FROM webhook_deliveries")) == 1
        session.rollback()
    assert post.log() == []


def test_a_receiver_that_fails_is_tried_again_until_it_takes_the_message(
    post: Post, receiver: Receiver
) -> None:
    receiver.statuses = [500, 503, 200]
    post.succeed()
    for attempts, status in ((1, 500), (2, 503)):
        post.courier().deliver()
        [row] = post.log()
        assert (row.state, row.attempts, row.status) == ("pending", attempts, status)
        assert row.error == f"It answers with status {status}."
        assert post.row().failing_since is not None
        post.courier().deliver()  # not due
        post.due_now()
    post.courier().deliver()
    [row] = post.log()
    assert (row.state, row.attempts, row.status, row.error) == ("delivered", 3, 200, None)
    assert post.row().failing_since is None
    assert len({visit.headers["webhook-id"] for visit in post.web.visits}) == 1
    assert len(post.web.visits) == 3


def test_a_receiver_that_is_down_or_slow_is_tried_again(stage: Stage, receiver: Receiver) -> None:
    over = threading.Event()
    receiver.meanwhile = lambda: over.wait(30)
    with serving(receiver) as web:
        post = Post(stage, web)
        post.succeed()
        post.courier(webhook_timeout_s=0.1).deliver()
        assert post.log()[0].error == "Its host took too long to answer."
        over.set()
    post.due_now()
    post.courier().deliver()
    assert post.log()[0].error == "Its host did not answer as it should."
    with serving(Receiver(), port=web.port):
        post.due_now()
        post.courier().deliver()
    assert post.log()[0].state == "delivered"


def test_a_redirect_is_not_followed(post: Post, receiver: Receiver) -> None:
    receiver.statuses = [307]
    post.succeed()
    post.courier().deliver()
    assert post.log()[0].error == "It answers with status 307."
    assert len(post.web.visits) == 1


def test_a_webhook_that_leads_inside_by_now_is_not_called(post: Post) -> None:
    post.succeed()
    post.rules = Rules(ports=frozenset({post.web.port}))
    post.courier().deliver()
    assert "no address that is public" in (post.log()[0].error or "")
    assert post.web.connected() == 0


def test_a_process_that_dies_after_it_has_claimed_is_followed_by_another(post: Post) -> None:
    post.succeed()
    with post.stage.sessions.begin() as session:
        lost = delivery.claim(session, 0)
    assert lost is not None
    post.courier().deliver()
    assert post.log()[0].state == "delivered"
    # What the lost one would have noted changes nothing any more.
    with post.stage.sessions.begin() as session:
        delivery.note(session, lost, Outcome(500, "late"), post.settings)
    assert (post.log()[0].state, post.row().failing_since) == ("delivered", None)


def test_another_scheduler_leaves_alone_what_is_on_its_way(post: Post, receiver: Receiver) -> None:
    first, second = post.courier(), post.courier()

    def meanwhile() -> None:
        receiver.meanwhile = lambda: None
        second.deliver()

    receiver.meanwhile = meanwhile
    for _ in range(3):
        canceled(post.stage)
    first.deliver()
    assert_each_was_told_once(post, 3)


def test_schedulers_that_race_deliver_each_message_once(post: Post) -> None:
    for _ in range(12):
        canceled(post.stage)
    with ThreadPoolExecutor(4) as pool:
        # A courier that finds all hands of the webhook busy comes back later.
        while any(row.state != "delivered" for row in post.log()):
            list(pool.map(lambda courier: courier.deliver(), [post.courier()] * 4))
    assert_each_was_told_once(post, 12)


def assert_each_was_told_once(post: Post, count: int) -> None:
    ids = [visit.headers["webhook-id"] for visit in post.web.visits]
    assert len(ids) == len(set(ids)) == count
    assert {(row.state, row.attempts) for row in post.log()} == {("delivered", 1)}


def test_a_busy_webhook_does_not_keep_another_waiting(post: Post) -> None:
    for _ in range(3):
        canceled(post.stage)
    other = post.listen("job.failed")
    failed(post.stage)
    with post.stage.sessions.begin() as session:
        found = [delivery.claim(session, 30) for _ in range(5)]
    served = [one.webhook_id for one in found if one is not None]
    assert sorted(served[:2]) == sorted([post.webhook.id, other.id])
    # Two hands for the busy one, and what is left of it waits for a free one.
    assert served[2:] == [post.webhook.id]
    assert found[3:] == [None, None]


def test_a_delivery_that_fails_for_long_is_given_up_and_can_be_replayed(
    post: Post, receiver: Receiver
) -> None:
    receiver.statuses = [500, 500]
    post.succeed()
    post.courier(webhook_give_up_s=3600).deliver()
    assert post.log()[0].state == "pending"
    post.due_now()
    post.stage.execute("UPDATE webhook_deliveries SET wanted_at = now() - interval '2 h'")
    post.courier(webhook_give_up_s=3600).deliver()
    [row] = post.log()
    assert (row.state, row.attempts) == ("failed", 2)
    post.courier().deliver()
    with post.stage.sessions.begin() as session:
        webhooks.replay(session, post.webhook.id, row.id)
    post.courier(webhook_give_up_s=3600).deliver()
    [row] = post.log()
    assert (row.state, row.attempts, row.error) == ("delivered", 1, None)
    assert len({visit.headers["webhook-id"] for visit in post.web.visits}) == 1


def test_a_webhook_that_fails_for_long_is_disabled_until_it_is_enabled(
    post: Post, receiver: Receiver
) -> None:
    receiver.statuses = [500, 500]
    canceled(post.stage)
    post.courier(webhook_disable_s=3600).deliver()
    assert post.row().disabled_at is None
    post.stage.execute("UPDATE webhooks SET failing_since = now() - interval '2 h'")
    post.due_now()
    post.courier(webhook_disable_s=3600).deliver()
    assert "status 500" in (post.row().disabled_why or "")
    canceled(post.stage)
    post.due_now()
    post.courier().deliver()
    assert len(post.web.visits) == 2  # it is told nothing
    assert len(post.log()) == 1  # and nothing is kept for it
    with post.stage.sessions.begin() as session:
        webhooks.enable(session, post.stage.gateway_id, post.webhook.id)
    post.courier().deliver()
    assert post.log()[0].state == "delivered"


def test_a_webhook_that_says_that_it_is_gone_is_disabled_at_once(
    post: Post, receiver: Receiver
) -> None:
    receiver.statuses = [410]
    canceled(post.stage)
    post.courier().deliver()
    assert post.row().disabled_why == "It answers that it is gone."


def test_a_rotated_secret_and_the_one_before_both_verify_for_a_day(post: Post) -> None:
    old = post.webhook.secret
    with post.stage.sessions.begin() as session:
        new = webhooks.rotate(session, post.stage.gateway_id, post.webhook.id).secret
    assert new != old
    canceled(post.stage)
    post.courier().deliver()
    for secret in (old, new):
        assert verified(post.web.visits[0], secret)
    post.stage.execute("UPDATE webhooks SET old_secret_until = now()")
    canceled(post.stage)
    post.courier().deliver()
    assert verified(post.web.visits[1], new)
    with pytest.raises(WebhookVerificationError):
        verified(post.web.visits[1], old)


def test_what_breaks_on_our_side_is_tried_again(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.succeed()

    def broken(*_: object) -> bytes:
        raise ZeroDivisionError

    courier = post.courier()
    monkeypatch.setattr(courier, "_render", broken)
    courier.deliver()
    [row] = post.log()
    assert (row.state, row.error) == ("pending", "This failed on our side and was logged.")


def test_a_webhook_that_is_deleted_meanwhile_fails_no_job(post: Post) -> None:
    """The end of a job waits for the deletion, and passes the webhook over."""
    job = post.stage.submit()
    with ThreadPoolExecutor(1) as pool:
        with post.stage.sessions.begin() as session:
            webhooks.remove(session, post.stage.gateway_id, post.webhook.id)
            ending = pool.submit(post.stage.cancel, job)
            eventually(lambda: post.stage.scalar("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        ending.result(timeout=20)
    assert post.stage.job(job.id).state == "canceled"
    assert post.stage.scalar("SELECT count(*) FROM webhook_deliveries") == 0


def test_the_log_forgets_what_is_old_and_done_batch_by_batch(
    post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "FORGET_BATCH", 1)
    receiver.statuses = [200, 200, 500]
    for _ in range(2):
        canceled(post.stage)
    post.courier().deliver()
    canceled(post.stage)
    post.courier().deliver()
    post.stage.execute("UPDATE webhook_deliveries SET tried_at = now() - interval '2 h'")
    post.courier(webhook_keep_s=3600).forget()
    assert [row.state for row in post.log()] == ["pending"]


def test_a_pause_doubles_and_is_shortened_by_chance_up_to_half() -> None:
    for attempts, longest in ((1, 5), (2, 10), (5, 80), (40, 6 * 3600)):
        pauses = {pause_s(attempts, 5) for _ in range(50)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
