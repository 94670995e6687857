"""A small market to play jobs in: a gateway, an orchestrator, two models, and their parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts, limits, offers
from ledger.limits import Limit
from ledger.money import UnitPrice, unit_price
from ledger.offers import Capability
from ledger.tables import Hold
from tasks import catalog, claims, jobs, params, registration, routing, workers
from tasks.catalog import Catalog, ModelSpec
from tasks.engine.protocol import Engine
from tasks.generate import Runner
from tasks.jobs import Order
from tasks.leases import Leases
from tasks.runtime import Runtime
from tasks.settings import TaskSettings
from tasks.speeds import Speeds
from tasks.storage import ObjectStore
from tasks.tables import Job, Output
from tests.databases import as_owner

Found = TypeVar("Found")

TEXT, IMAGE = "text-to-image", "image-to-image"
SMALL, OTHER, UNLOADABLE = "acme/small", "acme/other", "acme/unloadable"
OWNER = "rig"
PRICE = unit_price("1.9073484e-08")
FUNDS = Decimal(10)
DAY = timedelta(days=1)
SIDE = 64
_ORDER = (
    "deadline_s",
    "request_hash",
    "input_key",
    "max_price",
    "priority",
    "idempotency_key",
    "callback",
)
_TOML = """
[[model]]
model_id = "{model_id}"
source = "none"
layout = "stable-diffusion"
pipelines = ["text-to-image", "image-to-image"]
default_width = {side}
default_height = {side}
max_size = 512
default_steps = 4
max_images = 16
max_batch = 4
"""


def write_catalog(path: Path) -> Path:
    """Write the market's models to a catalog file."""
    entries = (_TOML.format(model_id=name, side=SIDE) for name in (SMALL, OTHER, UNLOADABLE))
    path.write_text("".join(entries), "utf-8")
    return path


def queue(model_id: str = SMALL, pipeline: str = TEXT, owner: str = OWNER) -> str:
    return routing.queue_name(Capability(pipeline, model_id), owner)


@dataclass(frozen=True)
class Stage:
    """The market, and what a test does in it. Every method is a transaction of its own."""

    sessions: sessionmaker[Session]
    settings: TaskSettings
    catalog: Catalog
    gateway_id: UUID
    orchestrator_id: UUID

    def generation(self, prompt: str = "a cat", **asked: Any) -> params.Generation:
        asked = {"pipeline": TEXT, "model_id": SMALL, "seed": 7, **asked}
        size = asked.pop("image_size", None)
        spec: ModelSpec = self.catalog.get(asked["model_id"])
        return params.validate(spec, params.Request(prompt=prompt, **asked), 0, size)

    def order(self, prompt: str = "a cat", **asked: Any) -> Order:
        facts = {"deadline_s": 3600.0, "request_hash": prompt.encode(), **asked}
        given = {name: facts.pop(name) for name in _ORDER if name in facts}
        return Order(self.gateway_id, self.generation(prompt, **facts), **given)

    def submit(self, prompt: str = "a cat", **asked: Any) -> Job:
        with self.sessions.begin() as session:
            job, _ = jobs.submit(session, self.order(prompt, **asked))
        return job

    def claim(self, most: int = 4, lease_s: float = 30, worker: str = "w") -> list[Job]:
        with self.sessions.begin() as session:
            return claims.claim(session, queue(), worker, most, lease_s)

    def job(self, job_id: UUID) -> Job:
        with self.sessions.begin() as session:
            return jobs.find(session, self.gateway_id, job_id)

    def states(self, some: Sequence[Job]) -> list[str]:
        return [self.job(job.id).state for job in some]

    def cancel(self, job: Job) -> None:
        with self.sessions.begin() as session:
            jobs.cancel(session, self.gateway_id, job.id)

    def hold(self, job: Job) -> Hold:
        with self.sessions.begin() as session:
            return session.get_one(Hold, job.hold_id)

    def balance(self) -> accounts.Balance:
        with self.sessions.begin() as session:
            return accounts.balance(session, self.gateway_id)

    def heartbeat(
        self,
        worker: str = "w",
        *,
        queues: Sequence[str] = (),
        loaded: Sequence[str] = (),
        speeds: Mapping[str, float] | None = None,
        owner: UUID | None = None,
    ) -> None:
        """Let a worker live, of the first orchestrator unless it is another's."""
        whose = owner or self.orchestrator_id
        with self.sessions.begin() as session:
            workers.heartbeat(session, worker, whose, queues, loaded, speeds)

    def execute(self, statement: str, **values: object) -> None:
        with self.sessions.begin() as session:
            session.execute(text(statement), values)

    @contextmanager
    def broken(self, table: str, column: str = "") -> Iterator[None]:
        """Make every statement fail that asks for a table, or for one column of it."""
        what, away = (f"COLUMN {column} ", f"{column}_away") if column else ("", f"{table}_away")
        with as_owner(self.sessions) as session:
            session.execute(text(f"ALTER TABLE {table} RENAME {what}TO {away}"))
        try:
            yield
        finally:
            there = (
                f"{table} RENAME COLUMN {away} TO {column}"
                if column
                else f"{away} RENAME TO {table}"
            )
            with as_owner(self.sessions) as session:
                session.execute(text(f"ALTER TABLE {there}"))

    def scalar(self, query: str, **values: object) -> object:
        with self.sessions.begin() as session:
            return session.scalar(text(query), values)

    def outputs(self, job: Job) -> list[Output]:
        with self.sessions.begin() as session:
            query = select(Output).where(Output.job_id == job.id).order_by(Output.index)
            return list(session.scalars(query))

    def runner(
        self, engine: Engine, store: ObjectStore, *, models: Sequence[str] = (SMALL, OTHER)
    ) -> tuple[Runner, Runtime]:
        runtime = Runtime(
            worker_id="w",
            orchestrator_id=self.orchestrator_id,
            queues=tuple(queue(name, pipeline) for name in models for pipeline in (TEXT, IMAGE)),
            sessions=self.sessions,
            store=store,
            engine=engine,
            catalog=self.catalog,
            settings=self.settings,
            leases=Leases(self.sessions, self.settings.lease_s),
            speeds=Speeds(),
        )
        return Runner(runtime), runtime


def furnish(sessions: sessionmaker[Session], settings: TaskSettings, catalog_path: Path) -> Stage:
    """Open the market."""
    with sessions.begin() as session:
        gateway = accounts.create_gateway(session, "studio", "USD")
        owner = accounts.create_orchestrator(session, OWNER, "USD", Decimal("0.10"))
        accounts.top_up(session, gateway.id, FUNDS, "first")
        for model_id in (SMALL, OTHER, UNLOADABLE):
            for pipeline in (TEXT, IMAGE):
                offer(session, owner.id, Capability(pipeline, model_id), PRICE)
        limits.set_limit(session, gateway.id, Limit(None, None, None), "USD")
        _, key = registration.create_key(session, owner.id, OWNER)
    settings = settings.model_copy(update={"orchestrator_key": SecretStr(key)})
    return Stage(sessions, settings, catalog.load(catalog_path), gateway.id, owner.id)


def offer(
    session: Session, orchestrator_id: UUID, capability: Capability, price: UnitPrice
) -> None:
    offers.publish(session, orchestrator_id, capability, price, "USD")


def eventually(condition: Callable[[], Found], within_s: float = 30) -> Found:
    """Wait until something is so that no event tells of: the state of another process."""
    end = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not so after {within_s} s"
        time.sleep(0.05)
    return found
