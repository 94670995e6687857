"""/v1/admin/gateways/<gateway>/limits: what a gateway pays at most, and what nobody sells it."""

from __future__ import annotations

from flask import Blueprint, Response

from api import paging, parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.admin.owners import find_gateway
from api.routes.gateway.limits import requested_limits
from api.runtime import current
from api.schemas import LimitsRequest, PageQuery
from api.views import LimitsSetView, LimitsView, LimitWarningsView
from ledger import limits
from ledger.errors import CurrencyMismatch, InvalidAmount, InvalidName, UnknownGateway

bp = Blueprint("limits", __name__, url_prefix="/gateways/<gateway>")


@bp.get("/limits")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The limits", LimitsView)],
        errors=[UnknownGateway],
    )
)
def show(gateway: str) -> Response:
    """Show a gateway's limits."""
    with current().reads() as session:
        found = limits.list_limits(session, find_gateway(session, gateway).id)
    return render.answer(render.limits(found))


@bp.put("/limits")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: LimitsRequest},
        answers=[Answer(200, "The limits now", LimitsSetView)],
        errors=[UnknownGateway, InvalidAmount, InvalidName, CurrencyMismatch],
    )
)
def replace(gateway: str) -> Response:
    """Replace a gateway's limits, as the gateway itself can."""
    runtime = current()
    wanted = requested_limits(runtime.settlement_currency)
    with runtime.sessions.begin() as session:
        owner = find_gateway(session, gateway)
        warned = limits.replace_limits(session, owner.id, wanted, runtime.settlement_currency)
        found = limits.list_limits(session, owner.id)
    return render.answer(render.limits_set(found, warned))


@bp.get("/limit-warnings")
@operation(
    Operation(
        tag="admin",
        security="admin",
        query=PageQuery,
        answers=[Answer(200, "A page of warnings", LimitWarningsView)],
        errors=[UnknownGateway],
    )
)
def warnings(gateway: str) -> Response:
    """List the limits that were set for what nobody offered then, newest first."""
    asked = parsing.query(PageQuery)
    before = paging.read_cursor(asked.cursor)
    with current().reads() as session:
        owner = find_gateway(session, gateway)
        found = limits.list_warnings(session, owner.id, before=before, limit=asked.limit + 1)
    page, cursor = paging.cut(found, asked.limit, lambda row: row.id)
    return render.answer(
        LimitWarningsView(data=[render.limit_warning(row) for row in page], next_cursor=cursor)
    )
