"""/v1/admin/gateways/<gateway>/keys: a gateway's API keys."""

from __future__ import annotations

from flask import Blueprint, Response

from api import auth, parsing, render
from api.errors import UnknownKey
from api.openapi import Answer, Operation, operation
from api.routes.admin.owners import find_gateway
from api.routes.admin.schemas import NewKey
from api.routes.admin.views import KeysView, KeyView, NewKeyView
from api.runtime import current
from api.tables import ApiKey
from ledger.errors import InvalidName, UnknownGateway

bp = Blueprint("keys", __name__, url_prefix="/gateways/<gateway>/keys")


@bp.post("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewKey},
        answers=[Answer(201, "The key; it cannot be shown again", NewKeyView)],
        errors=[UnknownGateway, InvalidName],
    )
)
def create(gateway: str) -> Response:
    """Create an API key for a gateway."""
    asked = parsing.json_body(NewKey)
    with current().sessions.begin() as session:
        row, key = auth.create_key(session, find_gateway(session, gateway).id, asked.name)
        view = NewKeyView(**_view(row).model_dump(), key=key)
    return render.answer(view, 201)


@bp.get("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The keys, without their secrets", KeysView)],
        errors=[UnknownGateway],
    )
)
def index(gateway: str) -> Response:
    """List a gateway's API keys."""
    with current().reads() as session:
        rows = auth.list_keys(session, find_gateway(session, gateway).id)
    return render.answer(KeysView(data=[_view(row) for row in rows], next_cursor=None))


@bp.delete("/<key_id>")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The key, revoked", KeyView)],
        errors=[UnknownGateway, UnknownKey],
    )
)
def revoke(gateway: str, key_id: str) -> Response:
    """Revoke an API key. Twice is no error.

    Every process of the API has heard of it within a second.
    """
    runtime = current()
    with runtime.sessions.begin() as session:
        owner = find_gateway(session, gateway)
        view = _view(auth.revoke_key(session, owner.id, key_id))
    runtime.keyring.forget(key_id)
    return render.answer(view)


def _view(row: ApiKey) -> KeyView:
    return KeyView(id=row.id, name=row.name, created_at=row.created_at, revoked_at=row.revoked_at)
