"""/v1/budgets: what a gateway may spend, and what it has spent of that; and how budgets look."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from flask import Blueprint, Response
from sqlalchemy.orm import Session

from api import render
from api.openapi import Answer, Operation, operation
from api.routes.gateway.views import BudgetsView, BudgetView
from api.runtime import current, current_gateway
from ledger import budgets
from ledger.budgets import Status
from ledger.money import plain

bp = Blueprint("budgets", __name__, url_prefix="/budgets")


@bp.get("")
@operation(
    Operation(
        tag="gateway",
        security="gateway",
        answers=[Answer(200, "The budgets", BudgetsView)],
    )
)
def index() -> Response:
    """List the budgets that bound what is spent, with what is used of them now.

    An admin sets them. Open holds count in full, and captures with what was charged.
    """
    with current().reads() as session:
        return render.answer(shown(session, current_gateway()))


def shown(session: Session, gateway_id: UUID) -> BudgetsView:
    """Return all of a gateway's budgets, as they are shown."""
    found: Sequence[Status] = budgets.list_budgets(session, gateway_id)
    return BudgetsView(data=[_view(one) for one in found], next_cursor=None)


def _view(one: Status) -> BudgetView:
    return BudgetView.model_validate(
        {
            "period": one.period,
            "api_key_id": one.api_key_id,
            "amount": plain(one.amount),
            "used": plain(one.used),
            "remaining": plain(one.remaining),
            "currency": one.currency,
            "starts": one.starts,
        }
    )
