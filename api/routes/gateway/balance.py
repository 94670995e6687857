"""/v1/balance: what a gateway can spend now."""

from __future__ import annotations

from flask import Blueprint, Response

from api import render
from api.openapi import Answer, Operation, operation
from api.runtime import current, current_gateway
from api.views import BalanceView
from ledger import accounts

bp = Blueprint("balance", __name__, url_prefix="/balance")


@bp.get("")
@operation(
    Operation(
        tag="gateway",
        security="gateway",
        answers=[Answer(200, "The balance", BalanceView)],
    )
)
def show() -> Response:
    """Show what can be spent, and what is held for open jobs."""
    with current().reads() as session:
        return render.answer(render.balance(accounts.balance(session, current_gateway())))
