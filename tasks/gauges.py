"""What only the database knows, for the scheduler's /metrics: queues, states, holds, workers.

Each is one statement, bounded however many jobs there are, and asked at a scrape: all schedulers
answer the same. Where the database does not answer, these metrics are missing, which is what an
alert on their absence tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import TextClause, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from ledger import offers
from tasks import routing, telemetry
from tasks.workers import SILENCE_S

_log = telemetry.get_logger()
# Who sees so many in one queue, or so many open holds, knows enough: more are not counted.
DEEP = 1_000
MOST = 10_000
_TIMEOUT = text("SET LOCAL statement_timeout = '5s'")

# A few index probes for each queue and priority: within one, who came first waits longest. What is
# counted is in the same index: by its order, or the planner takes another one.
_DEPTHS = text("""
WITH RECURSIVE heads AS (
    (SELECT queue, priority, model_id, available_at FROM jobs
      WHERE state = 'queued' ORDER BY queue, priority DESC, id LIMIT 1)
    UNION ALL
    SELECT next.* FROM heads, LATERAL (
        (SELECT queue, priority, model_id, available_at FROM jobs
          WHERE state = 'queued' AND queue = heads.queue AND priority < heads.priority
          ORDER BY queue, priority DESC, id LIMIT 1)
        UNION ALL
        (SELECT queue, priority, model_id, available_at FROM jobs
          WHERE state = 'queued' AND queue > heads.queue
          ORDER BY queue, priority DESC, id LIMIT 1)
        LIMIT 1
    ) AS next
), queues AS (
    SELECT queue, min(model_id) AS model_id,
           greatest(0, extract(epoch FROM now() - min(available_at)))::float AS oldest_s
      FROM heads GROUP BY queue
)
SELECT queues.*, waiting.depth FROM queues, LATERAL (
    SELECT count(*) AS depth
      FROM (SELECT FROM jobs WHERE queue = queues.queue AND state = 'queued'
             ORDER BY priority DESC, id LIMIT :most) AS first
) AS waiting
""")
_RUNNING = text("SELECT count(*) AS jobs FROM jobs WHERE state = 'running'")
_RECENT = text("""
SELECT state, count(*) AS jobs FROM (SELECT state FROM jobs ORDER BY id DESC LIMIT :most) AS newest
 GROUP BY state
""")
_HOLDS = text("""
SELECT count(*) AS holds
  FROM (SELECT FROM holds WHERE state = 'open' LIMIT :most) AS kept
""")
_WORKERS = text("""
SELECT orchestrators.name AS orchestrator, count(workers.id) AS live
  FROM orchestrators LEFT JOIN workers ON workers.orchestrator_id = orchestrators.id
   AND workers.heartbeat_at > now() - make_interval(secs => :silence_s)
 GROUP BY orchestrators.name ORDER BY orchestrators.name LIMIT 1000
""")


class DatabaseCollector(Collector):
    """Reads the database at each scrape."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        """Take where the database is; nothing is asked yet."""
        self._sessions = sessions

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values, so that registering them asks nobody."""
        return list(_families().values())

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now; none where the database does not answer."""
        families = _families()
        try:
            with self._sessions.begin() as session:
                session.execute(_TIMEOUT)
                _read(session, families)
        except SQLAlchemyError as error:
            _log.warning("gauges_not_read", error=telemetry.brief(error))
            return []
        return list(families.values())


def _families() -> dict[str, GaugeMetricFamily]:
    return {
        name: GaugeMetricFamily(f"pixeltoll_{name}", said, labels=labels)
        for name, said, labels in (
            ("queue_depth", f"Jobs that wait, at most {DEEP} a queue.", ["queue", "model_id"]),
            (
                "queue_oldest_seconds",
                "For how long the oldest waiting job could have run.",
                ["queue", "model_id"],
            ),
            ("jobs_running", "Jobs that a worker has claimed.", []),
            ("recent_jobs", f"The newest {MOST} jobs by state.", ["state"]),
            ("open_holds", f"Holds that are neither captured nor given back, at most {MOST}.", []),
            ("live_workers", "Workers that were heard of lately.", ["orchestrator"]),
        )
    }


def _read(session: Session, families: dict[str, GaugeMetricFamily]) -> None:
    _read_queues(session, families["queue_depth"], families["queue_oldest_seconds"])
    for row in _rows(session, _RUNNING):
        families["jobs_running"].add_metric([], row.jobs)
    for row in _rows(session, _RECENT, most=MOST):
        families["recent_jobs"].add_metric([row.state], row.jobs)
    for row in _rows(session, _HOLDS, most=MOST):
        families["open_holds"].add_metric([], row.holds)
    for row in _rows(session, _WORKERS, silence_s=SILENCE_S):
        families["live_workers"].add_metric([row.orchestrator], row.live)


def _read_queues(session: Session, depth: GaugeMetricFamily, oldest: GaugeMetricFamily) -> None:
    """Read the queues that have jobs, and add those of live offers: theirs are 0, not missing."""
    empty = {
        routing.queue_name(offer.capability, offer.orchestrator): offer.capability.model_id
        for offer in offers.live(session)
    }
    for row in _rows(session, _DEPTHS, most=DEEP):
        empty.pop(row.queue, None)
        depth.add_metric([row.queue, row.model_id], row.depth)
        oldest.add_metric([row.queue, row.model_id], row.oldest_s)
    for labels in empty.items():
        depth.add_metric(labels, 0)
        oldest.add_metric(labels, 0)


def _rows(session: Session, statement: TextClause, **values: object) -> Sequence[Any]:
    return session.execute(statement, values).all()
