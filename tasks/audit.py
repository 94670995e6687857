"""What jobs hold against the books, as queries for `ledger.audit.check`."""

from __future__ import annotations

from collections.abc import Mapping

CHECKS: Mapping[str, str] = {
    "an open hold of a finished job, or an unfinished job without one": """
        SELECT jobs.id AS job_id, jobs.state, holds.id AS hold_id, holds.state AS hold_state
          FROM jobs JOIN holds ON holds.id = jobs.hold_id
         WHERE (jobs.state IN ('queued', 'running')) <> (holds.state = 'open')""",
    "an open hold that no job has": """
        SELECT holds.id AS hold_id, holds.reference, holds.amount
          FROM holds LEFT JOIN jobs ON jobs.hold_id = holds.id
         WHERE holds.state = 'open' AND jobs.id IS NULL""",
}
