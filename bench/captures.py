"""Captures of one gateway's holds for one orchestrator, beside the transfer that everybody writes.

The baseline locks both balances, updates both and inserts a row: no job, no price, no limit, no fee
and no journal. All arms run in this process, with as many connections. One of them inserts a row
and does nothing else, which is as much as a call by itself can do on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from bench import backlog
from bench.engines import SIDE, SUBMITTED
from bench.measure import Row, compare, interleave
from bench.parts import Parts
from ledger import audit, db, holds
from ledger.tables import Hold

_CLIENTS = 8
_BATCH = 100
_ONES, _BATCHES = 400, 24

_NAIVE = """
CREATE TABLE balances (id integer PRIMARY KEY, balance numeric(38,18) NOT NULL);
INSERT INTO balances VALUES (1, 1000000), (2, 0);
CREATE TABLE transfers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reference varchar NOT NULL, source integer NOT NULL, target integer NOT NULL,
    amount numeric(38,18) NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
)
"""
_LOCK = text("SELECT balance FROM balances WHERE id = :id FOR UPDATE")
_MOVE = text("UPDATE balances SET balance = balance + :amount WHERE id = :id")
_RECORD = text("""
INSERT INTO transfers (reference, source, target, amount) VALUES (:reference, 1, 2, :amount)
""")
_AMOUNT = Decimal("0.000078124990464")


def rows(parts: Parts, rounds: int, share: float) -> list[Row]:
    """Compare captures one by one, and by the hundred, with naive transfers."""
    url = parts.database("captures")
    engine = db.make_engine(url, pool_size=_CLIENTS)
    sessions = db.session_factory(engine)
    # A capture is one statement, so it needs nobody to begin and to commit a transaction.
    by_themselves = db.make_engine(url, pool_size=_CLIENTS, autocommit=True)
    alone = db.session_factory(by_themselves)
    with sessions.begin() as session:
        gateway_id = backlog.open_books(session, [SUBMITTED])
        session.execute(text(_NAIVE))
    ones, batches = int(_ONES * share), max(_CLIENTS, int(_BATCHES * share))
    backlog.deepen(sessions, gateway_id, SUBMITTED, (rounds + 1) * (ones + batches * _BATCH))
    backlog.settle_down(engine)
    stock = iter(_open_holds(sessions))
    arms = {
        "naive": lambda: _rate(sessions, _naive, [[UUID(int=n)] for n in range(ones)]),
        "rows": lambda: _rate(alone, _record, [[UUID(int=n)] for n in range(ones)]),
        "ones": lambda: _rate(alone, _capture, _take(stock, ones, 1)),
        "batches": lambda: _rate(alone, _capture, _take(stock, batches, _BATCH)),
    }
    interleave(1, arms)  # Connections, statements and caches are warm from here on.
    rates = interleave(rounds, arms)
    with sessions.begin() as session:
        assert not audit.check(session), "the books are not sound"
    by_themselves.dispose()
    engine.dispose()
    return [
        compare(
            f"{what}, {_CLIENTS} connections (baseline: naive transfers)",
            "/s",
            "higher",
            rates[arm],
            rates["naive"],
        )
        for arm, what in (
            ("ones", "captures one by one"),
            ("batches", f"captures by {_BATCH}"),
            ("rows", "a row inserted, nothing else"),
        )
    ]


def _open_holds(sessions: sessionmaker[Session]) -> Sequence[UUID]:
    with sessions.begin() as session:
        return session.scalars(select(Hold.id).where(Hold.state == "open")).all()


def _take(stock: Iterator[UUID], times: int, size: int) -> list[list[UUID]]:
    return [[next(stock) for _ in range(size)] for _ in range(times)]


def _rate(
    sessions: sessionmaker[Session],
    settle: Callable[[Session, Sequence[UUID]], None],
    batches: Sequence[Sequence[UUID]],
) -> float:
    """Settle all batches, each by itself, over all connections; returns jobs a second."""

    def run(batch: Sequence[UUID]) -> None:
        with sessions.begin() as session:
            settle(session, batch)

    with ThreadPoolExecutor(_CLIENTS) as clients:
        began = time.perf_counter()
        for done in [clients.submit(run, batch) for batch in batches]:
            done.result()
        return sum(map(len, batches)) / (time.perf_counter() - began)


def _capture(session: Session, batch: Sequence[UUID]) -> None:
    holds.capture(session, dict.fromkeys(batch, SIDE * SIDE))


def _record(session: Session, batch: Sequence[UUID]) -> None:
    for reference in batch:
        session.execute(_RECORD, {"reference": str(reference), "amount": _AMOUNT})


def _naive(session: Session, batch: Sequence[UUID]) -> None:
    for reference in batch:
        session.execute(_LOCK, {"id": 1})
        session.execute(_LOCK, {"id": 2})
        session.execute(_MOVE, {"id": 1, "amount": -_AMOUNT})
        session.execute(_MOVE, {"id": 2, "amount": _AMOUNT})
        _record(session, [reference])
