"""What the books' depth costs: the same operations and reports on a few postings and on very many.

Each depth has a database of its own, so that the depths take turns operation by operation. Every
report must find its rows by an index: the bench stops where a table of the books is read whole.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import Session, sessionmaker

from bench import backlog, history
from bench.measure import Row, compare, interleave
from bench.parts import Parts
from ledger import accounts, audit, db, holds, offers, reports
from ledger.tables import Orchestrator

_REPEATS = 30
_PAGE = 50
_BIG = ("postings", "entries", "holds", "charges")
# A month that lies in the middle of what was written.
_SINCE = (datetime.now(UTC) - timedelta(days=200)).date().replace(day=1)
_UNTIL = (_SINCE + timedelta(days=31)).replace(day=1)
_GATEWAY = {"gateway": "gateway-7"}
_REPORTS: dict[str, Callable[[Session], object]] = {
    "balances": lambda s: reports.rows(s, "balances"),
    "trial balance": lambda s: reports.rows(s, "trial-balance"),
    "newest of the journal": lambda s: reports.rows(s, "journal"),
    "open holds": lambda s: reports.rows(s, "open-holds"),
    "newest charges": lambda s: reports.rows(s, "charges"),
    "a gateway's charges of a month": lambda s: reports.rows(
        s, "charges", _GATEWAY, since=_SINCE, until=_UNTIL
    ),
    "a gateway's days of a month": lambda s: reports.rows(
        s, "gateway-daily", _GATEWAY, since=_SINCE, until=_UNTIL
    ),
    "an orchestrator's days of a month": lambda s: reports.rows(
        s, "orchestrator-daily", {"orchestrator": "orchestrator-3"}, since=_SINCE, until=_UNTIL
    ),
    "the models' days of a month": lambda s: reports.rows(
        s, "model-daily", since=_SINCE, until=_UNTIL
    ),
    "a gateway's invoice": lambda s: reports.rows(
        s, "invoice-lines", {**_GATEWAY, "month": _SINCE}
    ),
    "budgets": lambda s: reports.rows(s, "budgets"),
    "payouts": lambda s: reports.rows(s, "payouts"),
    "refusals": lambda s: reports.rows(s, "refusals"),
    "rates": lambda s: reports.rows(s, "rates"),
}


# The account's posting in the middle of all ids.
_MIDDLE = """
SELECT id FROM postings
 WHERE account_id = (SELECT account_id FROM postings WHERE id = :newest) AND id > :newest / 2
 ORDER BY id LIMIT 1
"""


@dataclass(frozen=True)
class _Depth:
    """Books of so many postings."""

    engine: Engine
    sessions: sessionmaker[Session]
    gateway_id: UUID
    orchestrator_id: UUID
    quote: offers.Quote
    middle: int
    numbers: Iterator[int]

    def settle(self) -> float:
        """Return how long one capture takes, its commit included."""
        with self.sessions.begin() as session:
            reference = f"bench-{next(self.numbers)}"
            hold_id = history.hold(session, self.gateway_id, self.quote, reference)
        return self.time(lambda session: holds.capture(session, {hold_id: self.quote.units}))

    def balance(self) -> float:
        """Return how long a gateway's balance takes."""
        return self.time(lambda session: accounts.balance(session, self.gateway_id))

    def owed(self) -> float:
        """Return how long an orchestrator's balance takes."""
        return self.time(lambda session: accounts.owed(session, self.orchestrator_id))

    def newest_page(self) -> float:
        """Return how long the first page of a statement takes."""
        return self.time(lambda s: reports.statement(s, self.gateway_id, limit=_PAGE))

    def middle_page(self) -> float:
        """Return how long a page in the middle of a statement takes."""
        return self.time(
            lambda s: reports.statement(s, self.gateway_id, before=self.middle, limit=_PAGE)
        )

    def time(self, act: Callable[[Session], object]) -> float:
        """Return how many seconds a transaction takes."""
        began = time.perf_counter()
        with self.sessions.begin() as session:
            act(session)
        return time.perf_counter() - began


_OPERATIONS: dict[str, Callable[[_Depth], float]] = {
    "settle a job": _Depth.settle,
    "a gateway's balance": _Depth.balance,
    "an orchestrator's balance": _Depth.owed,
    "a statement's newest page": _Depth.newest_page,
    "a statement's page in the middle": _Depth.middle_page,
}


def rows(parts: Parts, rounds: int, depths: Sequence[int]) -> list[Row]:
    """Compare the deepest books with the shallowest."""
    few, many = min(depths), max(depths)
    shallow, deep = (_prepare(parts, count) for count in (few, many))
    with shallow.sessions.begin() as session:
        assert not audit.check(session), "the books are not sound"  # Nor would be deeper ones.
    said = f"{many:,} postings (baseline: {few:,})"
    found = []
    for name, operation in _OPERATIONS.items():
        found.append(_compare(f"{name}, {said}", rounds, _REPEATS, operation, (shallow, deep)))
    for name, report in _REPORTS.items():
        indexes = ", ".join(_indexes(deep, report)) or "small tables only"
        what = f"report: {name} ({indexes}), {said}"
        read = partial(_read, report)
        found.append(_compare(what, rounds, 3, read, (shallow, deep)))
    for depth in (shallow, deep):
        depth.engine.dispose()
    return found


def _prepare(parts: Parts, count: int) -> _Depth:
    engine = db.make_engine(parts.database(f"books_{count}"))
    sessions = db.session_factory(engine)
    gateways = history.write(sessions, count)
    backlog.settle_down(engine)
    with sessions.begin() as session:
        offer = offers.live(session)[0]
        page = reports.statement(session, gateways[7], limit=1)
        owner = session.scalars(select(Orchestrator.id).order_by(Orchestrator.name)).first()
        middle = session.scalars(text(_MIDDLE), {"newest": page[0]["posting_id"]}).one()
        assert owner is not None
    return _Depth(
        engine,
        sessions,
        gateways[7],
        owner,
        offers.quote(offer, 1024 * 1024),
        middle,
        itertools.count(),
    )


def _compare(
    what: str,
    rounds: int,
    repeats: int,
    operation: Callable[[_Depth], float],
    depths: tuple[_Depth, _Depth],
) -> Row:
    arms = {
        name: partial(_median_ms, operation, depth, repeats)
        for name, depth in zip(("shallow", "deep"), depths, strict=True)
    }
    interleave(1, arms)  # Plans and caches are not what depth costs.
    taken = interleave(rounds, arms)
    return compare(what, "ms", "lower", taken["deep"], taken["shallow"])


def _median_ms(operation: Callable[[_Depth], float], depth: _Depth, repeats: int) -> float:
    return 1e3 * statistics.median(operation(depth) for _ in range(repeats))


def _read(report: Callable[[Session], object], depth: _Depth) -> float:
    return depth.time(report)


def _indexes(depth: _Depth, report: Callable[[Session], object]) -> list[str]:
    """Return the indexes by which a report finds its rows in the books.

    Raises:
        AssertionError: It reads one of their tables whole.
    """
    asked: list[tuple[str, Any]] = []
    with depth.sessions.begin() as session:
        connection = session.connection()

        def note(_c: object, _cursor: object, statement: str, values: object, *_: object) -> None:
            asked.append((statement, values))

        event.listen(connection, "before_cursor_execute", note)
        report(session)
        event.remove(connection, "before_cursor_execute", note)
        plans = [
            connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", values).scalar_one()
            for statement, values in asked
        ]
    nodes = [node for plan in plans for node in _nodes(plan[0]["Plan"])]
    whole = {node["Relation Name"] for node in nodes if node["Node Type"].endswith("Seq Scan")}
    assert not whole & set(_BIG), f"{whole & set(_BIG)} read whole by: {asked}"
    used = {node.get("Index Name", "") for node in nodes}
    return sorted(name for name in used if any(table in name for table in _BIG))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
