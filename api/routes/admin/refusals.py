"""/v1/admin/refusals: the jobs that were not sold, and why."""

from __future__ import annotations

from decimal import Decimal

from flask import Blueprint, Response
from sqlalchemy import RowMapping

from api import paging, parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.admin.schemas import RefusalsQuery
from api.routes.admin.views import RefusalsView, RefusalView
from api.runtime import current
from ledger import reports
from ledger.errors import InvalidName
from ledger.money import UnitPrice, plain

bp = Blueprint("refusals", __name__, url_prefix="/refusals")

_FILTERS = ("gateway", "reason", "model_id")


@bp.get("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        query=RefusalsQuery,
        answers=[Answer(200, "A page of refusals", RefusalsView)],
        errors=[InvalidName],
    )
)
def index() -> Response:
    """List submissions that were refused for their price, a budget or the funds, newest first."""
    asked = parsing.query(RefusalsQuery)
    before = paging.read_cursor(asked.cursor)
    where = {name: value for name in _FILTERS if (value := getattr(asked, name)) is not None}
    with current().reads() as session:
        found = reports.rows(session, "refusals", where, before=before, limit=asked.limit + 1)
    page, cursor = paging.cut(found, asked.limit, lambda row: int(row["refusal_id"]))
    return render.answer(RefusalsView(data=[_view(row) for row in page], next_cursor=cursor))


def _view(row: RowMapping) -> RefusalView:
    same = ("refused_at", "gateway", "api_key_id", "reason", "pipeline", "model_id", "units")
    return RefusalView.model_validate(
        {
            **{name: row[name] for name in (*same, "currency", "message")},
            "id": row["refusal_id"],
            "needed": _plain(row["needed"]),
            "available": _plain(row["available"]),
            "best_price": _price(
                row["price_per_unit"], row["pixels_per_unit"], row["price_currency"]
            ),
            "limit": _price(
                row["limit_price_per_unit"], row["limit_pixels_per_unit"], row["limit_currency"]
            ),
        }
    )


def _plain(amount: Decimal | None) -> str | None:
    return None if amount is None else plain(amount)


def _price(price: Decimal | None, pixels: int, currency: str) -> object:
    if price is None:
        return None
    return render.unit_price(UnitPrice(price, pixels, currency))
