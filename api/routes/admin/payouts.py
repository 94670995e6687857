"""/v1/admin/owed and /v1/admin/payouts: what orchestrators are owed, and paying it."""

from __future__ import annotations

from flask import Blueprint, Response

from api import paging, paper, parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.admin.owners import find_orchestrator
from api.routes.admin.schemas import NewPayout, OwedQuery, Reversal, SheetQuery
from api.routes.admin.views import OwedsView, OwedView, PayoutLineView, PayoutsView, PayoutView
from api.runtime import current
from api.schemas import PageQuery
from ledger import payouts
from ledger.errors import (
    InvalidAmount,
    InvalidName,
    NothingOwed,
    PayoutReversed,
    ReferenceReused,
    UnknownOrchestrator,
    UnknownPayout,
)
from ledger.money import plain
from ledger.payouts import Batch, Line

bp = Blueprint("payouts", __name__)

# A reference may have a slash in it.
_ONE = "/payouts/<path:reference>"


@bp.get("/owed")
@operation(
    Operation(
        tag="admin",
        security="admin",
        query=OwedQuery,
        answers=[Answer(200, "Who is owed something", OwedsView)],
        errors=[InvalidAmount],
    )
)
def owed() -> Response:
    """List what orchestrators have earned, less what was refunded and paid out."""
    asked = parsing.query(OwedQuery)
    with current().reads() as session:
        found = payouts.owed(session, asked.currency)
    data = [
        OwedView(orchestrator=one.orchestrator, amount=plain(one.amount), currency=one.currency)
        for one in found
    ]
    return render.answer(OwedsView(data=data, next_cursor=None))


@bp.post("/payouts")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewPayout},
        answers=[Answer(201, "The payout", PayoutView)],
        errors=[UnknownOrchestrator, InvalidName, InvalidAmount, NothingOwed, ReferenceReused],
    )
)
def create() -> Response:
    """Make a payout of what is owed, once for each reference: a line for each orchestrator.

    What is in a payout is owed no more. Transfer the amounts, then say that it is paid; reverse
    what could not be paid.
    """
    asked = parsing.json_body(NewPayout)
    runtime = current()
    with runtime.sessions.begin() as session:
        only = None
        if asked.orchestrators is not None:
            only = {find_orchestrator(session, name).id for name in asked.orchestrators}
        currency = runtime.settlement_currency if asked.currency is None else asked.currency
        batch = payouts.create(session, asked.reference, currency, only)
    return render.answer(_view(batch), 201)


@bp.get("/payouts")
@operation(
    Operation(
        tag="admin",
        security="admin",
        query=PageQuery,
        answers=[Answer(200, "A page of payouts", PayoutsView)],
    )
)
def index() -> Response:
    """List the payouts, newest first."""
    asked = parsing.query(PageQuery)
    before = paging.read_cursor(asked.cursor)
    with current().reads() as session:
        found = payouts.list_batches(session, asked.limit + 1, before)
    page, cursor = paging.cut(found, asked.limit, lambda batch: batch.id)
    return render.answer(PayoutsView(data=[_view(one) for one in page], next_cursor=cursor))


@bp.get(_ONE)
@operation(
    Operation(
        tag="admin",
        security="admin",
        query=SheetQuery,
        answers=[Answer(200, "The payout", PayoutView, content=[paper.CSV])],
        errors=[UnknownPayout],
    )
)
def show(reference: str) -> Response:
    """Show a payout: as JSON, or as CSV for whoever makes the transfers."""
    asked = parsing.query(SheetQuery)
    with current().reads() as session:
        batch = payouts.find(session, reference)
    if paper.form(asked.format, ("json", "csv")) == "csv":
        response = paper.csv_file(f"payout-{batch.id}", payouts.to_csv(batch))
    else:
        response = render.answer(_view(batch))
    response.headers["Vary"] = "Accept"
    return response


@bp.post(f"{_ONE}/paid")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The payout now", PayoutView)],
        errors=[UnknownPayout, PayoutReversed],
    )
)
def mark_paid(reference: str) -> Response:
    """Say that a payout was paid: all lines that are not reversed. Twice is no error."""
    with current().sessions.begin() as session:
        batch = payouts.mark_paid(session, reference)
    return render.answer(_view(batch))


@bp.post(f"{_ONE}/reversal")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: Reversal},
        answers=[Answer(200, "The payout now", PayoutView)],
        errors=[UnknownPayout],
    )
)
def reverse(reference: str) -> Response:
    """Take a payout back, or one orchestrator's line of it, paid or not: it is owed again.

    Twice is no error.
    """
    asked = parsing.json_body(Reversal)
    with current().sessions.begin() as session:
        batch = payouts.reverse(session, reference, asked.orchestrator)
    return render.answer(_view(batch))


def _view(batch: Batch) -> PayoutView:
    return PayoutView(
        reference=batch.reference,
        currency=batch.currency,
        created_at=batch.created_at,
        total=plain(batch.total),
        lines=[_line(line) for line in batch.lines],
    )


def _line(line: Line) -> PayoutLineView:
    return PayoutLineView.model_validate(
        {
            "orchestrator": line.orchestrator,
            "amount": plain(line.amount),
            "currency": line.currency,
            "state": line.state,
            "created_at": line.created_at,
            "paid_at": line.paid_at,
            "reversed_at": line.reversed_at,
        }
    )
