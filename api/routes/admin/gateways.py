"""/v1/admin/gateways: opening gateways, and listing them."""

from __future__ import annotations

from flask import Blueprint, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api import parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.admin.schemas import NewGateway
from api.routes.admin.views import GatewaysView, GatewayView
from api.runtime import current
from ledger import accounts
from ledger.errors import InvalidName, NameTaken
from ledger.tables import Gateway

bp = Blueprint("gateways", __name__, url_prefix="/gateways")


@bp.post("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewGateway},
        answers=[Answer(201, "The gateway", GatewayView)],
        errors=[InvalidName, NameTaken],
    )
)
def create() -> Response:
    """Create a gateway, with nothing on its account and no limits."""
    asked = parsing.json_body(NewGateway)
    runtime = current()
    with runtime.sessions.begin() as session:
        row = accounts.create_gateway(session, asked.name, runtime.settlement_currency)
        return render.answer(_view(session, row), 201)


@bp.get("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The gateways", GatewaysView)],
    )
)
def index() -> Response:
    """List all gateways with their balances."""
    with current().reads() as session:
        rows = session.scalars(select(Gateway).order_by(Gateway.name)).all()
        data = [_view(session, row) for row in rows]
    return render.answer(GatewaysView(data=data, next_cursor=None))


def _view(session: Session, row: Gateway) -> GatewayView:
    return GatewayView(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        balance=render.balance(accounts.balance(session, row.id)),
    )
