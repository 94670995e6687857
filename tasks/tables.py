"""The rows of jobs, their outputs, and the workers that run them.

The row is the job; a queue message only rings for it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship
from sqlalchemy.types import String

from ledger.db import Base
from ledger.tables import Hold, Orchestrator

_QUEUED = text("state = 'queued'")
_RUNNING = text("state = 'running'")


class Job(Base):
    """An accepted request: what to make, who pays and who runs it, and how far it is."""

    __tablename__ = "jobs"
    __table_args__ = (
        # A worker takes the head of a queue, and then what shares the head's batch key.
        Index("ix_jobs_queue_head", "queue", text("priority DESC"), "id", postgresql_where=_QUEUED),
        Index(
            "ix_jobs_batch",
            "queue",
            "batch_key",
            text("priority DESC"),
            "id",
            postgresql_where=_QUEUED,
        ),
        Index("ix_jobs_lease", "lease_expires_at", postgresql_where=_RUNNING),
        Index(
            "ix_jobs_deadline",
            "deadline",
            postgresql_where=text("state IN ('queued', 'running')"),
        ),
        Index("ix_jobs_unswept", "finished_at", postgresql_where=text("NOT swept")),
        Index(
            "ix_jobs_kept",
            "finished_at",
            postgresql_where=text("kept AND finished_at IS NOT NULL"),
        ),
        Index("ix_jobs_gateway_id_id", "gateway_id", text("id DESC")),
        Index(
            "uq_jobs_idempotency",
            "gateway_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    gateway_id: Mapped[UUID] = mapped_column(ForeignKey("gateways.id"))
    orchestrator_id: Mapped[UUID] = mapped_column(ForeignKey("orchestrators.id"))
    hold_id: Mapped[UUID] = mapped_column(ForeignKey("holds.id"), unique=True)
    idempotency_key: Mapped[str | None]
    request_hash: Mapped[bytes] = mapped_column(LargeBinary)
    pipeline: Mapped[str]
    model_id: Mapped[str]
    queue: Mapped[str]
    batch_key: Mapped[str]
    params: Mapped[dict[str, Any]] = mapped_column(JSONB)
    input_key: Mapped[str | None]
    num_images: Mapped[int]
    units: Mapped[int] = mapped_column(BigInteger)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    state: Mapped[str] = mapped_column(server_default=text("'queued'"))
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    # How many of the attempts were given back by a worker that was told to leave.
    handed_back: Mapped[int] = mapped_column(server_default=text("0"))
    worker_id: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    available_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )
    rung_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    deadline: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    step: Mapped[int] = mapped_column(server_default=text("0"))
    steps: Mapped[int] = mapped_column(server_default=text("0"))
    # What a running job is at: "loading" its model, or "drawing" its pictures.
    phase: Mapped[str | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # What its end is told with: the gateway's own `context`, and what a dialect adds to it.
    callback: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    # Where its trace goes on, if there is one.
    traceparent: Mapped[str | None] = mapped_column(String(55))
    # False while a lost attempt may have left objects behind that no output names.
    swept: Mapped[bool] = mapped_column(server_default=text("true"))
    # False once its pictures, which had their time, are deleted.
    kept: Mapped[bool] = mapped_column(server_default=text("true"))

    orchestrator: Mapped[Orchestrator] = relationship(lazy="raise", viewonly=True)
    hold: Mapped[Hold] = relationship(lazy="raise", viewonly=True)
    outputs: Mapped[list[Output]] = relationship(
        lazy="raise", viewonly=True, order_by="Output.index"
    )
    stems: Mapped[list[ResultStem]] = relationship(lazy="raise", viewonly=True)

    @property
    def tries(self) -> int:
        """How many attempts count: being handed back speaks against no job."""
        return self.attempt - self.handed_back


class Output(Base):
    """One produced picture: where its bytes are, and what they are."""

    __tablename__ = "outputs"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    key: Mapped[str] = mapped_column(unique=True)
    seed: Mapped[int] = mapped_column(BigInteger)
    nsfw: Mapped[bool | None]
    width: Mapped[int]
    height: Mapped[int]
    content_type: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[bytes] = mapped_column(LargeBinary)


class ResultStem(Base):
    """What the keys of all results of one attempt of a task begin with; never used again."""

    __tablename__ = "result_stems"
    __table_args__ = (UniqueConstraint("job_id", "attempt"),)

    stem: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int]


class GatewayPolicy(Base):
    """What a gateway wants of pictures that the safety checker flags; without a row: flag."""

    __tablename__ = "gateway_policies"

    gateway_id: Mapped[UUID] = mapped_column(ForeignKey("gateways.id"), primary_key=True)
    safety: Mapped[str]


class Worker(Base):
    """A live worker process: whose it is, which queues it serves, and what it has in memory.

    `speeds` has the measured units a second of each queue that it has run a job of, and `memory`
    the bytes of its models in each of its memories, with their budgets. When it was told to take no
    more jobs is `draining_at`; when it was done with the last one, `left_at`.
    """

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    orchestrator_id: Mapped[UUID] = mapped_column(ForeignKey("orchestrators.id"))
    queues: Mapped[list[str]] = mapped_column(ARRAY(String))
    loaded: Mapped[list[str]] = mapped_column(ARRAY(String))
    speeds: Mapped[dict[str, float]] = mapped_column(JSONB, server_default=text("'{}'"))
    memory: Mapped[dict[str, int]] = mapped_column(JSONB, server_default=text("'{}'"))
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    heartbeat_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )
    draining_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    left_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class OrchestratorKey(Base):
    """The key that an orchestrator's workers register with: its public id and a hash."""

    __tablename__ = "orchestrator_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    orchestrator_id: Mapped[UUID] = mapped_column(ForeignKey("orchestrators.id"), index=True)
    name: Mapped[str]
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Webhook(Base):
    """Who is told of the ends of jobs: a gateway's URL, or a topic, which is told of everybody's.

    Of two secrets, the old one signs as well until its time is over.
    """

    __tablename__ = "webhooks"
    __table_args__ = (
        Index("uq_webhooks_topic", "target", unique=True, postgresql_where=text("kind = 'sns'")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    gateway_id: Mapped[UUID | None] = mapped_column(ForeignKey("gateways.id"), index=True)
    kind: Mapped[str]
    target: Mapped[str]
    events: Mapped[list[str]] = mapped_column(ARRAY(String))
    secret: Mapped[str | None]
    old_secret: Mapped[str | None]
    old_secret_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    # When it was last served: the others come first.
    turn_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    failing_since: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    disabled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    disabled_why: Mapped[str | None]


class WebhookDelivery(Base):
    """What a webhook is to be told of one job, and how far that has come."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("job_id", "webhook_id"),
        Index(
            "ix_webhook_deliveries_due",
            "webhook_id",
            "next_at",
            postgresql_where=text("state = 'pending'"),
        ),
        Index(
            "ix_webhook_deliveries_leased",
            "webhook_id",
            postgresql_where=text("leased_until IS NOT NULL"),
        ),
        Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", text("id DESC")),
        Index(
            "ix_webhook_deliveries_ended", "tried_at", postgresql_where=text("state <> 'pending'")
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    webhook_id: Mapped[UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    event: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'pending'"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    # Since when it is to be delivered: its creation, or its last replay.
    wanted_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    next_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    leased_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    tried_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    status: Mapped[int | None]
    error: Mapped[str | None]
