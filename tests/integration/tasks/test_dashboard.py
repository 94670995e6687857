"""Flower's health check: it is well while events come through the broker, and not for answering."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Queue

import pytest
from celery import Celery
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application, RequestHandler

from tasks import dashboard
from tasks.app import make_celery
from tasks.probe import Pulse
from tasks.settings import TaskSettings
from tests.stage import eventually
from tests.support import Servers


class Counted(Pulse):
    """One that says how often it beat."""

    def __init__(self) -> None:
        super().__init__(limit_s=30)
        self.beats = 0

    def beat(self) -> None:
        super().beat()
        self.beats += 1


@pytest.fixture
def app(servers: Servers) -> Celery:
    return make_celery(TaskSettings(redis_url=servers.redis(14)))


@pytest.fixture
def heard() -> Queue[str]:
    return Queue()


@pytest.fixture
def pulse(app: Celery, heard: Queue[str]) -> Iterator[Counted]:
    """The pulse of somebody who listens to events, as Flower does, and hands them on."""
    pulse = Counted()
    with app.connection() as connection:
        handlers = {"*": lambda event: heard.put(event["type"])}
        receiver = dashboard.hearing(pulse)(connection, handlers=handlers, app=app)
        listening = threading.Thread(target=receiver.capture)
        listening.start()
        yield pulse
        receiver.should_stop = True
        dashboard.send_event(app)  # which it wakes up by
        listening.join()


def test_our_own_event_is_a_beat_and_is_shown_to_nobody(
    app: Celery, pulse: Counted, heard: Queue[str]
) -> None:
    def has_beaten() -> bool:
        # What is sent before somebody listens is heard by nobody.
        dashboard.send_event(app)
        return pulse.beats > 0

    eventually(has_beaten)
    with app.events.default_dispatcher() as others:
        others.send("worker-heartbeat")
    assert heard.get(timeout=10) == "worker-heartbeat"
    assert heard.empty()


class TestHealth(AsyncHTTPTestCase):
    """What the page answers, over HTTP."""

    def get_app(self) -> Application:
        class Page(RequestHandler):
            def get(self, limit_s: str) -> None:
                dashboard.say_health(self, Pulse(float(limit_s)))

        return Application([(r"/(.*)", Page)])

    def test_somebody_who_hears_is_well(self) -> None:
        answer = self.fetch("/30")
        assert (answer.code, answer.body) == (200, b"OK")

    def test_somebody_who_has_heard_nothing_for_too_long_is_not(self) -> None:
        answer = self.fetch("/-1")
        assert answer.code == 503
        assert answer.body == b"No event has come through the broker for 0 s."
