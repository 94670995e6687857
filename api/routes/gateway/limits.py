"""/v1/limits: the most that a gateway pays; and how a list of limits is read, for admins too."""

from __future__ import annotations

from flask import Blueprint, Response

from api import parsing, render
from api.openapi import Answer, Operation, operation
from api.runtime import current, current_gateway
from api.schemas import LimitItem, LimitsRequest
from api.views import LimitsSetView, LimitsView
from ledger import limits, names
from ledger.errors import CurrencyMismatch, InvalidAmount, InvalidName
from ledger.limits import Limit
from ledger.money import unit_price
from tasks.errors import FieldError, InvalidParams

bp = Blueprint("limits", __name__, url_prefix="/limits")


@bp.get("")
@operation(
    Operation(
        tag="gateway",
        security="gateway",
        answers=[Answer(200, "The limits", LimitsView)],
    )
)
def show() -> Response:
    """Show the most that is paid for each model, pipeline, or anything."""
    with current().reads() as session:
        return render.answer(render.limits(limits.list_limits(session, current_gateway())))


@bp.put("")
@operation(
    Operation(
        tag="gateway",
        security="gateway",
        body={parsing.JSON: LimitsRequest},
        answers=[Answer(200, "The limits now", LimitsSetView)],
        errors=[InvalidAmount, InvalidName, CurrencyMismatch],
    )
)
def replace() -> Response:
    """Replace all limits.

    For a job the most exact limit holds: of its model, else of its pipeline, else of everything.
    Without one, the job is refused. A null price accepts any. `warnings` names the limits for what
    nobody offers: they are set, and wait for an offer.
    """
    runtime = current()
    wanted = requested_limits(runtime.settlement_currency)
    with runtime.sessions.begin() as session:
        warned = limits.replace_limits(
            session, current_gateway(), wanted, runtime.settlement_currency
        )
        found = limits.list_limits(session, current_gateway())
    return render.answer(render.limits_set(found, warned))


def requested_limits(currency: str) -> list[Limit]:
    """Read the limits that a request's body asks for.

    Raises:
        InvalidParams: Two are for the same scope, one is for a model without saying of which
            pipeline, or a field is wrong.
        InvalidAmount: A price is none; names it.
        InvalidName: A pipeline or model_id is a text that is no name; names it.
    """
    items = parsing.json_body(LimitsRequest).data
    seen = set()
    for index, item in enumerate(items):
        scope = (item.pipeline, item.model_id)
        if scope in seen:
            said = "has the pipeline and model of an earlier limit"
            raise InvalidParams([FieldError(f"data.{index}", said)])
        seen.add(scope)
        if item.model_id is not None and item.pipeline is None:
            said = "is needed where a model_id is given"
            raise InvalidParams([FieldError(f"data.{index}.pipeline", said)])
    return [_limit(index, item, currency) for index, item in enumerate(items)]


def _limit(index: int, item: LimitItem, currency: str) -> Limit:
    for field in ("pipeline", "model_id"):
        if (name := getattr(item, field)) is not None:
            names.checked(f"data.{index}.{field}", name)
    if item.price_per_unit is None:
        return Limit(item.pipeline, item.model_id, None)
    try:
        price = unit_price(
            item.price_per_unit,
            1 if item.pixels_per_unit is None else item.pixels_per_unit,
            currency if item.currency is None else item.currency,
        )
    except InvalidAmount as error:
        raise InvalidAmount(f"data.{index}.{error.field}", error.reason) from None
    return Limit(item.pipeline, item.model_id, price)
