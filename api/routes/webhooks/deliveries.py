"""/v1/webhooks/<webhook_id>/deliveries: what a webhook was told, and telling it once more."""

from __future__ import annotations

from flask import Blueprint, Response

from api import paging, parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.webhooks import views
from api.routes.webhooks.endpoints import read_id
from api.routes.webhooks.views import DeliveriesView, DeliveryView
from api.runtime import current, current_gateway
from api.schemas import PageQuery
from tasks import webhooks
from tasks.errors import UnknownDelivery, UnknownWebhook

bp = Blueprint("deliveries", __name__, url_prefix="/<webhook_id>/deliveries")
_MOST = 2**63 - 1


@bp.get("")
@operation(
    Operation(
        tag="webhooks",
        security="gateway",
        query=PageQuery,
        answers=[Answer(200, "A page of the log", DeliveriesView)],
        errors=[UnknownWebhook],
    )
)
def index(webhook_id: str) -> Response:
    """List what a webhook was told, newest first, and what it is yet to be told."""
    asked = parsing.query(PageQuery)
    before = paging.read_cursor(asked.cursor)
    with current().reads() as session:
        owned = webhooks.find(session, current_gateway(), read_id(webhook_id))
        found = webhooks.deliveries(session, owned.id, before=before, limit=asked.limit + 1)
    page, cursor = paging.cut(found, asked.limit, lambda row: row.id)
    return render.answer(
        DeliveriesView(data=[views.delivery(row) for row in page], next_cursor=cursor)
    )


@bp.post("/<delivery_id>/replay")
@operation(
    Operation(
        tag="webhooks",
        security="gateway",
        answers=[Answer(200, "The delivery, pending again", DeliveryView)],
        errors=[UnknownWebhook, UnknownDelivery],
    )
)
def replay(webhook_id: str, delivery_id: str) -> Response:
    """Deliver once more, at once, with the same `webhook-id`, whatever became of it before."""
    with current().sessions.begin() as session:
        owned = webhooks.find(session, current_gateway(), read_id(webhook_id))
        view = views.delivery(webhooks.replay(session, owned.id, _number(delivery_id)))
    return render.answer(view)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > _MOST:
        raise UnknownDelivery(text)
    return int(text)
