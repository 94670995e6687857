"""/v1/admin/orchestrators/<orchestrator>/keys: the keys by which workers say whose they are."""

from __future__ import annotations

from flask import Blueprint, Response

from api import parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.admin.owners import find_orchestrator
from api.routes.admin.schemas import NewKey
from api.routes.admin.views import KeysView, KeyView, NewKeyView
from api.runtime import current
from ledger.errors import InvalidName, UnknownOrchestrator
from tasks import registration
from tasks.errors import UnknownOrchestratorKey
from tasks.tables import OrchestratorKey

bp = Blueprint("orchestrator_keys", __name__, url_prefix="/orchestrators/<orchestrator>/keys")


@bp.post("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewKey},
        answers=[Answer(201, "The key; it cannot be shown again", NewKeyView)],
        errors=[UnknownOrchestrator, InvalidName],
    )
)
def create(orchestrator: str) -> Response:
    """Create a key for an orchestrator's workers (`PIXELTOLL_ORCHESTRATOR_KEY`)."""
    asked = parsing.json_body(NewKey)
    with current().sessions.begin() as session:
        owner = find_orchestrator(session, orchestrator)
        row, key = registration.create_key(session, owner.id, asked.name)
        view = NewKeyView(**_view(row).model_dump(), key=key)
    return render.answer(view, 201)


@bp.get("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The keys, without their secrets", KeysView)],
        errors=[UnknownOrchestrator],
    )
)
def index(orchestrator: str) -> Response:
    """List an orchestrator's keys."""
    with current().reads() as session:
        rows = registration.list_keys(session, find_orchestrator(session, orchestrator).id)
    return render.answer(KeysView(data=[_view(row) for row in rows], next_cursor=None))


@bp.delete("/<key_id>")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The key, revoked", KeyView)],
        errors=[UnknownOrchestrator, UnknownOrchestratorKey],
    )
)
def revoke(orchestrator: str, key_id: str) -> Response:
    """Revoke a key: its workers end at their next heartbeat. Twice is no error."""
    with current().sessions.begin() as session:
        owner = find_orchestrator(session, orchestrator)
        view = _view(registration.revoke_key(session, owner.id, key_id))
    return render.answer(view)


def _view(row: OrchestratorKey) -> KeyView:
    return KeyView(id=row.id, name=row.name, created_at=row.created_at, revoked_at=row.revoked_at)
