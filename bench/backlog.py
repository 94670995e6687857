"""The rows that the benches work on: who pays, who offers, and queues of any depth.

A deep queue is made in SQL by copying one job that was really submitted, so every copy has a hold
of its own and may be claimed, charged and canceled like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session, sessionmaker

from bench.engines import SIDE, Model
from ledger import accounts, limits, offers
from ledger.db import Base
from ledger.limits import Limit
from ledger.money import UnitPrice, unit_price
from ledger.offers import Capability
from ledger.tables import Charge, Hold
from tasks import jobs, routing
from tasks.params import Generation
from tasks.tables import Job

CURRENCY = "USD"
OWNER = "bench"
_PIPELINE = "text-to-image"
_FUNDS = Decimal(1_000_000)


def open_books(session: Session, models: Iterable[Model]) -> UUID:
    """Make a gateway that can pay and an orchestrator that offers `models`; returns the gateway."""
    owner = accounts.create_orchestrator(session, OWNER, CURRENCY, Decimal("0.1"))
    for model in models:
        capability = Capability(_PIPELINE, model.model_id)
        offers.publish(session, owner.id, capability, _price(), CURRENCY)
    return add_gateway(session, OWNER)


def add_gateway(session: Session, name: str) -> UUID:
    """Make a gateway that can pay for whatever a bench submits; returns its id."""
    gateway = accounts.create_gateway(session, name, CURRENCY)
    accounts.top_up(session, gateway.id, _FUNDS, reference=name)
    limits.set_limit(session, gateway.id, Limit(None, None, _price()), CURRENCY)
    return gateway.id


def _price() -> UnitPrice:
    return unit_price("0.000000019073484", 1, CURRENCY)


def queue(model: Model) -> str:
    """Return the queue of a model's jobs."""
    return routing.queue_name(Capability(_PIPELINE, model.model_id), OWNER)


def order(gateway_id: UUID, model: Model) -> jobs.Order:
    """Return an order for one small picture."""
    generation = Generation(
        pipeline=_PIPELINE,
        model_id=model.model_id,
        prompt="a red bicycle leaning against a blue door in the rain",
        negative_prompt="",
        width=SIDE,
        height=SIDE,
        num_images_per_prompt=1,
        num_inference_steps=4,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        strength=0.8,
        seed=1,
    )
    return jobs.Order(gateway_id, generation, request_hash=bytes(32), deadline_s=86_400)


_FRESH = """
CREATE TEMPORARY TABLE fresh ON COMMIT DROP AS
SELECT n, uuidv7() AS job_id, uuidv7() AS hold_id
  FROM generate_series(1, :count) AS n
"""
_ENTER = """
WITH source AS (
    SELECT holds.currency, accounts.id AS account_id,
           CASE kind WHEN 'held' THEN amount ELSE -amount END AS amount
      FROM holds JOIN accounts ON accounts.gateway_id = holds.gateway_id
     WHERE holds.id = :hold_id
), entry AS (
    INSERT INTO entries (kind, currency, hold_id)
    SELECT 'hold', currency, hold_id FROM fresh, (SELECT DISTINCT currency FROM source) AS own
     ORDER BY n
    RETURNING id
), posting AS (
    INSERT INTO postings (entry_id, account_id, amount)
    SELECT entry.id, account_id, amount FROM entry, source ORDER BY entry.id
)
UPDATE accounts SET balance = balance + :count * source.amount FROM source
 WHERE source.account_id = accounts.id AND accounts.kind = 'available'
"""


def deepen(
    sessions: sessionmaker[Session],
    gateway_id: UUID,
    model: Model,
    count: int,
    batch_keys: int = 1,
) -> Job:
    """Queue `count` more jobs, of `batch_keys` kinds in turn that may not run together.

    Returns the first of them, the one that was submitted.
    """
    with sessions.begin() as session:
        job, _ = jobs.submit(session, order(gateway_id, model))
        copies = {"count": count - 1, "hold_id": job.hold_id}
        # Triggers would check each copy by itself, which takes minutes for a million.
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("SET LOCAL statement_timeout = 0"))
        session.execute(text(_FRESH), copies)
        session.execute(text(_ENTER), copies)
        changes = {"id": "fresh.hold_id", "reference": "fresh.job_id::text"}
        session.execute(text(_copies(Hold, changes)), {"source": job.hold_id})
        changes = {"id": "fresh.job_id", "hold_id": "fresh.hold_id"}
        if batch_keys > 1:
            kind = f"fresh.n % {batch_keys}"
            changes["batch_key"] = (
                f"CASE {kind} WHEN 0 THEN source.batch_key ELSE 'kind-' || {kind} END"
            )
        session.execute(text(_copies(Job, changes)), {"source": job.id})
    return job


def _copies(row: type[Base], changes: Mapping[str, str]) -> str:
    """Return the statement that copies a row once for each row of `fresh`, with changes."""
    names = [column.name for column in row.__table__.columns]
    table, into = row.__tablename__, ", ".join(names)
    values = ", ".join(changes.get(name, f"source.{name}") for name in names)
    return (
        f"INSERT INTO {table} ({into}) SELECT {values} FROM fresh, {table} AS source"
        " WHERE source.id = :source ORDER BY fresh.n"
    )


def settle_down(engine: Engine) -> None:
    """Do what autovacuum would do soon after so many rows came, so that it does not do it later."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE jobs, holds, entries, postings, accounts"))
        connection.execute(text("CHECKPOINT"))


_IMBALANCE = """
SELECT (SELECT count(*) FROM (SELECT currency FROM ledger_trial_balance
                               GROUP BY currency HAVING sum(balance) <> 0) AS unbalanced)
     + (SELECT count(*) FROM accounts a WHERE balance <>
        (SELECT coalesce(sum(amount), 0) FROM postings WHERE account_id = a.id))
"""


def check_books(sessions: sessionmaker[Session]) -> None:
    """Stop the bench if speed was bought with the books: a figure without its sums is no figure."""
    with sessions.begin() as session:
        assert not session.scalar(text(_IMBALANCE)), "the book does not balance"
        states = dict(
            session.execute(select(Job.state, func.count()).group_by(Job.state)).tuples().all()
        )
        unresolved = session.scalar(select(func.count()).where(Hold.state == "open"))
        waiting = states.get("queued", 0) + states.get("running", 0)
        assert unresolved == waiting, f"{waiting} jobs wait, {unresolved} holds are open"
        charged = session.scalar(select(func.count()).select_from(Charge))
        assert charged == states.get("succeeded", 0), f"{states} but {charged} charges"
