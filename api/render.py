"""Rows and values of the floors below, as the API shows them. Reads nothing and decides nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from flask import Response, request

from api.runtime import Runtime
from api.views import (
    BalanceView,
    BoundsView,
    DefaultsView,
    HoldView,
    JobErrorView,
    JobView,
    LimitsSetView,
    LimitsView,
    LimitView,
    LimitWarningView,
    ModelView,
    OfferPriceView,
    OutputView,
    Parameters,
    PriceView,
    QuoteView,
    Range,
    View,
)
from ledger.accounts import Balance
from ledger.limits import Limit
from ledger.money import UnitPrice, charge, plain
from ledger.offers import Capability
from ledger.tables import LimitWarning
from tasks import availability
from tasks.catalog import ModelSpec
from tasks.jobs import Estimate
from tasks.params import Generation
from tasks.routing import Candidate
from tasks.tables import Job, Output

_WAITS = (
    "No worker of {orchestrator} is up. The job is accepted and waits; its deadline still ends it."
)
_WOULD_WAIT = "No worker of {orchestrator} is up. A job would be accepted, and would wait."


def answer(view: View, status: int = 200, **headers: str) -> Response:
    """Return a view as a JSON response."""
    return Response(view.model_dump_json(), status, headers, mimetype="application/json")


def job(row: Job, *, runtime: Runtime, queue_position: int | None, live: bool) -> JobView:
    """Show a job to who asks for it; it was loaded with its hold, orchestrator and outputs."""
    url_of = functools.partial(_url, runtime=runtime)
    return job_with(row, url_of=url_of, queue_position=queue_position, live=live)


def job_with(
    row: Job, *, url_of: Callable[[Output], str], queue_position: int | None, live: bool
) -> JobView:
    """Show a job, with `url_of` saying where its pictures are."""
    queued = row.state == "queued"
    return JobView.model_validate(
        {
            "id": row.id,
            "state": row.state,
            "pipeline": row.pipeline,
            "model_id": row.model_id,
            "progress": _progress(row),
            "phase": row.phase if row.state == "running" else None,
            "queue_position": queue_position,
            "units": row.units,
            "price_per_unit": plain(row.hold.price_per_unit),
            "pixels_per_unit": row.hold.pixels_per_unit,
            "amount": plain(row.hold.amount),
            "charged": _charged(row),
            "currency": row.hold.currency,
            "orchestrator": row.orchestrator.name,
            # A poll between a job's row and its outputs must not show a half.
            "outputs": [_output(one, url_of(one)) for one in row.outputs]
            if row.state == "succeeded"
            else [],
            "error": _job_error(row),
            "hold": HoldView.model_validate(
                {"id": row.hold.id, "state": row.hold.state, "expires_at": row.hold.expires_at}
            ),
            "attempt": row.attempt,
            "priority": row.priority,
            "context": (row.callback or {}).get("context"),
            "parameters": Parameters.model_validate(row.params),
            "created_at": row.created_at,
            "started_at": row.started_at,
            "finished_at": row.finished_at,
            "deadline": row.deadline,
            "notice": _WAITS.format(orchestrator=row.orchestrator.name)
            if queued and not live
            else None,
        }
    )


def _charged(row: Job) -> str | None:
    if row.state != "succeeded":
        return None
    units = row.units // row.num_images * len(row.outputs)
    return plain(charge(units, row.hold.price, row.hold.exchange))


def _progress(row: Job) -> float:
    if row.state == "succeeded":
        return 1.0
    return min(1.0, row.step / row.steps) if row.steps else 0.0


def _job_error(row: Job) -> JobErrorView | None:
    if row.error_code is None:
        return None
    return JobErrorView(code=row.error_code, message=row.error_message or "")


def object_url(row: Output, runtime: Runtime) -> str:
    """Return where the object store has a picture: a public address, or a link for a while."""
    settings = runtime.settings
    if settings.results == "public":
        return f"{settings.results_url.rstrip('/')}/{row.key}"
    return runtime.store.presign(row.key, settings.redirect_expires_s)


def stream_url(row: Output, host: str) -> str:
    """Return where the API, as it is reached at this host, streams a picture."""
    return f"{host.rstrip('/')}/stream/{row.job_id}/{row.name}"


def _url(row: Output, runtime: Runtime) -> str:
    settings = runtime.settings
    if settings.results in ("presigned", "public"):
        return object_url(row, runtime)
    return stream_url(row, settings.public_url or request.host_url)


def _output(row: Output, url: str) -> OutputView:
    return OutputView(
        url=url,
        seed=row.seed,
        nsfw=row.nsfw,
        width=row.width,
        height=row.height,
        content_type=row.content_type,
    )


def quote(estimate: Estimate, generation: Generation) -> QuoteView:
    """Show what a job would cost."""
    offer = estimate.quote.offer
    price = estimate.limit.price
    return QuoteView(
        pipeline=generation.pipeline,  # type: ignore[arg-type]  # checked with the request
        model_id=generation.model_id,
        units=estimate.quote.units,
        price_per_unit=plain(offer.price.price_per_unit),
        pixels_per_unit=offer.price.pixels_per_unit,
        amount=plain(estimate.quote.amount),
        currency=estimate.quote.currency,
        orchestrator=offer.orchestrator,
        limit=None if price is None else unit_price(price),
        live=estimate.live,
        warm=estimate.warm,
        parameters=Parameters.model_validate(generation.to_json()),
        notice=None if estimate.live else _WOULD_WAIT.format(orchestrator=offer.orchestrator),
    )


def unit_price(price: UnitPrice) -> PriceView:
    """Show a price."""
    return PriceView(
        price_per_unit=plain(price.price_per_unit),
        pixels_per_unit=price.pixels_per_unit,
        currency=price.currency,
    )


def balance(found: Balance) -> BalanceView:
    """Show a balance."""
    return BalanceView(
        available=plain(found.available), held=plain(found.held), currency=found.currency
    )


def limits(found: Sequence[Limit]) -> LimitsView:
    """Show a gateway's limits."""
    return LimitsView(data=[_limit(one) for one in found], next_cursor=None)


def limits_set(found: Sequence[Limit], warned: Sequence[LimitWarning]) -> LimitsSetView:
    """Show a gateway's limits as they were set just now, and what is odd about them."""
    return LimitsSetView(
        **limits(found).model_dump(), warnings=[limit_warning(row) for row in warned]
    )


def limit_warning(row: LimitWarning) -> LimitWarningView:
    """Show a warning about a limit."""
    return LimitWarningView(
        pipeline=row.pipeline,
        model_id=row.model_id,
        message=row.message,
        created_at=row.created_at,
    )


def _limit(limit: Limit) -> LimitView:
    price = limit.price
    return LimitView(
        pipeline=limit.pipeline,
        model_id=limit.model_id,
        price_per_unit=None if price is None else plain(price.price_per_unit),
        pixels_per_unit=None if price is None else price.pixels_per_unit,
        currency=None if price is None else price.currency,
    )


def model(spec: ModelSpec, capability: Capability, candidates: Sequence[Candidate]) -> ModelView:
    """Show a capability with its offers, in the order in which they come."""
    found = availability.of(spec, candidates)
    return ModelView(
        pipeline=capability.pipeline,  # type: ignore[arg-type]  # one of the catalog's
        model_id=spec.model_id,
        aliases=list(spec.aliases),
        revision=spec.revision,
        state=found.state,
        reason=found.reason,
        live=any(one.live for one in candidates),
        warm=any(one.warm for one in candidates),
        offers=[_offer_price(one) for one in candidates],
        bounds=BoundsView(
            size=Range(minimum=spec.min_size, maximum=spec.max_size),
            size_multiple=spec.size_multiple,
            num_images_per_prompt=Range(minimum=1, maximum=spec.max_images),
            num_inference_steps=Range(minimum=1, maximum=spec.max_steps),
            prompt_characters=Range(minimum=1, maximum=spec.max_prompt_chars),
        ),
        defaults=DefaultsView(
            width=spec.default_width,
            height=spec.default_height,
            num_inference_steps=spec.default_steps,
            guidance_scale=spec.default_guidance_scale,
            image_guidance_scale=spec.default_image_guidance_scale,
            strength=spec.default_strength,
        ),
    )


def _offer_price(one: Candidate) -> OfferPriceView:
    price = one.offer.price
    return OfferPriceView(
        orchestrator=one.offer.orchestrator,
        price_per_unit=plain(price.price_per_unit),
        pixels_per_unit=price.pixels_per_unit,
        currency=price.currency,
        live=one.live,
        warm=one.warm,
    )
