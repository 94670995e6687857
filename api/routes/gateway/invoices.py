"""/v1/invoices: what a gateway owes for a month, to read, keep or print."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from flask import Blueprint, Response

from api import paper, parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.gateway.views import InvoiceLineView, InvoiceMonthView, InvoicesView, InvoiceView
from api.runtime import current, current_gateway
from api.schemas import FormQuery
from ledger import invoices
from ledger.errors import InvalidMonth
from ledger.invoices import Invoice, Line
from ledger.money import UnitPrice, plain

bp = Blueprint("invoices", __name__, url_prefix="/invoices")

_COLUMNS = (
    *("month", "gateway", "kind", "pipeline", "model_id", "price_per_unit", "pixels_per_unit"),
    *("price_currency", "items", "units", "amount", "currency"),
)
_LONGEST_MONTH = timedelta(days=31)


@bp.get("")
@operation(
    Operation(
        tag="gateway",
        security="gateway",
        answers=[Answer(200, "The months", InvoicesView)],
    )
)
def index() -> Response:
    """List the months in which something was charged or refunded, newest first."""
    with current().reads() as session:
        months = invoices.months(session, current_gateway())
    data = [
        InvoiceMonthView(month=f"{month:%Y-%m}", url=f"/v1/invoices/{month:%Y-%m}")
        for month in months
    ]
    return render.answer(InvoicesView(data=data, next_cursor=None))


@bp.get("/<month>")
@operation(
    Operation(
        tag="gateway",
        security="gateway",
        query=FormQuery,
        answers=[Answer(200, "The invoice", InvoiceView, content=[paper.CSV, paper.HTML])],
        errors=[InvalidMonth],
    )
)
def show(month: str) -> Response:
    """Show what is owed for a month of UTC: as JSON, CSV, or a page to print.

    One line for each price of each capability, and one for what was refunded of that. Of a month
    that is not over, it shows what there is so far.
    """
    asked = parsing.query(FormQuery)
    with current().reads() as session:
        invoice = invoices.find(session, current_gateway(), month)
    form = paper.form(asked.format, ("json", "csv", "html"))
    if form == "csv":
        response = paper.sheet(f"invoice-{month}-{invoice.gateway}", _COLUMNS, _rows(invoice))
    elif form == "html":
        response = _page(invoice)
    else:
        response = render.answer(_view(invoice))
    response.headers["Vary"] = "Accept"
    return response


def _view(invoice: Invoice) -> InvoiceView:
    return InvoiceView(
        gateway=invoice.gateway,
        month=f"{invoice.month:%Y-%m}",
        closed=invoice.closed,
        currency=invoice.currency,
        lines=[_line(one) for one in invoice.lines],
        charged=plain(invoice.charged),
        refunded=plain(invoice.refunded),
        total=plain(invoice.total),
    )


def _line(line: Line) -> InvoiceLineView:
    return InvoiceLineView.model_validate(
        {
            "kind": line.kind,
            "pipeline": line.pipeline,
            "model_id": line.model_id,
            "items": line.items,
            "units": line.units,
            "amount": plain(line.amount),
            **render.unit_price(_price(line)).model_dump(),
        }
    )


def _price(line: Line) -> UnitPrice:
    return UnitPrice(line.price_per_unit, line.pixels_per_unit, line.price_currency)


def _rows(invoice: Invoice) -> Iterator[dict[str, object]]:
    facts = {
        "month": f"{invoice.month:%Y-%m}",
        "gateway": invoice.gateway,
        "currency": invoice.currency,
    }
    for line in invoice.lines:
        yield {**facts, **vars(line)}


def _page(invoice: Invoice) -> Response:
    sums = (invoice.charged, invoice.refunded.copy_negate(), invoice.total)
    amounts = paper.aligned([*(line.amount for line in invoice.lines), *sums])
    return paper.page(
        "invoice.html",
        invoice=invoice,
        last_day=_last_day(invoice.month),
        lines=[
            (line, str(_price(line)), amount)
            for line, amount in zip(invoice.lines, amounts, strict=False)
        ],
        sums=amounts[len(invoice.lines) :],
    )


def _last_day(first: date) -> date:
    return (first + _LONGEST_MONTH).replace(day=1) - timedelta(days=1)
