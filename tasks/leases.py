"""The claims a worker holds, kept alive by a thread of their own while the GPU works.

One statement at each tick extends the leases, notes the progress, and learns which claims are gone:
canceled, expired, or taken by another worker. When the database cannot be asked for a whole lease,
every claim counts as gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tasks import jobs, telemetry
from tasks.tables import Job

_log = telemetry.get_logger()


@dataclass
class _Claim:
    attempt: int
    step: int = 0
    steps: int = 0
    lost: bool = False


class Leases:
    """Thread-safe: the worker's thread claims and drops, the ticking thread renews."""

    def __init__(self, sessions: sessionmaker[Session], lease_s: float) -> None:
        """Take where to renew, and for how long each time."""
        self._sessions = sessions
        self._lease_s = lease_s
        self._claims: dict[UUID, _Claim] = {}
        self._lock = threading.Lock()
        self._renewed_at = time.monotonic()

    @property
    def idle(self) -> bool:
        """Tell whether no claim is held."""
        return not self._claims

    def hold(self, claimed: Iterable[Job]) -> None:
        """Begin to renew the claims of these jobs."""
        with self._lock:
            if not self._claims:
                self._renewed_at = time.monotonic()
            self._claims.update({job.id: _Claim(job.attempt) for job in claimed})

    def drop(self, job_ids: Iterable[UUID]) -> None:
        """Stop renewing: the jobs are settled, or somebody else's."""
        with self._lock:
            for job_id in job_ids:
                self._claims.pop(job_id, None)

    def note(self, job_ids: Iterable[UUID], step: int, steps: int) -> None:
        """Remember how far these jobs are; the next tick tells the database."""
        with self._lock:
            for job_id in job_ids:
                claim = self._claims.get(job_id)
                if claim is not None:
                    claim.step, claim.steps = step, steps

    def is_lost(self, job_id: UUID) -> bool:
        """Tell whether a claim is gone, so that its work would be for nothing."""
        claim = self._claims.get(job_id)
        return claim is None or claim.lost

    def tick(self) -> None:
        """Renew every claim once."""
        with self._lock:
            running = {
                job_id: jobs.Progress(claim.attempt, claim.step, claim.steps)
                for job_id, claim in self._claims.items()
                if not claim.lost
            }
        if not running:
            return
        asked_at = time.monotonic()
        try:
            with self._sessions.begin() as session:
                still_ours = jobs.renew(session, running, self._lease_s)
        except SQLAlchemyError as error:
            _log.warning("lease_renewal_failed", jobs=len(running), error=str(error))
            if time.monotonic() - self._renewed_at > self._lease_s:
                self._lose(running)
            return
        self._renewed_at = asked_at
        self._lose(running.keys() - still_ours)

    def _lose(self, job_ids: Iterable[UUID]) -> None:
        with self._lock:
            for job_id in job_ids:
                claim = self._claims.get(job_id)
                if claim is not None:
                    claim.lost = True
                    _log.info("claim_gone", job_id=str(job_id), attempt=claim.attempt)
