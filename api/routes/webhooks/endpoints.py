"""/v1/webhooks: making, listing, deleting and enabling webhooks, and their secrets."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Response

from api import parsing, render
from api.openapi import Answer, Operation, operation
from api.routes.webhooks import views
from api.routes.webhooks.views import NewWebhook, SignedWebhookView, WebhooksView, WebhookView
from api.runtime import current, current_gateway
from tasks import webhooks
from tasks.errors import TooManyWebhooks, UnknownWebhook

bp = Blueprint("endpoints", __name__)


@bp.post("")
@operation(
    Operation(
        tag="webhooks",
        security="gateway",
        body={parsing.JSON: NewWebhook},
        answers=[Answer(201, "The webhook, with its secret", SignedWebhookView)],
        errors=[TooManyWebhooks],
    )
)
def create() -> Response:
    """Tell a URL of the ends of jobs, from now on."""
    asked = parsing.json_body(NewWebhook)
    runtime = current()
    with runtime.sessions.begin() as session:
        row = webhooks.create(
            session, current_gateway(), asked.url, asked.events, runtime.links.outbound.rules
        )
        view = views.signed(row)
    return render.answer(view, 201)


@bp.get("")
@operation(
    Operation(
        tag="webhooks",
        security="gateway",
        answers=[Answer(200, "The webhooks, without their secrets", WebhooksView)],
    )
)
def index() -> Response:
    """List the gateway's webhooks."""
    with current().reads() as session:
        rows = webhooks.list_webhooks(session, current_gateway())
    return render.answer(WebhooksView(data=[views.webhook(row) for row in rows], next_cursor=None))


@bp.delete("/<webhook_id>")
@operation(
    Operation(
        tag="webhooks",
        security="gateway",
        answers=[Answer(200, "The webhooks that are left", WebhooksView)],
        errors=[UnknownWebhook],
    )
)
def remove(webhook_id: str) -> Response:
    """Delete a webhook and its log. It is told nothing any more, not even what is pending."""
    with current().sessions.begin() as session:
        webhooks.remove(session, current_gateway(), read_id(webhook_id))
        rows = webhooks.list_webhooks(session, current_gateway())
    return render.answer(WebhooksView(data=[views.webhook(row) for row in rows], next_cursor=None))


@bp.post("/<webhook_id>/rotate")
@operation(
    Operation(
        tag="webhooks",
        security="gateway",
        answers=[Answer(200, "The webhook, with its new secret", SignedWebhookView)],
        errors=[UnknownWebhook],
    )
)
def rotate(webhook_id: str) -> Response:
    """Give a webhook a new secret. For 24 hours, messages are signed with the one before, too."""
    with current().sessions.begin() as session:
        row = webhooks.rotate(session, current_gateway(), read_id(webhook_id))
        view = views.signed(row)
    return render.answer(view)


@bp.post("/<webhook_id>/enable")
@operation(
    Operation(
        tag="webhooks",
        security="gateway",
        answers=[Answer(200, "The webhook", WebhookView)],
        errors=[UnknownWebhook],
    )
)
def enable(webhook_id: str) -> Response:
    """Tell a disabled webhook again, and what was pending when it was disabled. Else no change."""
    with current().sessions.begin() as session:
        view = views.webhook(webhooks.enable(session, current_gateway(), read_id(webhook_id)))
    return render.answer(view)


def read_id(text: str) -> UUID:
    """Read a webhook's id.

    Raises:
        UnknownWebhook: It cannot be one's.
    """
    try:
        return UUID(text)
    except ValueError:
        raise UnknownWebhook(text) from None
