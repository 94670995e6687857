"""/v1/admin/gateways/.../policy: what becomes of pictures that the safety checker flags."""

from __future__ import annotations

from flask import Blueprint, Response

from api import parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.admin.owners import find_gateway
from api.routes.admin.schemas import PolicyRequest
from api.routes.admin.views import PolicyView
from api.runtime import current
from ledger.errors import UnknownGateway
from tasks import policies

bp = Blueprint("policies", __name__, url_prefix="/gateways/<gateway>/policy")


@bp.get("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The policy", PolicyView)],
        errors=[UnknownGateway],
    )
)
def show(gateway: str) -> Response:
    """Show what becomes of a gateway's pictures that the safety checker flags."""
    with current().reads() as session:
        owner = find_gateway(session, gateway)
        found = policies.safety(session, [owner.id])[owner.id]
    return render.answer(PolicyView.model_validate({"safety": found}))


@bp.put("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: PolicyRequest},
        answers=[Answer(200, "The policy now", PolicyView)],
        errors=[UnknownGateway],
    )
)
def set_policy(gateway: str) -> Response:
    """Set it, for every job that ends from now on."""
    asked = parsing.json_body(PolicyRequest)
    with current().sessions.begin() as session:
        policies.set_safety(session, find_gateway(session, gateway).id, asked.safety)
    return render.answer(PolicyView(safety=asked.safety))
