"""Who is told of the ends of jobs: URLs of a gateway, and topics of the installation."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs
from uuid import UUID

import pytest
from sqlalchemy import text

from ledger import accounts
from tasks import webhooks
from tasks.errors import (
    InvalidParams,
    PublishFailed,
    TooManyWebhooks,
    UnknownDelivery,
    UnknownWebhook,
)
from tasks.topics import Topics
from tests.databases import as_owner
from tests.integration.tasks.post import Post, canceled
from tests.stage import Stage
from tests.web import serving

TOPIC = "arn:aws:sns:eu-west-1:123456789012:ends"


@pytest.mark.parametrize(
    ("url", "events", "field"),
    [
        ("ftp://example.com/", (), "url"),
        ("http://example.com:22/", (), "url"),
        ("http://user:password@example.com/", (), "url"),
        ("no link", (), "url"),
        ("https://example.com/", ("job.exploded",), "events"),
    ],
)
def test_a_bad_webhook_is_refused(
    post: Post, url: str, events: tuple[str, ...], field: str
) -> None:
    with pytest.raises(InvalidParams) as refused, post.stage.sessions.begin() as session:
        webhooks.create(session, post.stage.gateway_id, url, events, post.rules)
    assert [error.field for error in refused.value.errors] == [field]


def test_webhooks_are_few_and_ones_own(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MAX_WEBHOOKS", 2)
    post.listen()
    with pytest.raises(TooManyWebhooks, match="2 webhooks at most"):
        post.listen()
    with post.stage.sessions.begin() as session:
        other = accounts.create_gateway(session, "other", "USD")
        for act in (webhooks.find, webhooks.remove, webhooks.rotate, webhooks.enable):
            with pytest.raises(UnknownWebhook):
                act(session, other.id, post.webhook.id)
        with pytest.raises(UnknownWebhook):
            webhooks.find(session, post.stage.gateway_id, UUID(int=0))
        with pytest.raises(UnknownDelivery):
            webhooks.replay(session, post.webhook.id, 4711)


def test_webhooks_that_are_made_at_once_are_counted_too(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_WEBHOOKS", 3)
    racers = 12
    start = threading.Barrier(racers)

    def listen(_: int) -> bool:
        start.wait(30)
        try:
            post.listen()
        except TooManyWebhooks:
            return False
        return True

    with ThreadPoolExecutor(racers) as pool:
        made = list(pool.map(listen, range(racers)))
    # The post has one of its own.
    assert made.count(True) == 2
    assert post.stage.scalar("SELECT count(*) FROM webhooks") == 3


def listen_on(stage: Stage, *topics: str) -> None:
    with stage.sessions.begin() as session:
        webhooks.listen_on(session, topics)


def topic_rows(stage: Stage) -> list[tuple[str, bool]]:
    with as_owner(stage.sessions) as session:
        rows = session.execute(
            text("SELECT target, disabled_at IS NULL FROM webhooks WHERE kind = 'sns' ORDER BY 1")
        )
        return [(row[0], row[1]) for row in rows]


def test_the_topics_are_those_of_the_setting(stage: Stage) -> None:
    other = f"{TOPIC}-2"
    for topics, rows in (
        ((TOPIC,), [(TOPIC, True)]),
        ((TOPIC,), [(TOPIC, True)]),
        ((other,), [(TOPIC, False), (other, True)]),
        ((), [(TOPIC, False), (other, False)]),
        ((TOPIC,), [(TOPIC, True), (other, False)]),
    ):
        listen_on(stage, *topics)
        assert topic_rows(stage) == rows


def test_a_topic_is_told_of_every_gateways_jobs_by_sns_itself(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small server that speaks the Publish call of SNS."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    refused = b"<ErrorResponse><Error><Code>NotFound</Code></Error></ErrorResponse>"
    accepted = (
        b"<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult>"
        b"</PublishResponse>"
    )
    said = [(404, refused), (200, accepted)]

    with post.stage.sessions.begin() as session:
        webhooks.remove(session, post.stage.gateway_id, post.webhook.id)
    listen_on(post.stage, TOPIC)
    job = canceled(post.stage)
    with serving(lambda handler, _: handler.give(*said.pop(0), Content_Type="text/xml")) as sns:
        courier = post.courier(Topics(sns.url(), 5).publish)
        courier.deliver()
        error = post.stage.scalar("SELECT error FROM webhook_deliveries")
        assert error == "SNS refuses the message: NotFound."
        post.due_now()
        courier.deliver()
    assert post.stage.scalar("SELECT state FROM webhook_deliveries") == "delivered"
    asked = {name: values[0] for name, values in parse_qs(sns.visits[-1].body.decode()).items()}
    assert (asked["Action"], asked["TopicArn"]) == ("Publish", TOPIC)
    message = json.loads(asked["Message"])
    assert (message["type"], message["data"]["id"]) == ("job.canceled", str(job.id))
    assert asked["MessageAttributes.entry.1.Value.StringValue"] == "job.canceled"
    assert "eu-west-1" in sns.visits[-1].headers["authorization"]


def test_a_topic_that_is_away_or_no_topic_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with pytest.raises(PublishFailed, match="does not answer"):
        Topics("http://127.0.0.1:9", 1).publish(TOPIC, "{}", {})
    with pytest.raises(PublishFailed, match="not the ARN"):
        Topics("", 1).publish("arn:aws:sqs:eu-west-1:1:x", "{}", {})
