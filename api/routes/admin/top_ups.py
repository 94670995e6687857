"""/v1/admin/gateways/<gateway>/top-ups: funds for a gateway."""

from __future__ import annotations

from flask import Blueprint, Response

from api import parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.admin.owners import find_gateway
from api.routes.admin.schemas import TopUp
from api.routes.admin.views import TopUpView
from api.runtime import current
from ledger import accounts
from ledger.errors import InvalidAmount, InvalidName, ReferenceReused, UnknownGateway
from ledger.money import plain

bp = Blueprint("top_ups", __name__, url_prefix="/gateways/<gateway>/top-ups")


@bp.post("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: TopUp},
        answers=[Answer(201, "The funds are there", TopUpView)],
        errors=[UnknownGateway, InvalidAmount, InvalidName, ReferenceReused],
    )
)
def create(gateway: str) -> Response:
    """Add funds to a gateway, once for each reference."""
    asked = parsing.json_body(TopUp)
    with current().sessions.begin() as session:
        row = find_gateway(session, gateway)
        entry = accounts.top_up(session, row.id, asked.amount, asked.reference)
        view = TopUpView(
            reference=asked.reference,
            amount=plain(asked.amount),
            currency=entry.currency,
            balance=render.balance(accounts.balance(session, row.id)),
        )
    return render.answer(view, 201)
