"""/v1/statement: what moved a gateway's available balance, to read, keep or print."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Blueprint, Response, request
from sqlalchemy import RowMapping

from api import paging, paper, parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.gateway.views import MovementView, StatementView
from api.runtime import current, current_gateway
from api.schemas import StatementQuery
from ledger import accounts, reports
from ledger.money import plain
from ledger.tables import Gateway

bp = Blueprint("statement", __name__, url_prefix="/statement")

_COLUMNS = ("posted_at", "kind", "reference", "amount", "currency")


@bp.get("")
@operation(
    Operation(
        tag="gateway",
        security="gateway",
        query=StatementQuery,
        answers=[
            Answer(
                200,
                "A page of movements",
                StatementView,
                content=[paper.CSV, paper.HTML],
                headers={"Link": "Where the next page is, as `rel=next`, where there is one"},
            )
        ],
    )
)
def show() -> Response:
    """Show what came in and went out, newest first: as JSON, CSV, or a page to print.

    A hold takes its amount out; what a job does not cost comes back with its capture, void or
    expiry. `Link` names the next page, for forms that have no `next_cursor`.
    """
    asked = parsing.query(StatementQuery)
    before = paging.read_cursor(asked.cursor)
    with current().reads() as session:
        gateway = session.get_one(Gateway, current_gateway())
        found = reports.statement(session, gateway.id, before=before, limit=asked.limit + 1)
        balance = accounts.balance(session, gateway.id)
    page, cursor = paging.cut(found, asked.limit, lambda row: int(row["posting_id"]))
    form = paper.form(asked.format, ("json", "csv", "html"))
    if form == "csv":
        response = paper.sheet(f"statement-{gateway.name}", _COLUMNS, (dict(row) for row in page))
    elif form == "html":
        amounts = paper.aligned([line["amount"] for line in page])
        response = paper.page(
            "statement.html",
            gateway=gateway.name,
            balance=render.balance(balance),
            lines=list(zip(page, amounts, strict=True)),
            first=before is None,
            last=cursor is None,
        )
    else:
        response = render.answer(_view(page, cursor))
    if cursor is not None:
        response.headers["Link"] = f'<{_address(asked, cursor)}>; rel="next"'
    response.headers["Vary"] = "Accept"
    return response


def _view(page: Sequence[RowMapping], cursor: str | None) -> StatementView:
    return StatementView(
        data=[
            MovementView(
                posted_at=row["posted_at"],
                kind=row["kind"],
                reference=row["reference"],
                amount=plain(row["amount"]),
                currency=row["currency"],
            )
            for row in page
        ],
        next_cursor=cursor,
    )


def _address(asked: StatementQuery, cursor: str) -> str:
    form = f"&format={asked.format}" if asked.format else ""
    return f"{request.path}?limit={asked.limit}&cursor={cursor}{form}"
