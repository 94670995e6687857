"""The task: claim -> engine -> store -> settle. Callable without Celery; a message only wakes it.

The storing and settlement of one batch (`tasks.settling`) overlap the denoising of the next. No
transaction is open while the engine works.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tasks import claims, failures, metrics, sweeps, telemetry
from tasks.batching import Backlog, choose_queue, chunks
from tasks.catalog import ModelSpec
from tasks.engine.protocol import Batch, ImageTask, Variation
from tasks.errors import InferenceError, Interrupted, InvalidImage
from tasks.params import Generation
from tasks.runtime import Runtime
from tasks.samplers import Choice
from tasks.settling import Made, Settler
from tasks.tables import Job

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_log = telemetry.get_logger()
_TRANSFERS = 4


@dataclass(frozen=True)
class _Slot:
    """One picture of one job: the k-th, with the seed `seed + k`."""

    job: Job
    index: int
    task: ImageTask


_Inputs: TypeAlias = "Mapping[UUID, Picture | None]"
_Made: TypeAlias = dict[UUID, Made]


class Runner:
    """Serves the worker's queues, one batch at a time on the engine. Used by one thread."""

    def __init__(self, runtime: Runtime) -> None:
        """Take the runtime; threads start with the first batch."""
        self._run = runtime
        self._stopping = threading.Event()
        self._stopped_at = float("inf")
        self._transfers = ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="transfer")
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._settler = Settler(runtime, self._transfers)
        self._switched_at = float("-inf")
        self.looked_at = time.monotonic()

    @property
    def is_broken(self) -> bool:
        """Tell whether job after job fails, so that only a new process may help."""
        return self._settler.is_broken

    @property
    def is_leaving(self) -> bool:
        """Tell whether it was asked to stop."""
        return self._stopping.is_set()

    @property
    def leaving_s(self) -> float:
        """How long ago it was asked to stop; below zero if it was not."""
        return time.monotonic() - self._stopped_at

    def stop(self) -> None:
        """Ask `serve` to return after the batch it is at; may be called from a signal handler."""
        self._stopped_at = min(self._stopped_at, time.monotonic())
        self._stopping.set()

    def serve(self) -> None:
        """Run batches until no queue of this worker has a job ready, and settle all of them."""
        finishing: Future[None] | None = None
        try:
            while not self._stopping.is_set() and not self.is_broken:
                claimed = self._claim()
                if not claimed:
                    break
                # What ran before may have killed its worker, and must not do so to a batch that is
                # all but paid for.
                if finishing is not None and any(job.tries > 1 for job in claimed):
                    finishing.result()
                made = telemetry.within(claimed, self._make_all, claimed)
                # One batch at a time is being finished while the next one is made: more would only
                # pile up pictures.
                if finishing is not None:
                    finishing.result()
                finishing = self._finisher.submit(
                    telemetry.within, claimed, self._settler.finish, claimed, made
                )
        finally:
            if finishing is not None:
                finishing.result()

    # --- claiming -----------------------------------------------------------------------------

    def _claim(self) -> list[Job]:
        run = self._run
        asked_at = self.looked_at = time.monotonic()
        try:
            with run.sessions.begin() as session:
                claimed = self._claim_first(session, sweeps.backlogs(session, run.queues))
        except SQLAlchemyError as error:
            # If jobs were claimed nevertheless, nobody renews them, and their leases end.
            _log.warning("claim_failed", error=telemetry.brief(error))
            return []
        run.leases.hold(claimed, asked_at)
        metrics.note_claimed(claimed)
        return claimed

    def _claim_first(self, session: Session, ready: Sequence[Backlog]) -> list[Job]:
        """Claim from the best queue, or from the next one if others were faster there."""
        run = self._run
        since_switch_s = time.monotonic() - self._switched_at
        patience_s = run.settings.model_switch_wait_s
        while best := choose_queue(ready, run.engine.loaded, patience_s, since_switch_s):
            most = self._max_batch(best.model_id)
            claimed = claims.claim(session, best.queue, run.worker_id, most, run.settings.lease_s)
            if claimed:
                return claimed
            ready = [one for one in ready if one != best]
        return []

    def _max_batch(self, model_id: str) -> int:
        known = {spec.model_id: spec.max_batch for spec in self._run.catalog.models()}
        return known.get(model_id, 1)

    # --- making -------------------------------------------------------------------------------

    def _make_all(self, claimed: Sequence[Job]) -> _Made:
        """Make the pictures of a claimed batch; jobs that cannot be made are settled here."""
        inputs = self._inputs(claimed)
        return self._try([job for job in claimed if job.id in inputs], inputs)

    def _try(self, batch: Sequence[Job], inputs: _Inputs) -> _Made:
        try:
            made = self._make(batch, inputs)
        except Exception as error:  # noqa: BLE001  whatever an engine raises ends as its jobs' error
            if isinstance(error, InferenceError) and len(batch) > 1:
                # One job may have spoilt the call for all: each is tried by itself.
                return {
                    job_id: one for job in batch for job_id, one in self._try([job], inputs).items()
                }
            for job in batch:
                self._settler.give_up(job, error)
            return {}
        ended = {job.id: made[job.id] for job in batch if _is_worth_storing(job, made[job.id])}
        if ended:
            self._settler.note_success()
        for job in batch:
            failed = made[job.id].failed
            if job.id not in ended and failed is not None:
                self._settler.give_up(job, failed)
        return ended

    def _make(self, batch: Sequence[Job], inputs: _Inputs) -> _Made:
        """Make the pictures of jobs that share a batch key, as far as they can be made.

        A job whose claim is gone stays without the rest of them. On a job's last attempt, what
        fails with others is made by itself, and what fails by itself is left out.

        Raises:
            UnknownModel: This worker's catalog does not have the model.
            StorageError: The model is in an object store that cannot be read.
            EngineError: The model cannot be loaded, or a call failed that can be tried again.
        """
        if not batch:
            return {}
        spec = self._run.catalog.get(batch[0].model_id)
        self._load(spec, batch)
        made: _Made = {job.id: Made() for job in batch}
        waiting = [slot for job in batch for slot in _slots(job, inputs[job.id])]
        total, size = len(waiting), spec.max_batch
        while waiting := [slot for slot in waiting if not self._is_lost(slot.job)]:
            chunk = waiting[: len(chunks(len(waiting), size)[0])]
            try:
                done = sum(len(one.pictures) for one in made.values())
                pictures = self._call(spec, batch, chunk, done, total)
            except Interrupted:
                pass
            except Exception as error:
                if not all(self._settler.is_last(slot.job, error) for slot in chunk):
                    raise
                if len(chunk) > 1 and failures.is_of_one_picture(error):
                    size = -(-len(chunk) // 2)
                    jobs = [telemetry.of(job) for job in batch]
                    _log.warning(
                        "batch_halved", model_id=spec.model_id, images=len(chunk), jobs=jobs
                    )
                    continue
                for slot in chunk:
                    made[slot.job.id].failed = error
            else:
                for slot, picture in zip(chunk, pictures, strict=True):
                    made[slot.job.id].pictures[slot.index] = picture
            waiting = waiting[len(chunk) :]
        return made

    def _load(self, spec: ModelSpec, batch: Sequence[Job]) -> None:
        engine = self._run.engine
        is_switch = spec.model_id not in engine.loaded
        if is_switch:
            self._run.leases.note(batch, 0, 0, "loading")
        with metrics.timed("load", spec.model_id, batch) if is_switch else nullcontext():
            engine.load(spec, batch[0].pipeline)
        if is_switch:
            self._switched_at = time.monotonic()
        self._run.leases.note(batch, 0, 0)

    def _call(
        self, spec: ModelSpec, batch: Sequence[Job], chunk: Sequence[_Slot], done: int, total: int
    ) -> list[Picture]:
        """Make one pipeline call, after `done` of the `total` pictures of the batch.

        Raises:
            Interrupted: The claims of all its jobs are gone.
            EngineError: The model cannot be loaded, or the call failed.
        """

        def on_step(step: int, steps: int) -> bool:
            self._run.leases.note(batch, done * steps + len(chunk) * step, total * steps, "drawing")
            return not all(self._is_lost(slot.job) for slot in chunk)

        began_at = time.monotonic()
        metrics.BATCH_FILL.labels(spec.model_id).observe(len(chunk) / spec.max_batch)
        drawn = {slot.job.id: slot.job for slot in chunk}
        with metrics.timed("denoise", spec.model_id, [*drawn.values()]):
            pictures = self._run.engine.generate(_batch(spec, chunk), on_step)
        units = sum(slot.job.units // slot.job.num_images for slot in chunk)
        self._run.speeds.note(chunk[0].job.queue, units, time.monotonic() - began_at)
        if len(pictures) != len(chunk):
            raise InferenceError(
                f"{len(pictures)} pictures were made where {len(chunk)} were asked"
            )
        return pictures

    def _is_lost(self, job: Job) -> bool:
        return self._run.leases.is_lost(job)

    def _inputs(self, claimed: Sequence[Job]) -> _Inputs:
        """Return each job's input picture or None; a job whose input cannot be had is settled."""
        fetching = {
            job.id: self._transfers.submit(telemetry.within, [job], self._input, job)
            for job in claimed
            if job.input_key is not None
        }
        inputs: dict[UUID, Picture | None] = {}
        for job in claimed:
            try:
                inputs[job.id] = fetching[job.id].result() if job.id in fetching else None
            except Exception as error:  # noqa: BLE001  as in _try
                self._settler.give_up(job, error)
        return inputs

    def _input(self, job: Job) -> Picture:
        """Return the input picture in the size that is run."""
        from PIL import Image

        data = self._run.store.get(job.input_key or "")
        try:
            picture = Image.open(io.BytesIO(data))
            picture.load()
        except (OSError, ValueError, SyntaxError) as error:
            raise InvalidImage("The stored input picture cannot be decoded.") from error
        run = Generation.of(job.params)
        if run.keeps_input_size:
            return picture
        size = (run.width, run.height)
        # One after the other: a resized whole would lose the colours where its mask is black.
        parts = [
            picture.convert("RGB"),
            *([picture.getchannel("A")] if picture.mode == "RGBA" else []),
        ]
        sized, *mask = [
            part if part.size == size else part.resize(size, Image.Resampling.LANCZOS)
            for part in parts
        ]
        if mask:
            sized.putalpha(mask[0])
        return sized


def _is_worth_storing(job: Job, made: Made) -> bool:
    """Tell whether a job has all its pictures, or those of them that can be made."""
    return len(made.pictures) == job.num_images or bool(made.pictures and made.failed)


def _slots(job: Job, image: Picture | None) -> list[_Slot]:
    params = Generation.of(job.params)
    mask = image.getchannel("A") if image is not None and params.masked else None
    image = image.convert("RGB") if image is not None else None
    return [
        _Slot(
            job,
            k,
            ImageTask(
                params.prompt,
                params.negative_prompt,
                params.seed_of(k),
                image,
                mask,
                Variation(params.subseed_of(k), params.finer.subseed_strength),
            ),
        )
        for k in range(job.num_images)
    ]


def _batch(spec: ModelSpec, chunk: Sequence[_Slot]) -> Batch:
    shared = Generation.of(chunk[0].job.params)
    return Batch(
        model=spec,
        pipeline=shared.pipeline,
        width=shared.width,
        height=shared.height,
        num_inference_steps=shared.num_inference_steps,
        guidance_scale=shared.guidance_scale,
        image_guidance_scale=shared.image_guidance_scale,
        strength=shared.strength,
        loras=shared.loras,
        sampling=Choice(shared.sampler, shared.schedule),
        first_pass=shared.finer.first_pass,
        start=shared.finer.start,
        tasks=tuple(slot.task for slot in chunk),
    )
