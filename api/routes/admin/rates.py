"""/v1/admin/rates: what currencies are worth in each other, and who said so when."""

from __future__ import annotations

from datetime import timedelta

from flask import Blueprint, Response

from api import paging, parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.admin.schemas import NewRate
from api.routes.admin.views import RatesView, RateView
from api.runtime import current
from api.schemas import PageQuery
from ledger import rates
from ledger.errors import InvalidAmount, InvalidName
from ledger.money import plain
from ledger.tables import ExchangeRate

bp = Blueprint("rates", __name__, url_prefix="/rates")


@bp.post("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewRate},
        answers=[Answer(201, "The rate", RateView)],
        errors=[InvalidAmount, InvalidName],
    )
)
def create() -> Response:
    """State an exchange rate. It is never edited: the one that was observed last holds."""
    asked = parsing.json_body(NewRate)
    runtime = current()
    with runtime.sessions.begin() as session:
        row = rates.set_rate(
            session,
            asked.base_currency,
            asked.quote_currency,
            asked.rate,
            asked.source,
            asked.observed_at,
        )
        [(row, age)] = rates.history(session, before=row.id + 1, limit=1)
        known = rates.load(session, runtime.settlement_currency, runtime.max_rate_age)
        view = _view(row, age, known)
    return render.answer(view, 201)


@bp.get("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        query=PageQuery,
        answers=[Answer(200, "A page of rates", RatesView)],
    )
)
def index() -> Response:
    """List the exchange rates, those that were recorded last first."""
    asked = parsing.query(PageQuery)
    before = paging.read_cursor(asked.cursor)
    runtime = current()
    with runtime.reads() as session:
        found = rates.history(session, before=before, limit=asked.limit + 1)
        known = rates.load(session, runtime.settlement_currency, runtime.max_rate_age)
    page, cursor = paging.cut(found, asked.limit, lambda one: one[0].id)
    data = [_view(row, age, known) for row, age in page]
    return render.answer(RatesView(data=data, next_cursor=cursor))


def _view(row: ExchangeRate, age: timedelta, known: rates.Rates) -> RateView:
    return RateView(
        id=row.id,
        base_currency=row.base_currency,
        quote_currency=row.quote_currency,
        rate=plain(row.rate),
        source=row.source,
        observed_at=row.observed_at,
        created_at=row.created_at,
        age_s=age.total_seconds(),
        too_old=age > known.max_age,
        newest=row.id in {rate.id for rate in known.known.values()},
    )
