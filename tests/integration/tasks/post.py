"""A gateway's webhook, a receiver that does as a test says, and couriers between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from api import messages
from tasks import claims, webhooks
from tasks.delivery import Courier
from tasks.outbound import Outbound
from tasks.places import Rules
from tasks.storage import ObjectStore
from tasks.tables import Job, Webhook, WebhookDelivery
from tests.integration.pixeltoll.helpers import outputs
from tests.stage import Stage
from tests.web import Handler, Visit, Web

HOST = "https://pixels.example"


def nothing(*_: object) -> None:
    raise AssertionError("nothing is published")


class Receiver:
    """Answers as it is told, and lets a test come between a request and its answer."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self, handler: Handler, _: Visit) -> None:
        self.meanwhile()
        handler.give(self.statuses.pop(0) if self.statuses else 204)


class Post:
    """A gateway's webhook, and couriers that deliver to it."""

    def __init__(self, stage: Stage, web: Web) -> None:
        self.stage = stage
        self.web = web
        self.rules = Rules(trusted=frozenset({f"127.0.0.1:{web.port}"}))
        self.settings = stage.settings.model_copy(update={"webhook_timeout_s": 5.0})
        self.webhook = self.listen()

    def listen(self, *events: str) -> Webhook:
        with self.stage.sessions.begin() as session:
            return webhooks.create(
                session, self.stage.gateway_id, self.web.url("/hook"), events, self.rules
            )

    def courier(self, publish: Callable[..., None] = nothing, **settings: float) -> Courier:
        return Courier(
            self.stage.sessions,
            Outbound(self.rules),
            publish,
            messages.renderer(HOST),
            self.settings.model_copy(update=settings),
            ObjectStore.from_settings(self.settings),
        )

    def log(self) -> list[WebhookDelivery]:
        with self.stage.sessions.begin() as session:
            return webhooks.deliveries(session, self.webhook.id, limit=100)

    def row(self) -> Webhook:
        with self.stage.sessions.begin() as session:
            return webhooks.find(session, self.stage.gateway_id, self.webhook.id)

    def due_now(self) -> None:
        self.stage.execute("UPDATE webhook_deliveries SET next_at = now(), leased_until = NULL")

    def succeed(self, **asked: Any) -> Job:
        job = self.stage.submit(**asked)
        [claimed] = self.stage.claim()
        with self.stage.sessions.begin() as session:
            claims.succeed(session, {(job.id, claimed.attempt): outputs(claimed)})
        return job


def canceled(stage: Stage) -> Job:
    job = stage.submit()
    stage.cancel(job)
    return job
