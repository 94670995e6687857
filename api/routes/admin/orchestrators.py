"""/v1/admin/orchestrators: opening orchestrators, and listing them."""

from __future__ import annotations

from flask import Blueprint, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api import parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.admin.schemas import NewOrchestrator
from api.routes.admin.views import OrchestratorsView, OrchestratorView
from api.runtime import Runtime, current
from ledger import accounts
from ledger.errors import InvalidAmount, InvalidName, NameTaken
from ledger.money import plain
from ledger.tables import Orchestrator

bp = Blueprint("orchestrators", __name__, url_prefix="/orchestrators")


@bp.post("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewOrchestrator},
        answers=[Answer(201, "The orchestrator", OrchestratorView)],
        errors=[InvalidName, InvalidAmount, NameTaken],
    )
)
def create() -> Response:
    """Create an orchestrator, with no offers."""
    asked = parsing.json_body(NewOrchestrator)
    runtime = current()
    with runtime.sessions.begin() as session:
        row = accounts.create_orchestrator(
            session, asked.name, runtime.settlement_currency, asked.fee_rate
        )
        return render.answer(_view(session, row, runtime), 201)


@bp.get("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "The orchestrators", OrchestratorsView)],
    )
)
def index() -> Response:
    """List all orchestrators, with what they have earned and were not paid yet."""
    runtime = current()
    with runtime.reads() as session:
        rows = session.scalars(select(Orchestrator).order_by(Orchestrator.name)).all()
        data = [_view(session, row, runtime) for row in rows]
    return render.answer(OrchestratorsView(data=data, next_cursor=None))


def _view(session: Session, row: Orchestrator, runtime: Runtime) -> OrchestratorView:
    return OrchestratorView(
        id=row.id,
        name=row.name,
        fee_rate=plain(row.fee_rate),
        owed=plain(accounts.owed(session, row.id)),
        currency=runtime.settlement_currency,
        created_at=row.created_at,
    )
