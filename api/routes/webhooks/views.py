"""What is asked and answered about webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from api.schemas import Body
from api.views import View
from tasks.tables import Webhook, WebhookDelivery

Event = Literal["job.succeeded", "job.failed", "job.canceled", "job.expired"]


class NewWebhook(Body):
    """Whom to tell of what."""

    url: str = Field(
        description="Where to post to: http or https, to a public host, as each delivery finds out."
    )
    events: list[Event] = Field([], max_length=4, description="What to tell of; all, if empty.")


class WebhookView(View):
    """A webhook."""

    id: UUID
    url: str
    events: list[Event]
    created_at: datetime
    failing_since: datetime | None = Field(description="Since when no delivery has succeeded.")
    disabled_at: datetime | None = Field(description="Since when it is told nothing.")
    disabled_why: str | None


class SignedWebhookView(WebhookView):
    """A webhook with its new secret, which is not shown again."""

    secret: str = Field(description="Verifies the signatures of what it is told.")


class WebhooksView(View):
    """A gateway's webhooks, newest first."""

    data: list[WebhookView]
    next_cursor: None


class DeliveryView(View):
    """What a webhook was, or is to be, told of one job."""

    id: int
    job_id: UUID
    event: Event
    state: Literal["pending", "delivered", "failed"] = Field(
        description="`failed`: it was tried for long, and is given up; it can be replayed."
    )
    attempts: int = Field(description="How often it was tried, since it was last asked for.")
    status: int | None = Field(description="What the webhook answered last.")
    error: str | None = Field(description="Why the last attempt failed.")
    created_at: datetime
    tried_at: datetime | None
    next_at: datetime | None = Field(description="When it is tried next.")


class DeliveriesView(View):
    """A page of a webhook's log, newest first."""

    data: list[DeliveryView]
    next_cursor: str | None


def webhook(row: Webhook) -> WebhookView:
    """Show a webhook, without its secret."""
    return WebhookView.model_validate(_facts(row))


def signed(row: Webhook) -> SignedWebhookView:
    """Show a webhook with its secret."""
    return SignedWebhookView.model_validate({**_facts(row), "secret": row.secret})


def _facts(row: Webhook) -> dict[str, object]:
    return {
        "id": row.id,
        "url": row.target,
        "events": row.events,
        "created_at": row.created_at,
        "failing_since": row.failing_since,
        "disabled_at": row.disabled_at,
        "disabled_why": row.disabled_why,
    }


def delivery(row: WebhookDelivery) -> DeliveryView:
    """Show a line of the log."""
    return DeliveryView.model_validate(
        {
            "id": row.id,
            "job_id": row.job_id,
            "event": row.event,
            "state": row.state,
            "attempts": row.attempts,
            "status": row.status,
            "error": row.error,
            "created_at": row.created_at,
            "tried_at": row.tried_at,
            "next_at": row.next_at if row.state == "pending" else None,
        }
    )
