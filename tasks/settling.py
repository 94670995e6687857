"""The end of a batch: its pictures stored and its jobs settled, well or badly.

Whatever goes wrong ends here, as a job that fails, or waits and runs again, or is somebody else's
now; what is nobody's fault that we know is an internal error. Nothing here raises: a worker that
cannot settle a job drops the claim, and the job runs again when the lease has ended.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, wait
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tasks import claims, telemetry
from tasks.claims import NewOutput
from tasks.engine.encoding import encode_png
from tasks.errors import (
    InferenceError,
    Interrupted,
    InvalidImage,
    LoraError,
    LoraIncompatible,
    LoraNotAllowed,
    LoraNotFound,
    ModelLoadError,
    ObjectNotFound,
    OutOfMemory,
    StorageError,
    TasksError,
)
from tasks.runtime import Runtime
from tasks.tables import Job

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_log = telemetry.get_logger()
_SETTLE_TRIES = 10
_SETTLE_WAIT_S = 2.0
# A database that is away, or busy with something else.
_PASSING = (OperationalError, InterfaceError, PoolTimeout)
# So many jobs that fail one after the other speak against the worker: a GPU that has faulted once
# refuses every later call of its process.
_BROKEN_AFTER = 5
# But these speak against the job, or against what a catalog names.
_NOT_OUR_FAULT = (StorageError, OutOfMemory, InvalidImage, LoraError, ModelLoadError)
_FINAL = (ObjectNotFound, InvalidImage, OutOfMemory, LoraNotFound, LoraNotAllowed, LoraIncompatible)
_MAX_MESSAGE = 500

_Verdicts: TypeAlias = dict[UUID, list[bool | None]]
_Stored: TypeAlias = list[tuple[Job, list[NewOutput]]]


class Settler:
    """Stores and settles for one worker. Thread-safe."""

    def __init__(self, runtime: Runtime, transfers: Executor) -> None:
        """Take the runtime, and where uploads run side by side."""
        self._run = runtime
        self._transfers = transfers
        self._failed_since_success: set[UUID] = set()

    @property
    def is_broken(self) -> bool:
        """Tell whether job after job fails, so that only a new process may help."""
        return len(self._failed_since_success) >= _BROKEN_AFTER

    def note_success(self) -> None:
        """Forget the failures before: the engine has made a picture."""
        self._failed_since_success.clear()

    def finish(self, claimed: Sequence[Job], made: Mapping[UUID, Sequence[Picture]]) -> None:
        """Store the pictures of a batch and settle it in one transaction. Raises nothing."""
        try:
            wanted = [job for job in claimed if job.id in made]
            verdicts = self._verdicts(wanted, made)
            stored = self._store_all([job for job in wanted if job.id in verdicts], made, verdicts)
            settled = self._settle_all(stored)
            gone = [job.id for job in wanted if job.id not in settled]
            if gone:
                self._leave_to_sweep(gone)
        except Exception:  # noqa: BLE001  the leases end, and the jobs run again
            _log.exception("batch_not_finished", worker_id=self._run.worker_id)
        finally:
            self._run.leases.drop(claimed)

    def _verdicts(self, batch: Sequence[Job], made: Mapping[UUID, Sequence[Picture]]) -> _Verdicts:
        """Have the pictures looked at; None where nobody was asked to, or there is nobody.

        A job whose pictures should have been looked at, and could not be, is settled here: they do
        not go out as if nothing were wrong with them.
        """
        verdicts: _Verdicts = {}
        for job in batch:
            if not job.params.get("safety_check", True):
                verdicts[job.id] = [None] * len(made[job.id])
                continue
            try:
                verdicts[job.id] = self._run.engine.verdicts(made[job.id])
            except Exception as error:  # noqa: BLE001  as in _try
                self.give_up(job, error)
        return verdicts

    def _store_all(
        self,
        batch: Sequence[Job],
        made: Mapping[UUID, Sequence[Picture]],
        verdicts: _Verdicts,
    ) -> _Stored:
        """Store the pictures of jobs whose claims are good; a job that cannot be is settled."""
        storing = {
            job.id: [
                self._transfers.submit(self._store, job, index, picture, nsfw)
                for index, (picture, nsfw) in enumerate(
                    zip(made[job.id], verdicts[job.id], strict=True)
                )
            ]
            for job in batch
        }
        stored: _Stored = []
        for job in batch:
            # All of them, before the job may run again: a late one would come after the sweeper.
            wait(storing[job.id])
            try:
                stored.append((job, [future.result() for future in storing[job.id]]))
            except Interrupted:
                continue
            except Exception as error:  # noqa: BLE001  as in _try
                self.give_up(job, error)
        return stored

    def _store(self, job: Job, index: int, picture: Picture, nsfw: bool | None) -> NewOutput:  # noqa: FBT001  a verdict, not an option
        if self._is_lost(job):
            raise Interrupted("The claim is gone.")
        seed = int(job.params["seed"]) + index
        data = encode_png(picture, seed=seed, model_id=job.model_id, job_id=str(job.id))
        # The name cannot be guessed, so a link to it is the permission to see it; the attempt in
        # the key keeps a worker that lost its claim from overwriting the winner's picture.
        name = f"{index}-{secrets.token_hex(12)}.png"
        key = f"outputs/{job.id}/{job.attempt}/{name}"
        self._run.store.put(key, data, "image/png")
        self._run.leases.touch()
        return NewOutput(
            name=name,
            key=key,
            seed=seed,
            nsfw=nsfw,
            width=picture.width,
            height=picture.height,
            content_type="image/png",
            size_bytes=len(data),
            sha256=hashlib.sha256(data).digest(),
        )

    def _settle_all(self, stored: _Stored) -> set[UUID]:
        """Deliver and capture; if the books refuse a batch, its jobs one by one."""
        if not stored:
            return set()
        try:
            settled = self._settle(stored)
        except Exception as error:  # noqa: BLE001  as in _try
            if len(stored) > 1:
                return {job_id for one in stored for job_id in self._settle_all([one])}
            self.give_up(stored[0][0], error)
            return set()
        for job, _ in stored:
            event = "job_succeeded" if job.id in settled else "claim_gone"
            _log.info(event, job_id=str(job.id), attempt=job.attempt)
        return settled

    def _settle(self, stored: _Stored) -> set[UUID]:
        """Settle in one transaction; the fence makes it harmless to do so twice."""
        finished = {(job.id, job.attempt): outputs for job, outputs in stored}
        for tried in itertools.count(1):
            try:
                with self._run.sessions.begin() as session:
                    return claims.succeed(session, finished)
            except _PASSING as error:
                _log.warning("settlement_failed", tried=tried, error=telemetry.brief(error))
                if tried == _SETTLE_TRIES or all(self._is_lost(job) for job, _ in stored):
                    break
                time.sleep(min(_SETTLE_WAIT_S, 0.1 * 2**tried))
        return set()  # The leases end, and the jobs run again.

    def give_up(self, job: Job, error: Exception) -> None:
        """Settle a job that made no pictures: it runs again where that may help, or it fails."""
        settings = self._run.settings
        known = isinstance(error, TasksError)
        code = error.code if isinstance(error, TasksError) else "internal_error"
        message = str(error) if known else "Something unforeseen went wrong while this job ran."
        again = job.attempt < _tries(error, settings.max_attempts)
        if not isinstance(error, _NOT_OUR_FAULT):
            self._failed_since_success.add(job.id)
        _log.warning(
            "job_waits_to_run_again" if again else "job_failed",
            job_id=str(job.id),
            attempt=job.attempt,
            code=code,
            error=message,
            exc_info=None if known else error,
        )
        try:
            with self._run.sessions.begin() as session:
                if again:
                    delay_s = settings.retry_delay_s * 2 ** (job.attempt - 1)
                    current = claims.requeue(session, job.id, job.attempt, delay_s)
                else:
                    current = claims.fail(session, job.id, job.attempt, code, _clean(message))
                if not current:
                    claims.leave_to_sweep(session, [job.id])
        except Exception as gone:  # noqa: BLE001  the lease ends, and the job runs again
            _log.warning("settlement_failed", job_id=str(job.id), error=telemetry.brief(gone))
        self._run.leases.drop([job])

    def _is_lost(self, job: Job) -> bool:
        return self._run.leases.is_lost(job)

    def _leave_to_sweep(self, job_ids: Sequence[UUID]) -> None:
        try:
            with self._run.sessions.begin() as session:
                claims.leave_to_sweep(session, job_ids)
        except SQLAlchemyError as error:
            _log.warning("objects_left", jobs=len(job_ids), error=telemetry.brief(error))


def _tries(error: Exception, max_attempts: int) -> int:
    """Return how many attempts a job gets that ends with this error."""
    if isinstance(error, _FINAL):
        return 1  # It would end so everywhere.
    if isinstance(error, InferenceError):
        return min(2, max_attempts)  # It may have been the device, or the neighbours.
    return max_attempts


def _clean(message: str) -> str:
    """Return a message that fits the job's row, which cannot hold a NUL."""
    return message.replace("\x00", "")[:_MAX_MESSAGE]
