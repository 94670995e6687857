"""Books of any depth: a year of many gateways' jobs, charged and posted.

A few jobs are really held and captured, and then copied in SQL, so every copy has its entries,
postings and charge, and the audit finds nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts, holds, limits, offers, snapshots
from ledger.db import Base
from ledger.limits import Limit
from ledger.money import unit_price
from ledger.offers import Capability
from ledger.tables import Charge, Hold

_CURRENCY = "USD"
_FUNDS = Decimal(100_000_000)
_UNITS = 1024 * 1024
_GATEWAYS, _ORCHESTRATORS, _MODELS = 20, 5, 10
_POSTINGS_OF_A_JOB = 5  # Two of its hold; three of its capture, of which the fee is one.
_DAYS = 365

# The n-th copy of a source is n of the steps of a year ago. Ids follow those that are there.
_FRESH = """
CREATE TEMPORARY TABLE fresh ON COMMIT DROP AS
SELECT source.hold_id AS source_id, source.held, source.captured,
       uuidv7(make_interval(days => :days) * (n::float / :copies - 1)) AS hold_id,
       source.hold_id::text || '-' || n AS reference,
       (SELECT max(id) FROM entries) + 2 * row_number() OVER (ORDER BY n, source.hold_id) AS entry,
       now() + make_interval(days => :days) * (n::float / :copies - 1) AS at
  FROM (SELECT e.hold_id, min(e.id) AS held, max(e.id) AS captured FROM entries e
         WHERE e.hold_id IS NOT NULL GROUP BY e.hold_id) AS source,
       generate_series(1, :copies) AS n
"""
_ENTRIES = """
INSERT INTO entries (id, kind, currency, hold_id, created_at) OVERRIDING SYSTEM VALUE
SELECT fresh.entry - half.back, half.kind, :currency, fresh.hold_id, fresh.at
  FROM fresh, (VALUES (1, 'hold'), (0, 'capture')) AS half (back, kind) ORDER BY 1
"""
_POSTINGS = """
INSERT INTO postings (entry_id, account_id, amount)
SELECT fresh.entry - (p.entry_id = fresh.held)::integer, p.account_id, p.amount
  FROM fresh JOIN postings p ON p.entry_id IN (fresh.held, fresh.captured) ORDER BY 1
"""
_SPENT = """
UPDATE accounts SET balance = balance + moved.amount
  FROM (SELECT p.account_id, :copies * sum(p.amount) AS amount
          FROM postings p WHERE p.entry_id <= :last AND EXISTS (
            SELECT FROM entries e WHERE e.id = p.entry_id AND e.hold_id IS NOT NULL)
         GROUP BY p.account_id) AS moved
 WHERE moved.account_id = accounts.id AND balance IS NOT NULL
"""
_NEXT_ID = "SELECT setval(pg_get_serial_sequence('entries', 'id'), (SELECT max(id) FROM entries))"


def write(sessions: sessionmaker[Session], postings: int) -> list[UUID]:
    """Write a year of `postings` postings; returns the gateways, the orchestrators' first last."""
    with sessions.begin() as session:
        gateways = _open(session)
    with sessions.begin() as session:
        # Triggers would check each copy by itself, which takes an hour for ten million.
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("SET LOCAL statement_timeout = 0"))
        jobs = len(gateways) * _MODELS
        _copy(session, max(1, postings // (_POSTINGS_OF_A_JOB * jobs)))
    with sessions.begin() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        snapshots.take(session)
    return gateways


def _open(session: Session) -> list[UUID]:
    """Make the parties, and one job of each gateway with each model."""
    quotes = list(_quotes(session))
    gateways = []
    for number in range(_GATEWAYS):
        row = accounts.create_gateway(session, f"gateway-{number}", _CURRENCY)
        accounts.top_up(session, row.id, _FUNDS, reference=row.name)
        limits.set_limit(session, row.id, Limit(None, None, None), _CURRENCY)
        for model, quote in enumerate(quotes):
            hold_id = hold(session, row.id, quote, f"{number}-{model}")
            holds.capture(session, {hold_id: _UNITS})
        gateways.append(row.id)
    return gateways


def _quotes(session: Session) -> Iterator[offers.Quote]:
    owners = [
        accounts.create_orchestrator(session, f"orchestrator-{n}", _CURRENCY, Decimal("0.1")).id
        for n in range(_ORCHESTRATORS)
    ]
    price = unit_price("0.000000019073484", 1, _CURRENCY)
    for number, owner in zip(range(_MODELS), itertools.cycle(owners), strict=False):
        capability = Capability("text-to-image", f"bench/model-{number}")
        offers.publish(session, owner, capability, price, _CURRENCY)
        yield offers.quote(offers.live_for(session, capability)[0], _UNITS)


def hold(session: Session, gateway_id: UUID, quote: offers.Quote, reference: str) -> UUID:
    """Hold what a quote costs."""
    expires_at = datetime.now(UTC) + timedelta(days=1)
    limit = Limit(None, None, None)
    return holds.authorize(session, gateway_id, reference, quote, limit, expires_at)


def _copy(session: Session, copies: int) -> None:
    last = session.scalar(text("SELECT max(id) FROM entries"))
    session.execute(text(_FRESH), {"copies": copies, "days": _DAYS})
    dates = {"created_at": "fresh.at", "resolved_at": "fresh.at"}
    names = {"id": "fresh.hold_id", "reference": "fresh.reference"}
    session.execute(text(_copies(Hold, "id", {**names, **dates})))
    session.execute(text(_ENTRIES), {"currency": _CURRENCY})
    session.execute(text(_POSTINGS))
    names = {"hold_id": "fresh.hold_id", "reference": "fresh.reference", "entry_id": "fresh.entry"}
    session.execute(text(_copies(Charge, "hold_id", {**names, **dates})))
    session.execute(text(_SPENT), {"copies": copies, "last": last})
    session.execute(text(_NEXT_ID))


def _copies(row: type[Base], key: str, changes: dict[str, str]) -> str:
    """Return the statement that copies a source's row for each of its copies, with changes."""
    names = [column.name for column in row.__table__.columns if column.computed is None]
    values = ", ".join(changes.get(name, f"source.{name}") for name in names)
    table = row.__tablename__
    return (
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {values}"
        f" FROM fresh JOIN {table} AS source ON source.{key} = fresh.source_id ORDER BY fresh.entry"
    )
