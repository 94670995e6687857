"""/v1/admin/jobs/<job_id>/refunds: giving back what a job was charged, or a part of it."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api import parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.admin.schemas import NewRefund
from api.routes.admin.views import RefundsView, RefundView
from api.runtime import current
from ledger import refunds
from ledger.errors import InvalidAmount, InvalidName, ReferenceReused, UnknownCharge
from ledger.money import plain
from tasks.errors import JobNotFound
from tasks.tables import Job

bp = Blueprint("refunds", __name__, url_prefix="/jobs/<job_id>/refunds")


@bp.post("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        body={parsing.JSON: NewRefund},
        answers=[Answer(201, "What was given back so far", RefundsView)],
        errors=[JobNotFound, UnknownCharge, InvalidAmount, InvalidName, ReferenceReused],
    )
)
def create(job_id: str) -> Response:
    """Give a gateway back what a job was charged, or a part of it, once for each reference.

    Never above the charge. The orchestrator and the platform give back their parts as they took
    them.
    """
    asked = parsing.json_body(NewRefund)
    with current().sessions.begin() as session:
        job, hold_id = _find(session, job_id)
        refunds.refund(session, hold_id, asked.amount, asked.reference)
        view = _view(session, job, hold_id)
    return render.answer(view, 201)


@bp.get("")
@operation(
    Operation(
        tag="admin",
        security="admin",
        answers=[Answer(200, "What was given back so far", RefundsView)],
        errors=[JobNotFound, UnknownCharge],
    )
)
def index(job_id: str) -> Response:
    """List what was given back of a job's charge."""
    with current().reads() as session:
        return render.answer(_view(session, *_find(session, job_id)))


def _find(session: Session, job_id: str) -> tuple[UUID, UUID]:
    """Return the ids of a job and of its hold.

    Raises:
        JobNotFound: There is no such job.
    """
    try:
        known = UUID(job_id)
    except ValueError:
        raise JobNotFound(job_id) from None
    hold_id = session.scalar(select(Job.hold_id).where(Job.id == known))
    if hold_id is None:
        raise JobNotFound(job_id)
    return known, hold_id


def _view(session: Session, job_id: UUID, hold_id: UUID) -> RefundsView:
    found = refunds.history(session, hold_id)
    return RefundsView(
        job_id=job_id,
        charged=plain(found.charged),
        refunded=plain(found.refunded),
        currency=found.currency,
        data=[
            RefundView(
                reference=one.reference,
                amount=plain(one.amount),
                platform_fee=plain(one.platform_fee),
                orchestrator_payment=plain(one.orchestrator_payment),
                created_at=one.created_at,
            )
            for one in found.refunds
        ],
        next_cursor=None,
    )
