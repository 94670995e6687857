"""The task: claim -> engine -> store -> settle. Callable without Celery; a message only wakes it.

The encoding, upload and settlement of one batch overlap the denoising of the next. No transaction
is open while the engine works, and whatever goes wrong has a type that says whether the job fails,
waits and runs again, or is somebody else's now.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from PIL import Image
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tasks import jobs, sweeps, telemetry
from tasks.batching import choose_queue, chunks
from tasks.catalog import Catalog, ModelSpec
from tasks.engine.encoding import encode_png
from tasks.engine.protocol import Batch, Engine, ImageTask
from tasks.errors import (
    InferenceError,
    Interrupted,
    ObjectNotFound,
    OutOfMemory,
    StorageError,
    TasksError,
)
from tasks.leases import Leases
from tasks.params import Generation
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tasks.tables import Job

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_log = telemetry.get_logger()
_UPLOADS = 4
_SETTLE_TRIES = 5


@dataclass(frozen=True)
class Runtime:
    """What a worker works with; built once, by the composition root."""

    worker_id: str
    queues: tuple[str, ...]
    sessions: sessionmaker[Session]
    store: ObjectStore
    engine: Engine
    catalog: Catalog
    settings: TaskSettings
    leases: Leases


@dataclass(frozen=True)
class _Slot:
    """One picture of one job: the k-th, with the seed `seed + k`."""

    job: Job
    index: int
    task: ImageTask


class Runner:
    """Serves the worker's queues, one batch at a time on the engine."""

    def __init__(self, runtime: Runtime) -> None:
        """Take the runtime; threads start with the first batch."""
        self._run = runtime
        self._stopping = threading.Event()
        self._uploads = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="upload")
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self.last_claim_at = time.monotonic()

    def stop(self) -> None:
        """Ask `serve` to return after the batch it is at; may be called from a signal handler."""
        self._stopping.set()

    def serve(self) -> None:
        """Run batches until no queue of this worker has a job ready, and settle all of them."""
        finishing: Future[None] | None = None
        while not self._stopping.is_set():
            claimed = self._claim()
            if not claimed:
                break
            pictures = self._make_all(claimed)
            # One batch at a time is being finished while the next one is made: more would only pile
            # up pictures.
            if finishing is not None:
                finishing.result()
            finishing = self._finisher.submit(self._finish, claimed, pictures)
        if finishing is not None:
            finishing.result()

    # --- claiming -----------------------------------------------------------------------------

    def _claim(self) -> list[Job]:
        run = self._run
        with run.sessions.begin() as session:
            ready = sweeps.backlogs(session, run.queues)
            queue = choose_queue(ready, run.engine.loaded, run.settings.model_switch_wait_s)
            if queue is None:
                return []
            model_id = next(one.model_id for one in ready if one.queue == queue)
            claimed = jobs.claim(
                session,
                queue,
                run.worker_id,
                self._max_batch(model_id),
                run.settings.lease_s,
            )
        self.last_claim_at = time.monotonic()
        run.leases.hold(claimed)
        return claimed

    def _max_batch(self, model_id: str) -> int:
        known = {spec.model_id: spec.max_batch for spec in self._run.catalog.models()}
        return known.get(model_id, 1)

    # --- making -------------------------------------------------------------------------------

    def _make_all(self, claimed: Sequence[Job]) -> dict[UUID, list[Picture]]:
        """Make the pictures of a claimed batch; jobs that cannot be made are settled here."""
        inputs = {job.id: self._input(job) for job in claimed if job.input_key is not None}
        usable = [job for job in claimed if job.input_key is None or inputs[job.id] is not None]
        try:
            return self._make(usable, inputs)
        except InferenceError as error:
            if len(usable) == 1:
                self._give_up(usable[0], error)
                return {}
        except TasksError as error:
            for job in usable:
                self._give_up(job, error)
            return {}
        # One job's input may have spoilt the batch for all: each is tried by itself.
        pictures: dict[UUID, list[Picture]] = {}
        for job in usable:
            pictures |= self._make_alone(job, inputs)
        return pictures

    def _make_alone(
        self, job: Job, inputs: Mapping[UUID, Picture | None]
    ) -> dict[UUID, list[Picture]]:
        try:
            return self._make([job], inputs)
        except TasksError as error:
            self._give_up(job, error)
            return {}

    def _make(
        self, batch: Sequence[Job], inputs: Mapping[UUID, Picture | None]
    ) -> dict[UUID, list[Picture]]:
        """Run pipeline calls for jobs that share a batch key; one whose claim is gone is left out.

        Raises:
            UnknownModel: This worker's catalog does not have the model.
            EngineError: The model cannot be loaded, or a call failed.
        """
        if not batch:
            return {}
        spec = self._run.catalog.get(batch[0].model_id)
        self._run.engine.load(spec, batch[0].pipeline)
        slots = [slot for job in batch for slot in _slots(job, inputs.get(job.id))]
        parts = chunks(len(slots), spec.max_batch)
        made: dict[UUID, list[Picture]] = {job.id: [] for job in batch}
        for number, part in enumerate(parts):
            chunk = slots[part.start : part.stop]
            for slot, picture in zip(
                chunk, self._call(spec, chunk, number, len(parts)), strict=False
            ):
                made[slot.job.id].append(picture)
        return {job.id: made[job.id] for job in batch if len(made[job.id]) == job.num_images}

    def _call(
        self, spec: ModelSpec, chunk: Sequence[_Slot], number: int, parts: int
    ) -> list[Picture]:
        """Make one pipeline call, in halves when memory is short; nothing when nobody wants it."""
        on_step = self._reporter({slot.job.id for slot in chunk}, number, parts)
        try:
            return self._run.engine.generate(_batch(spec, chunk), on_step)
        except Interrupted:
            return []
        except OutOfMemory:
            if len(chunk) == 1:
                raise
            _log.warning("batch_halved", model_id=spec.model_id, images=len(chunk))
        middle = len(chunk) // 2
        return self._call(spec, chunk[:middle], number, parts) + self._call(
            spec, chunk[middle:], number, parts
        )

    def _reporter(
        self, job_ids: Iterable[UUID], number: int, parts: int
    ) -> Callable[[int, int], bool]:
        leases = self._run.leases
        wanted = list(job_ids)

        def on_step(done: int, steps: int) -> bool:
            leases.note(wanted, number * steps + done, parts * steps)
            return not all(leases.is_lost(job_id) for job_id in wanted)

        return on_step

    def _input(self, job: Job) -> Picture | None:
        """Return the input picture in the size that is run; None when the job was settled."""
        size = (job.params["width"], job.params["height"])
        try:
            data = self._run.store.get(job.input_key or "")
        except StorageError as error:
            self._give_up(job, error)
            return None
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)

    # --- finishing ----------------------------------------------------------------------------

    def _finish(self, claimed: Sequence[Job], pictures: Mapping[UUID, Sequence[Picture]]) -> None:
        """Store the pictures of a batch and settle it in one transaction."""
        finished: dict[tuple[UUID, int], list[jobs.NewOutput]] = {}
        for job in claimed:
            if job.id not in pictures or self._run.leases.is_lost(job.id):
                continue
            try:
                finished[job.id, job.attempt] = self._upload(job, pictures[job.id])
            except StorageError as error:
                self._give_up(job, error)
        try:
            if finished:
                self._settle(finished)
        finally:
            self._run.leases.drop(job.id for job in claimed)

    def _upload(self, job: Job, pictures: Sequence[Picture]) -> list[jobs.NewOutput]:
        def store(index: int) -> jobs.NewOutput:
            return self._store_picture(job, index, pictures[index])

        return list(self._uploads.map(store, range(len(pictures))))

    def _store_picture(self, job: Job, index: int, picture: Picture) -> jobs.NewOutput:
        seed = int(job.params["seed"]) + index
        data = encode_png(picture, seed=seed, model_id=job.model_id, job_id=str(job.id))
        # The name cannot be guessed, so a link to it is the permission to see it; the attempt in
        # the key keeps a worker that lost its claim from overwriting the winner's picture.
        name = f"{index}-{secrets.token_hex(12)}.png"
        key = f"outputs/{job.id}/{job.attempt}/{name}"
        self._run.store.put(key, data, "image/png")
        return jobs.NewOutput(
            name=name,
            key=key,
            seed=seed,
            nsfw=None,
            width=picture.width,
            height=picture.height,
            content_type="image/png",
            size_bytes=len(data),
            sha256=hashlib.sha256(data).digest(),
        )

    def _settle(self, finished: Mapping[tuple[UUID, int], Sequence[jobs.NewOutput]]) -> None:
        """Deliver and capture; the fence makes a repetition harmless when the database was away."""
        for tried in range(1, _SETTLE_TRIES + 1):
            try:
                with self._run.sessions.begin() as session:
                    settled = jobs.succeed(session, finished)
                break
            except OperationalError as error:
                _log.warning("settlement_failed", tried=tried, error=str(error))
                if tried == _SETTLE_TRIES:
                    return  # The leases end, and the jobs run again.
                time.sleep(0.2 * 2**tried)
        for job_id, attempt in finished:
            event = "job_succeeded" if job_id in settled else "claim_gone"
            _log.info(event, job_id=str(job_id), attempt=attempt)

    def _give_up(self, job: Job, error: TasksError) -> None:
        """Settle a job that made no pictures: transient troubles run again, the others fail it."""
        settings = self._run.settings
        transient = isinstance(error, StorageError) and not isinstance(error, ObjectNotFound)
        again = transient and job.attempt < settings.max_attempts
        _log.warning(
            "job_waits_to_run_again" if again else "job_failed",
            job_id=str(job.id),
            attempt=job.attempt,
            code=error.code,
            error=str(error),
        )
        try:
            with self._run.sessions.begin() as session:
                if again:
                    delay_s = settings.retry_delay_s * 2 ** (job.attempt - 1)
                    jobs.requeue(session, job.id, job.attempt, delay_s)
                else:
                    jobs.fail(session, job.id, job.attempt, error.code, str(error))
        except OperationalError as gone:
            _log.warning("settlement_failed", job_id=str(job.id), error=str(gone))
        self._run.leases.drop([job.id])


def _slots(job: Job, image: Picture | None) -> list[_Slot]:
    params = Generation(**job.params)
    return [
        _Slot(job, k, ImageTask(params.prompt, params.negative_prompt, params.seed + k, image))
        for k in range(job.num_images)
    ]


def _batch(spec: ModelSpec, chunk: Sequence[_Slot]) -> Batch:
    shared = Generation(**chunk[0].job.params)
    return Batch(
        model=spec,
        pipeline=shared.pipeline,
        width=shared.width,
        height=shared.height,
        num_inference_steps=shared.num_inference_steps,
        guidance_scale=shared.guidance_scale,
        image_guidance_scale=shared.image_guidance_scale,
        strength=shared.strength,
        tasks=tuple(slot.task for slot in chunk),
    )
