"""/v1/admin/gateways/<gateway>/budgets: what a gateway, or one of its API keys, may spend."""

from __future__ import annotations

from flask import Blueprint, Response
from sqlalchemy.orm import Session

from api import parsing, render
from api.errors import UnknownKey
from api.openapi import Answer, Operation, operation
from api.routes.admin.owners import find_gateway, find_key
from api.routes.admin.schemas import BudgetAmount
from api.routes.gateway.budgets import shown
from api.routes.gateway.views import BudgetsView
from api.runtime import current
from ledger import budgets
from ledger.errors import InvalidAmount, InvalidName, UnknownGateway
from ledger.tables import Gateway

bp = Blueprint("budgets", __name__, url_prefix="/gateways/<gateway>")

_OF_A_KEY = "/keys/<key_id>/budgets/<period>"


@bp.get("/budgets")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The budgets", BudgetsView)],
        errors=[UnknownGateway],
    )
)
def index(gateway: str) -> Response:
    """List a gateway's budgets and those of its keys, with what is used of them now."""
    with current().reads() as session:
        return render.answer(shown(session, find_gateway(session, gateway).id))


@bp.put("/budgets/<period>")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: BudgetAmount},
        answers=[Answer(200, "The budgets now", BudgetsView)],
        errors=[UnknownGateway, InvalidAmount, InvalidName],
    )
)
def set_own(gateway: str, period: str) -> Response:
    """Set what a gateway may spend in each day or month, in place of an earlier budget."""
    asked = parsing.json_body(BudgetAmount)
    with current().sessions.begin() as session:
        owner = find_gateway(session, gateway)
        return _set(session, owner, period, asked)


@bp.delete("/budgets/<period>")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The budgets that are left", BudgetsView)],
        errors=[UnknownGateway, InvalidName],
    )
)
def remove_own(gateway: str, period: str) -> Response:
    """Take a gateway's budget away. Twice is no error."""
    with current().sessions.begin() as session:
        owner = find_gateway(session, gateway)
        return _remove(session, owner, period)


@bp.put(_OF_A_KEY)
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: BudgetAmount},
        answers=[Answer(200, "The gateway's budgets now", BudgetsView)],
        errors=[UnknownGateway, UnknownKey, InvalidAmount, InvalidName],
    )
)
def set_of_key(gateway: str, key_id: str, period: str) -> Response:
    """Set what may be spent with one API key; the gateway's own budget bounds it too."""
    asked = parsing.json_body(BudgetAmount)
    with current().sessions.begin() as session:
        owner = find_gateway(session, gateway)
        return _set(session, owner, period, asked, find_key(session, owner.id, key_id).id)


@bp.delete(_OF_A_KEY)
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The gateway's budgets that are left", BudgetsView)],
        errors=[UnknownGateway, UnknownKey, InvalidName],
    )
)
def remove_of_key(gateway: str, key_id: str, period: str) -> Response:
    """Take an API key's budget away. Twice is no error."""
    with current().sessions.begin() as session:
        owner = find_gateway(session, gateway)
        return _remove(session, owner, period, find_key(session, owner.id, key_id).id)


def _set(
    session: Session, owner: Gateway, period: str, asked: BudgetAmount, key_id: str | None = None
) -> Response:
    budgets.set_budget(session, owner.id, period, asked.amount, key_id)
    return render.answer(shown(session, owner.id))


def _remove(session: Session, owner: Gateway, period: str, key_id: str | None = None) -> Response:
    budgets.remove_budget(session, owner.id, period, key_id)
    return render.answer(shown(session, owner.id))
