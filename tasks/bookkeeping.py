"""What the scheduler does for the books: snapshots, rates from a file, and the audit.

Each is small or reads only, and several schedulers do no harm. How is the ledger's business.
"""

from __future__ import annotations

from prometheus_client import Gauge
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from ledger import audit, feeds, snapshots
from ledger.audit import Finding
from ledger.feeds import RateFeed
from tasks import telemetry
from tasks.audit import CHECKS

_log = telemetry.get_logger()

# Any number, the same in every process that audits.
_AUDIT_LOCK = 7_300_002
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")

# Here, and not with the other metrics: only a scheduler has them.
AUDIT_FINDINGS = Gauge(
    "pixeltoll_audit_findings",
    "Rows that this scheduler's last audit found against the books, at most 100 a check.",
    ["check"],
)
AUDITED_AT = Gauge(
    "pixeltoll_audit_done_timestamp_seconds",
    "When this scheduler last ended an audit of the books, in seconds since 1970; 0 before that.",
)


class Bookkeeper:
    """The chores of the books, each a transaction of its own."""

    def __init__(self, sessions: sessionmaker[Session], feed: RateFeed | None) -> None:
        """Take where the books are, and where rates come from, if from anywhere."""
        self._sessions = sessions
        self._feed = feed

    def take_snapshots(self) -> None:
        """Keep the balances of busy accounts quick to read."""
        with self._sessions.begin() as session:
            snapshots.take(session)

    def refresh_rates(self) -> None:
        """Record what the feed says of exchange rates.

        Raises:
            FeedError: It cannot be read.
        """
        if self._feed is None:
            return
        with self._sessions.begin() as session:
            recorded = feeds.refresh(session, self._feed)
        for rate in recorded:
            _log.info("rate_recorded", rate_id=rate.id, source=rate.source)

    def audit(self) -> None:
        """Prove the books and the jobs against them, unless another process is at it already."""
        with self._sessions.begin() as session:
            if not session.scalar(_TRY_LOCK, {"key": _AUDIT_LOCK}):
                return
            asked = list(audit.each(session, CHECKS))
        findings = [finding for finding in asked if finding.rows]
        for finding in findings:
            _report(finding)
        # Those that found nothing, too: what was mended since the last audit is told as well.
        for finding in asked:
            AUDIT_FINDINGS.labels(finding.check).set(len(finding.rows))
        AUDITED_AT.set_to_current_time()
        _log.info("books_audited", findings=len(findings))


def _report(finding: Finding) -> None:
    rows = [{name: str(value) for name, value in row.items()} for row in finding.rows]
    _log.error("books_unsound", check=finding.check, rows=rows)
