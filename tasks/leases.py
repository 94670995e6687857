"""The claims a worker holds, kept alive by a thread of their own while the GPU works.

One statement at each tick notes the progress, extends the leases when it is time, and learns which
claims are gone: canceled, expired, or taken by another worker. A claim that could not be renewed
for a whole lease counts as gone, whatever kept the worker from it: a silent database, or the
process itself having been stopped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tasks import claims, telemetry
from tasks.claims import Phase
from tasks.tables import Job

_log = telemetry.get_logger()
# A lease is extended this many times before it would end, so that two failures do no harm.
_RENEWALS = 3


@dataclass
class _Claim:
    attempt: int
    gateway_id: UUID
    # When the lease ends by this process's clock, which is never later than by the database's: it
    # is counted from before the database was asked.
    until: float
    step: int = 0
    steps: int = 0
    phase: Phase | None = None
    lost: bool = False


class Leases:
    """Thread-safe: the worker's threads claim, note and drop, the keeper's thread renews."""

    def __init__(self, sessions: sessionmaker[Session], lease_s: float) -> None:
        """Take where to renew, and for how long each time."""
        self._sessions = sessions
        self._lease_s = lease_s
        self._claims: dict[UUID, _Claim] = {}
        self._lock = threading.Lock()
        self._extend_at = time.monotonic()
        self._moved_at = time.monotonic()

    @property
    def idle(self) -> bool:
        """Tell whether no claim is held."""
        return not self._claims

    @property
    def still_s(self) -> float:
        """For how long no claim was taken, dropped or brought forward, and no picture stored."""
        return time.monotonic() - self._moved_at

    def hold(self, claimed: Iterable[Job], asked_at: float) -> None:
        """Begin to renew the claims of these jobs, which were asked for at a monotonic time."""
        with self._lock:
            self._moved_at = time.monotonic()
            self._claims.update(
                {
                    job.id: _Claim(job.attempt, job.gateway_id, asked_at + self._lease_s)
                    for job in claimed
                }
            )

    def drop(self, claimed: Iterable[Job]) -> None:
        """Stop renewing: the jobs are settled, or somebody else's."""
        with self._lock:
            self._moved_at = time.monotonic()
            for job in claimed:
                claim = self._current(job.id, job.attempt)
                if claim is not None:
                    if time.monotonic() >= claim.until:
                        _lose(job.id, claim)
                    del self._claims[job.id]

    def note(
        self, claimed: Iterable[Job], step: int, steps: int, phase: Phase | None = None
    ) -> None:
        """Remember how far these jobs are; the next tick tells the database."""
        with self._lock:
            self._moved_at = time.monotonic()
            for job in claimed:
                claim = self._current(job.id, job.attempt)
                if claim is not None:
                    claim.step, claim.steps, claim.phase = step, steps, phase

    def hand_back(self) -> None:
        """Give all claims back to their queues, for others; their work here stops.

        Raises:
            SQLAlchemyError: The database does not take them; they are kept.
        """
        with self._lock:
            held = {job_id: one.attempt for job_id, one in self._claims.items() if not one.lost}
        if not held:
            return
        with self._sessions.begin() as session:
            given = claims.hand_back(session, held.items())
        with self._lock:
            for job_id in given:
                claim = self._current(job_id, held[job_id])
                if claim is not None:
                    claim.lost = True
                    _log.info("job_handed_back", **_facts(job_id, claim))

    def touch(self) -> None:
        """Say that the work comes forward, where there are no steps to tell it by."""
        self._moved_at = time.monotonic()

    def is_lost(self, job: Job) -> bool:
        """Tell whether a claim is gone, so that its work would be for nothing."""
        claim = self._current(job.id, job.attempt)
        return claim is None or claim.lost or time.monotonic() >= claim.until

    def _current(self, job_id: UUID, attempt: int) -> _Claim | None:
        """Return the claim, unless the job was dropped, or claimed anew by this same worker."""
        claim = self._claims.get(job_id)
        return claim if claim is not None and claim.attempt == attempt else None

    def tick(self) -> None:
        """Renew what is held."""
        asked_at = time.monotonic()
        with self._lock:
            for job_id, claim in self._claims.items():
                if claim.until <= asked_at:
                    _lose(job_id, claim)
            running = {
                job_id: claims.Progress(claim.attempt, claim.step, claim.steps, claim.phase)
                for job_id, claim in self._claims.items()
                if not claim.lost
            }
        if not running:
            return
        extend = asked_at >= self._extend_at
        try:
            with self._sessions.begin() as session:
                held = claims.renew(session, running, self._lease_s, extend=extend)
        except SQLAlchemyError as error:
            with self._lock:
                about = [_facts(one, claim) for one, claim in self._claims.items()]
            _log.warning("lease_renewal_failed", jobs=about, error=telemetry.brief(error))
            return
        if extend:
            self._extend_at = asked_at + self._lease_s / _RENEWALS
        with self._lock:
            for job_id, asked in running.items():
                current = self._current(job_id, asked.attempt)
                if current is None:
                    continue
                if job_id not in held:
                    _lose(job_id, current)
                elif extend:
                    current.until = asked_at + self._lease_s


def _lose(job_id: UUID, claim: _Claim) -> None:
    if not claim.lost:
        claim.lost = True
        _log.info("claim_gone", **_facts(job_id, claim))


def _facts(job_id: UUID, claim: _Claim) -> dict[str, object]:
    return {
        "job_id": str(job_id),
        "gateway_id": str(claim.gateway_id),
        "attempt": claim.attempt,
    }
