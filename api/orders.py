"""From a checked body to an order and its job: what jobs, quotes and the dialects have in common.

The one thing that is stored on the way is the input picture of a job that is about to be submitted.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session
from structlog.contextvars import bind_contextvars
from uuid_utils.compat import uuid7

from api.auth import Caller
from api.runtime import Runtime
from api.schemas import JobFields
from ledger import accounts, refusals
from ledger.errors import InsufficientFunds, InvalidAmount, LedgerError, Refused
from ledger.money import UnitPrice, unit_price
from ledger.offers import Capability
from tasks import jobs, lora, metrics, params, results, telemetry, tracing
from tasks.errors import (
    FieldError,
    IdempotencyConflict,
    InvalidParams,
    StorageError,
    TasksError,
)
from tasks.finer import Finer
from tasks.fitting import Fit, fitted
from tasks.inputs import CheckedImage, checked_image
from tasks.jobs import Bell, Order
from tasks.params import Generation
from tasks.tables import Job
from tasks.waiting import Wait

_log = telemetry.get_logger()
# Small enough that every JSON reader keeps it whole; `seed + k` stays far below the bound.
_RANDOM_SEEDS = 2**32


# A picture's bytes, a link to it, or one that is checked.
Given = bytes | str | CheckedImage | None


@dataclass(frozen=True)
class Beside:
    """What a dialect asks for beyond a job's own fields.

    The picture is brought to the size of `fit`; where the job starts from its latents, by the
    worker. `callback` is kept with the job, for those who tell of its end.
    """

    fit: Fit | None = None
    callback: Mapping[str, Any] = field(default_factory=dict)
    finer: Finer = field(default_factory=Finer)


_NOTHING = Beside()


def place(
    runtime: Runtime,
    caller: Caller,
    asked: JobFields,
    given: Given,
    key: str | None,
    beside: Beside = _NOTHING,
) -> tuple[Job, Wait | None]:
    """Make a job of a checked body and its picture or link; returns it, and what it waits for.

    It has been made before where that is None. `key` is the caller's idempotency key. A refusal
    holds, queues and stores nothing.

    Raises:
        UnknownModel, InvalidParams, InvalidImage, InvalidAmount: As `prepare` and `deadline_s`.
        NoOffer, Refused, IdempotencyConflict, StorageError: As `submit`.
    """
    digest = request_hash(asked, given, beside)
    if key is not None:
        with runtime.reads() as session:
            job = earlier(session, caller.gateway_id, key, digest)
        if job is not None:
            bind_contextvars(**telemetry.of(job))
            return job, None
    prepared = prepare(runtime, caller.gateway_id, asked, given, beside)
    order = Order(
        gateway_id=caller.gateway_id,
        api_key_id=caller.api_key_id,
        generation=prepared.generation,
        request_hash=digest,
        deadline_s=deadline_s(runtime, asked),
        max_price=prepared.max_price,
        priority=asked.priority,
        callback=_callback(asked, beside),
        idempotency_key=key,
        max_rate_age=runtime.max_rate_age,
        weights=runtime.task_settings.weights,
        traceparent=tracing.carried(),
    )
    job, wait = submit(runtime, order, prepared.picture)
    # What is logged from here on, while the request waits for it, is about this job.
    bind_contextvars(**telemetry.of(job))
    if wait is not None:
        runtime.ringer.ring(Bell(job.id, job.queue, job.model_id, job.traceparent))
    return job, wait


def _callback(asked: JobFields, beside: Beside) -> dict[str, Any] | None:
    context = {} if asked.context is None else {"context": asked.context}
    return {**context, **beside.callback} or None


@dataclass(frozen=True)
class Prepared:
    """A request that fits its model."""

    generation: Generation
    picture: CheckedImage | None
    max_price: UnitPrice | None


def prepare(
    runtime: Runtime,
    gateway_id: UUID,
    asked: JobFields,
    given: Given,
    beside: Beside = _NOTHING,
) -> Prepared:
    """Check a request against its model, and its picture; fill in the defaults.

    The picture is given as its bytes, or as a link, which is fetched here: before anything is held,
    so that a bad link costs nothing. Its size is then that of the `fit`.

    Raises:
        UnknownModel: The catalog has no such model.
        InvalidImage: The picture cannot be used.
        InvalidParams: A field does not fit the model.
        InvalidAmount: `max_price` is no price.
        LinksBusy, LinkLimit: Too many links are being fetched.
    """
    spec = runtime.catalog.resolve(asked.model_id)
    bounds = runtime.task_settings
    picture = None if given is None else checked(runtime, gateway_id, given)
    fit, finer = beside.fit, beside.finer
    size = fit or picture
    generation = params.validate(
        spec,
        _request(asked, finer, masked=picture is not None and picture.masked),
        seed=secrets.randbelow(_RANDOM_SEEDS),
        image_size=None if picture is None or size is None else (size.width, size.height),
        lora_patterns=lora.patterns(bounds.loras),
    )
    # By now, that size is one that the model takes.
    if picture is not None and fit is not None and finer.start != "latents":
        picture = fitted(picture, fit)
    return Prepared(generation, picture, _max_price(runtime, asked))


def checked(runtime: Runtime, gateway_id: UUID, given: bytes | str | CheckedImage) -> CheckedImage:
    """Return a picture of a gateway's that is safe to keep, from its bytes or behind a link.

    Raises:
        InvalidImage: It cannot be used.
        LinksBusy, LinkLimit: Too many links are being fetched.
    """
    if isinstance(given, CheckedImage):
        return given
    bounds = runtime.task_settings
    return checked_image(
        runtime.links.fetch(given, gateway_id) if isinstance(given, str) else given,
        max_bytes=bounds.max_input_bytes,
        max_pixels=bounds.max_input_pixels,
    )


def _request(asked: JobFields, finer: Finer, *, masked: bool) -> params.Request:
    return params.Request(
        pipeline=asked.pipeline,
        model_id=asked.model_id,
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        width=asked.width,
        height=asked.height,
        num_images_per_prompt=asked.num_images_per_prompt,
        num_inference_steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
        image_guidance_scale=asked.image_guidance_scale,
        strength=asked.strength,
        seed=asked.seed,
        loras=asked.loras,
        safety_check=asked.safety_check,
        sampler=asked.sampler,
        schedule=asked.schedule,
        masked=masked,
        finer=finer,
    )


def _max_price(runtime: Runtime, asked: JobFields) -> UnitPrice | None:
    if asked.max_price is None:
        return None
    try:
        return unit_price(asked.max_price, 1, runtime.settlement_currency)
    except InvalidAmount as error:
        raise InvalidAmount("max_price", error.reason) from None


def deadline_s(runtime: Runtime, asked: JobFields) -> float:
    """Return how far away a request's deadline is.

    Raises:
        InvalidParams: It is past, or further away than allowed.
    """
    if asked.deadline is None:
        return runtime.task_settings.default_deadline_s
    seconds = (asked.deadline - datetime.now(UTC)).total_seconds()
    if not 0 < seconds <= runtime.settings.max_deadline_s:
        most = runtime.settings.max_deadline_s
        raise InvalidParams(
            [FieldError("deadline", f"must be in the future, at most {most} seconds from now")]
        )
    return seconds


def request_hash(asked: JobFields, given: Given, beside: Beside) -> bytes:
    """Return what tells a repeated request from another one: its fields and picture, canonically.

    A form and a JSON body that ask for the same are the same request. So are two with the same
    link, whatever is behind it by now: a repeated request does not fetch it again.
    """
    fields = asked.model_dump(mode="json", exclude={"image"})
    data = given.png if isinstance(given, CheckedImage) else given
    fields["image"] = hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else data
    if beside != _NOTHING:
        fields["beside"] = asdict(beside)
        if beside.finer == _NOTHING.finer:  # the hash is that of before there was any
            del fields["beside"]["finer"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).digest()


def earlier(session: Session, gateway_id: UUID, key: str, digest: bytes) -> Job | None:
    """Return the job that an idempotency key has made, before anything is checked or stored again.

    A retry must find its job even when its deadline has passed or its price has risen meanwhile.

    Raises:
        IdempotencyConflict: The key was used with another request.
    """
    found = session.execute(
        select(Job.id, Job.request_hash).where(
            Job.gateway_id == gateway_id, Job.idempotency_key == key
        )
    ).one_or_none()
    if found is None:
        return None
    if found.request_hash != digest:
        raise IdempotencyConflict(key, found.id)
    return jobs.find(session, gateway_id, found.id)


def submit(runtime: Runtime, order: Order, picture: CheckedImage | None) -> tuple[Job, Wait | None]:
    """Submit an order with its input picture; returns the job, and what it waits for if it is new.

    The picture is stored outside of any transaction, and only when the job can be paid for. Its key
    is this request's own, so that a refusal can delete it whoever else has sent the same picture.
    What the ledger refuses is recorded for finance.

    Raises:
        NoOffer, Refused, IdempotencyConflict: As `tasks.jobs.submit`. Nothing is held, queued or
            stored.
        StorageError: The picture could not be stored. Nothing is held or queued.
    """
    try:
        if picture is None:
            with runtime.statements() as session:
                job, wait = jobs.submit(session, order)
        else:
            job, wait = _submit_with(runtime, order, picture)
    except Refused as refusal:
        _record(runtime, order, refusal)
        raise
    if wait is not None:
        metrics.HOLDS.labels(job.model_id).inc()
        _log.info("job_submitted", **telemetry.of(job), model_id=job.model_id, queue=job.queue)
    return job, wait


def _record(runtime: Runtime, order: Order, refusal: Refused) -> None:
    """Record a refusal; the answer to the client does not depend on it."""
    generation = order.generation
    capability = Capability(generation.pipeline, generation.model_id)
    try:
        with runtime.sessions.begin() as session:
            refusals.record(
                session,
                order.gateway_id,
                capability,
                generation.units,
                refusal,
                order.api_key_id,
            )
    except Exception as error:  # noqa: BLE001  the refusal is what the client must hear of
        _log.warning("refusal_not_recorded", reason=refusal.code, error=telemetry.brief(error))


def _submit_with(runtime: Runtime, order: Order, picture: CheckedImage) -> tuple[Job, Wait | None]:
    with runtime.reads() as session:
        _check_affordable(session, order)
    digest = hashlib.sha256(picture.png).hexdigest()
    key = f"{results.INPUTS}/{order.gateway_id}/{digest}-{uuid7().hex}.png"
    runtime.store.put(key, picture.png, "image/png")
    try:
        with runtime.statements() as session:
            job, wait = jobs.submit(session, replace(order, input_key=key))
    except (LedgerError, TasksError):
        # Not on an error of the database: a commit whose answer was lost may have made the job.
        _discard(runtime, key, {"gateway_id": str(order.gateway_id)})
        raise
    if wait is None:
        _discard(runtime, key, telemetry.of(job))
    return job, wait


def _check_affordable(session: Session, order: Order) -> None:
    """Refuse what `jobs.submit` would refuse, before a picture is stored for it."""
    quote = jobs.estimate(
        session,
        order.gateway_id,
        order.generation,
        order.max_price,
        max_rate_age=order.max_rate_age,
        orchestrator=order.orchestrator,
    ).quote
    balance = accounts.balance(session, order.gateway_id)
    if balance.available < quote.amount:
        raise InsufficientFunds(quote.amount, balance.available, quote.currency)


def _discard(runtime: Runtime, key: str, about: Mapping[str, object]) -> None:
    """Delete a picture that no job has; `about` says whose it was, or which job has another."""
    try:
        runtime.store.delete([key])
    except StorageError as error:
        # The answer to the client does not depend on it.
        _log.warning("input_left_behind", **about, key=key, error=str(error))
