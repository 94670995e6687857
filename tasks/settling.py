"""The end of a batch: its pictures stored and its jobs settled, well or badly.

Whatever goes wrong ends here, as a job that fails, or waits and runs again, or is somebody else's
now; what is nobody's fault that we know is an internal error. Nothing here raises: a worker that
cannot settle a job drops the claim, and the job runs again when the lease has ended.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from tasks import (
    claims,
    failures,
    formats,
    manifests,
    metrics,
    names,
    policies,
    results,
    stems,
    telemetry,
)
from tasks.claims import NewOutput
from tasks.errors import Interrupted, TasksError, Unchecked, Withheld
from tasks.params import Generation
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

_Result = TypeVar("_Result")
_Verdicts: TypeAlias = dict[UUID, list[bool | None]]


@dataclass
class Made:
    """The pictures of a job that could be made, by index, and why others could not be."""

    pictures: dict[int, Picture] = field(default_factory=dict)
    failed: Exception | None = None


@dataclass(frozen=True)
class _Stored:
    """A job whose pictures, or some of them, are in the store."""

    job: Job
    outputs: list[NewOutput]
    failed: Exception | None


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

    def is_last(self, job: Job, error: Exception) -> bool:
        """Tell whether a job that ends with this error does not run again."""
        return job.tries >= failures.tries(error, self._run.settings.max_attempts)

    def finish(self, claimed: Sequence[Job], made: Mapping[UUID, Made]) -> None:
        """Store the pictures of a batch and settle it in one transaction. Raises nothing."""
        try:
            wanted = [job for job in claimed if job.id in made]
            verdicts = self._verdicts(wanted, made)
            made = self._by_policy([job for job in wanted if job.id in verdicts], made, verdicts)
            stored = self._store_all([job for job in wanted if job.id in made], made, verdicts)
            settled = self._settle_all(stored)
            gone = [job for job in wanted if job.id not in settled]
            if gone:
                self._leave_to_sweep(gone)
        except Exception:  # noqa: BLE001  the leases end, and the jobs run again
            _log.exception("batch_not_finished", jobs=[telemetry.of(job) for job in claimed])
        finally:
            self._run.leases.drop(claimed)

    def _verdicts(self, batch: Sequence[Job], made: Mapping[UUID, Made]) -> _Verdicts:
        """Have the pictures looked at; None where nobody was asked to, or there is nobody.

        A job whose pictures should have been looked at, and could not be, is settled here: they do
        not go out as if nothing were wrong with them.
        """
        verdicts: _Verdicts = {}
        for job in batch:
            pictures = list(made[job.id].pictures.values())
            if not _is_to_be_seen(job):
                verdicts[job.id] = [None] * len(pictures)
                continue
            try:
                verdicts[job.id] = self._run.engine.verdicts(pictures)
            except Exception as error:  # noqa: BLE001  as in _try
                self.give_up(job, error)
        return verdicts

    def _by_policy(
        self, batch: Sequence[Job], made: Mapping[UUID, Made], verdicts: _Verdicts
    ) -> dict[UUID, Made]:
        """Treat flagged pictures as their gateways want; a job that is left with none is settled.

        So is one whose gateway's policy cannot be read, or needs verdicts that nobody could give:
        nothing goes out against it.
        """
        allowed = {job.id: made[job.id] for job in batch}
        subject = [job for job in batch if any(verdicts[job.id]) or _is_unseen(job, verdicts)]
        if not subject:
            return allowed
        gateways = {job.gateway_id for job in subject}
        try:
            policy = self._insist(subject, lambda session: policies.safety(session, gateways))
        except SQLAlchemyError as error:
            for job in subject:
                del allowed[job.id]
                self.give_up(job, error)
            return allowed
        for job in subject:
            wanted = policy[job.gateway_id]
            if wanted != policies.DEFAULT and _is_unseen(job, verdicts):
                del allowed[job.id]
                self.give_up(job, Unchecked(wanted))
                continue
            before, flags = made[job.id], verdicts[job.id]
            pictures = policies.apply(wanted, before.pictures, flags)
            verdicts[job.id] = [
                flag for i, flag in zip(before.pictures, flags, strict=True) if i in pictures
            ]
            withheld = len(before.pictures) - len(pictures)
            failed = before.failed or (Withheld(withheld) if withheld else None)
            if pictures:
                allowed[job.id] = Made(pictures, failed)
            else:
                del allowed[job.id]
                self.give_up(job, Withheld(withheld))
        return allowed

    def _store_all(
        self, batch: Sequence[Job], made: Mapping[UUID, Made], verdicts: _Verdicts
    ) -> list[_Stored]:
        """Store the pictures of jobs whose claims are good; a job that cannot be is settled."""
        called = self._called(batch)
        batch = [job for job in batch if job.id in called]
        storing = {
            job.id: [
                self._transfers.submit(
                    telemetry.within, [job], self._store, job, called[job.id], index, picture, nsfw
                )
                for (index, picture), nsfw in zip(
                    made[job.id].pictures.items(), verdicts[job.id], strict=True
                )
            ]
            for job in batch
        }
        stored = []
        for job in batch:
            # All of them, before the job may run again: a late one would come after the sweeper.
            wait(storing[job.id])
            try:
                one = self._stored(job, storing[job.id], made[job.id].failed)
                # Last, so that where it is, all that it tells of is.
                manifests.store(self._run.store, job, called[job.id], one.outputs)
                stored.append(one)
            except Interrupted:
                continue
            except Exception as error:  # noqa: BLE001  as in _try
                self.give_up(job, error)
        return stored

    def _called(self, batch: Sequence[Job]) -> dict[UUID, str | None]:
        """Draw what tasks' results are called; a job for which that cannot be done is settled."""
        called: dict[UUID, str | None] = {}
        for job in batch:
            try:
                called[job.id] = stems.of(partial(self._insist, [job]), self._run.store, job)
            except Exception as error:  # noqa: BLE001  as in _try
                self.give_up(job, error)
        return called

    def _stored(
        self, job: Job, storing: Sequence[Future[NewOutput]], failed: Exception | None
    ) -> _Stored:
        """Return what was stored of a job: all that was made, or what could be on a last attempt.

        Raises:
            Interrupted: The claim is gone.
            Exception: What failed first, where the job may run again or nothing was stored.
        """
        errors = [error for one in storing if isinstance(error := one.exception(), Exception)]
        outputs = [one.result() for one in storing if not isinstance(one.exception(), Exception)]
        for error in errors:
            if isinstance(error, Interrupted) or not outputs or not self.is_last(job, error):
                raise error
            failed = failed or error
        return _Stored(job, outputs, failed)

    def _store(
        self,
        job: Job,
        stem: str | None,
        index: int,
        picture: Picture,
        nsfw: bool | None,  # noqa: FBT001  a verdict, not an option
    ) -> NewOutput:
        if self._is_lost(job):
            raise Interrupted("The claim is gone.")
        run = Generation.of(job.params)
        seed = run.seed_of(index)
        with metrics.timed("encode", job.model_id, [job]):
            origin = {
                "seed": str(seed),
                "model": job.model_id,
                "model_hash": names.weights_hash(self._run.catalog.get(job.model_id)),
                "job_id": str(job.id),
            }
            data = formats.encoded(picture, formats.KINDS[run.finer.format], origin)
        kind = formats.recognised(data)
        # It cannot be guessed, so a link to it is the permission to see the picture.
        name = f"{index}-{secrets.token_hex(12)}{kind.extension}"
        key = results.picture_key(job.id, job.attempt, index, name, stem)
        with metrics.timed("upload", job.model_id, [job]):
            self._run.store.put(key, data, kind.content_type)
        self._run.leases.touch()
        return NewOutput(
            index=index,
            name=name,
            key=key,
            seed=seed,
            nsfw=nsfw,
            width=picture.width,
            height=picture.height,
            content_type=kind.content_type,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).digest(),
        )

    def _settle_all(self, stored: Sequence[_Stored]) -> set[UUID]:
        """Deliver and capture; if the books refuse a batch, its jobs one by one."""
        if not stored:
            return set()
        try:
            batch = [one.job for one in stored]
            with metrics.timed("settle", batch[0].model_id, batch):
                settled = self._settle(stored)
        except Exception as error:  # noqa: BLE001  as in _try
            if len(stored) > 1:
                return {job_id for one in stored for job_id in self._settle_all([one])}
            self.give_up(stored[0].job, error)
            return set()
        for one in stored:
            if one.job.id in settled:
                metrics.note_captured(one.job, len(one.outputs))
            event = "job_succeeded" if one.job.id in settled else "claim_gone"
            _log.info(
                event,
                **telemetry.of(one.job),
                pictures=len(one.outputs),
                asked=one.job.num_images,
            )
        return settled

    def _settle(self, stored: Sequence[_Stored]) -> set[UUID]:
        """Settle in one transaction; the fence makes it harmless to do so twice."""
        finished = {(one.job.id, one.job.attempt): one.outputs for one in stored}
        missing = {one.job.id: failures.message_of(one.failed) for one in stored if one.failed}
        batch = [one.job for one in stored]
        try:
            return self._insist(batch, lambda session: claims.succeed(session, finished, missing))
        except _PASSING:
            return set()  # The leases end, and the jobs run again.

    def _insist(self, batch: Sequence[Job], what: Callable[[Session], _Result]) -> _Result:
        """Return what a transaction does, however long the database is away.

        But not beyond the claims, nor forever.

        Raises:
            SQLAlchemyError: It was away for too long, or it is another matter.
        """
        tried = 0
        while True:
            tried += 1
            try:
                with self._run.sessions.begin() as session:
                    return what(session)
            except _PASSING as error:
                _log.warning(
                    "settlement_failed",
                    tried=tried,
                    error=telemetry.brief(error),
                    jobs=[telemetry.of(job) for job in batch],
                )
                if tried == _SETTLE_TRIES or all(map(self._is_lost, batch)):
                    raise
                time.sleep(min(_SETTLE_WAIT_S, 0.1 * 2**tried))

    def give_up(self, job: Job, error: Exception) -> None:
        """Settle a job that made no pictures: it runs again where that may help, or it fails."""
        settings = self._run.settings
        code, message = failures.code_of(error), failures.message_of(error)
        again = not self.is_last(job, error)
        if failures.speaks_against_the_worker(error):
            self._failed_since_success.add(job.id)
        _log.warning(
            "job_waits_to_run_again" if again else "job_failed",
            **telemetry.of(job),
            code=code,
            error=message,
            exc_info=None if isinstance(error, TasksError) else error,
        )
        try:
            with self._run.sessions.begin() as session:
                if again:
                    delay_s = settings.retry_delay_s * 2 ** (job.tries - 1)
                    current = claims.requeue(session, job.id, job.attempt, delay_s)
                else:
                    current = claims.fail(session, job.id, job.attempt, code, message)
                if not current:
                    claims.leave_to_sweep(session, [job.id])
            if current:
                metrics.note_done(job, "requeued" if again else "failed")
        except Exception as gone:  # noqa: BLE001  the lease ends, and the job runs again
            _log.warning("settlement_failed", **telemetry.of(job), error=telemetry.brief(gone))
        self._run.leases.drop([job])

    def _is_lost(self, job: Job) -> bool:
        return self._run.leases.is_lost(job)

    def _leave_to_sweep(self, gone: Sequence[Job]) -> None:
        try:
            with self._run.sessions.begin() as session:
                claims.leave_to_sweep(session, [job.id for job in gone])
        except SQLAlchemyError as error:
            about = [telemetry.of(job) for job in gone]
            _log.warning("objects_left", jobs=about, error=telemetry.brief(error))


def _is_unseen(job: Job, verdicts: _Verdicts) -> bool:
    """Tell whether a job's pictures were to be looked at, and there was nobody to do so."""
    return _is_to_be_seen(job) and None in verdicts[job.id]


def _is_to_be_seen(job: Job) -> bool:
    return bool(job.params.get("safety_check", True))
