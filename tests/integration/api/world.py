"""What the API's tests stand in: gateways, an orchestrator with offers, and an app over them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import redis
from flask import Flask
from PIL import Image
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from werkzeug.test import TestResponse

from api import auth
from api.runtime import Runtime
from ledger import accounts, limits, offers
from ledger.limits import Limit
from ledger.money import unit_price
from ledger.offers import Capability
from tasks import claims, workers
from tasks.catalog import Catalog, ModelSpec, Pipeline
from tasks.claims import NewOutput
from tasks.names import ModelRuntime
from tasks.routing import queue_name
from tasks.storage import ObjectStore
from tasks.tables import Job
from tests.integration.api.conformance import CheckedClient

MODEL = "test/sd"
UNSOLD = "test/unsold"
EDITOR = "test/editor"
UPSCALER, LANCZOS = "test/x4", "test/lanczos"
PRICE = "0.000000019073484"
ADMIN_KEY = "the-admin-key"
ORCHESTRATOR = "north"
MAX_BODY_BYTES = 1_000_000

BOTH: tuple[Pipeline, ...] = ("text-to-image", "image-to-image")
CHECKPOINT = "v1-5-pruned-emaonly.safetensors"

CATALOG = Catalog(
    (
        *(
            ModelSpec(
                model_id=model_id,
                source="unused",
                layout="stable-diffusion",
                pipelines=BOTH[1:] if model_id == EDITOR else BOTH,
                aliases=(CHECKPOINT,) if model_id == MODEL else (),
                default_width=256,
                default_height=256,
                max_size=512,
                default_steps=8,
                max_steps=100,
                max_images=16,
                max_prompt_chars=200,
            )
            for model_id in (MODEL, UNSOLD, EDITOR)
        ),
        ModelSpec(
            UPSCALER,
            "unused",
            "upscaler",
            ("upscale",),
            max_size=512,
            size_multiple=1,
            default_steps=4,
        ),
        ModelSpec(
            LANCZOS,
            "lanczos",
            "resampling",
            ("upscale",),
            aliases=("Lanczos",),
            min_size=1,
            max_size=1024,
            size_multiple=1,
            default_steps=1,
            run_steps=(1, 1),
            max_images=1,
        ),
    ),
    (
        ModelRuntime("sdruntime", (MODEL, UNSOLD), dynamic=True),
        ModelRuntime("fixed", (MODEL,)),
        ModelRuntime("unsold", (UNSOLD,)),
        ModelRuntime("northern", (MODEL,), orchestrator=ORCHESTRATOR),
        ModelRuntime("southern", (MODEL,), orchestrator="south"),
    ),
)

GOOD: dict[str, Any] = {"pipeline": "text-to-image", "model_id": MODEL, "prompt": "a fox"}
FROM_IMAGE: dict[str, Any] = {"pipeline": "image-to-image", "model_id": MODEL, "prompt": "a fox"}


def png(width: int = 64, height: int = 64) -> bytes:
    """A picture."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True)
class World:
    """An app with its parts, a gateway that can pay, and another one."""

    app: Flask
    runtime: Runtime
    sessions: sessionmaker[Session]
    redis_url: str
    gateway_id: UUID
    key: str
    other_key: str
    revoked_key: str
    poor_key: str

    def client(self, key: str | None = None) -> CheckedClient:
        """A client of the gateway, or with another key; "" is none."""
        client = self.app.test_client()
        assert isinstance(client, CheckedClient)
        bearer = self.key if key is None else key
        if bearer:
            client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {bearer}"
        return client

    def submit(self, **changes: Any) -> dict[str, Any]:
        """Submit a job that is accepted; returns it."""
        response = self.client().post("/v1/jobs", json={**GOOD, **changes})
        assert response.status_code == 202, response.text
        found: dict[str, Any] = response.json
        return found

    def traces(self) -> dict[str, object]:
        """Count everything that a request may leave behind."""
        with self.sessions() as session:
            found: dict[str, object] = {
                table: session.scalar(text(f"SELECT count(*) FROM {table}"))
                for table in ("jobs", "holds", "entries", "postings")
            }
            found["held"] = session.scalar(
                text("SELECT sum(balance) FROM ledger_balances WHERE account = 'held'")
            )
        found["objects"] = [stored.key for stored in self.store.list("")]
        with redis.Redis.from_url(self.redis_url) as broker:
            found["bells"] = broker.llen(self.queue)
        return found

    @property
    def store(self) -> ObjectStore:
        return self.runtime.store

    @property
    def queue(self) -> str:
        return queue_name(Capability("text-to-image", MODEL), ORCHESTRATOR)

    def change(self, what: Callable[[Session], object]) -> None:
        """Change something in the database."""
        with self.sessions.begin() as session:
            what(session)

    def sell_upscaling(self) -> None:
        """Let the orchestrator offer to make pictures larger."""

        def publish(session: Session) -> None:
            owner = accounts.find_orchestrator(session, ORCHESTRATOR)
            for model_id in (UPSCALER, LANCZOS):
                capability = Capability("upscale", model_id)
                offers.publish(session, owner.id, capability, unit_price(PRICE), "USD")

        self.change(publish)

    def set_limit(self, price: str | None) -> None:
        """Give the gateway this one limit; None is any price."""
        limit = Limit(None, None, None if price is None else unit_price(price))
        self.change(lambda session: limits.replace_limits(session, self.gateway_id, [limit], "USD"))

    def wake(self, *, warm: bool = False) -> None:
        """Let a worker of the text-to-image queue be up."""
        loaded = [MODEL] if warm else []

        def beat(session: Session) -> None:
            owner = accounts.find_orchestrator(session, ORCHESTRATOR)
            workers.heartbeat(session, "w1", owner.id, [self.queue], loaded)

        self.change(beat)

    def claim(self) -> Job:
        """Take the head of the queue as a worker would."""
        with self.sessions.begin() as session:
            return claims.claim(session, self.queue, "w1", 16, 30)[0]

    def succeed(self, data: bytes = b"", name: str = "a-name-that-nobody-guesses.png") -> Job:
        """Run the head of the queue to its end, with this picture."""
        job = self.claim()
        key = f"outputs/{job.id}/{job.attempt}/{name}"
        self.store.put(key, data, "image/png")
        output = _output(name, key, data, job)
        self.change(lambda session: claims.succeed(session, {(job.id, job.attempt): [output]}))
        return job


def _output(name: str, key: str, data: bytes, job: Job) -> NewOutput:
    return NewOutput(
        index=0,
        name=name,
        key=key,
        seed=job.params["seed"],
        nsfw=None,
        width=256,
        height=256,
        content_type="image/png",
        size_bytes=len(data),
        sha256=hashlib.sha256(data).digest(),
    )


def furnish(sessions: sessionmaker[Session]) -> tuple[UUID, str, str, str, str]:
    """Make gateways and offers.

    Returns the first gateway, its key, another gateway's, a revoked one, and one of a gateway that
    has a tenth of a cent.
    """
    with sessions.begin() as session:
        first = accounts.create_gateway(session, "first", "USD")
        second = accounts.create_gateway(session, "second", "USD")
        accounts.top_up(session, first.id, Decimal(10), "opening")
        poor = accounts.create_gateway(session, "third", "USD")
        accounts.top_up(session, poor.id, Decimal("0.001"), "pocket money")
        for gateway in (first, poor):
            limit = Limit(None, None, unit_price(PRICE))
            limits.replace_limits(session, gateway.id, [limit], "USD")
        owner = accounts.create_orchestrator(session, ORCHESTRATOR, "USD", Decimal("0.1"))
        for pipeline in ("text-to-image", "image-to-image"):
            capability = Capability(pipeline, MODEL)
            offers.publish(session, owner.id, capability, unit_price(PRICE), "USD")
        _, key = auth.create_key(session, first.id, "k")
        _, other = auth.create_key(session, second.id, "k")
        row, revoked = auth.create_key(session, first.id, "k")
        auth.revoke_key(session, first.id, row.id)
        _, pocket = auth.create_key(session, poor.id, "k")
        return first.id, key, other, revoked, pocket


def problem(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """Assert that a response is this problem; returns its body."""
    body: dict[str, Any] = response.get_json()
    assert (response.status_code, body["code"]) == (status, code), response.text
    assert response.mimetype == "application/problem+json"
    assert body["status"] == status
    assert body["detail"]
    return body
