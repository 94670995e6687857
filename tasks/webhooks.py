"""Webhooks: who is told that a job has ended; and the log of what was told, which can be replayed.

The rows to deliver are written by the database, in the transaction that ends a job. How they are
delivered is `tasks.delivery`'s. The caller owns the transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from ledger.tables import Gateway
from tasks import signing
from tasks.errors import (
    BadLink,
    FieldError,
    InvalidParams,
    TooManyWebhooks,
    UnknownDelivery,
    UnknownWebhook,
)
from tasks.jobs import FINAL_STATES
from tasks.places import Rules, place_of
from tasks.tables import Webhook, WebhookDelivery

EVENTS = tuple(f"job.{state}" for state in FINAL_STATES)
MAX_WEBHOOKS = 20
FORGET_BATCH = 1000
# How long the secret before is still signed with: time to tell every receiver the new one.
ROTATION = timedelta(hours=24)
_NOT_A_TOPIC = "PIXELTOLL_SNS_TOPIC is not set to it any more."


def create(
    session: Session, gateway_id: UUID, url: str, events: Collection[str], rules: Rules
) -> Webhook:
    """Tell a URL of the ends of a gateway's jobs, from now on. No events means all.

    Raises:
        InvalidParams: The URL may not be called, or there is no such event.
        TooManyWebhooks: The gateway has as many as it may.
    """
    try:
        place_of(url, rules)
    except BadLink as error:
        raise InvalidParams([FieldError("url", str(error))]) from error
    unknown = sorted(set(events) - set(EVENTS))
    if unknown:
        said = f"{unknown[0]!r} is no event; they are {', '.join(EVENTS)}"
        raise InvalidParams([FieldError("events", said)])
    # One at a time: what another request is about to add cannot be counted.
    session.execute(
        select(Gateway.id).where(Gateway.id == gateway_id).with_for_update(key_share=True)
    )
    if len(list_webhooks(session, gateway_id)) >= MAX_WEBHOOKS:
        raise TooManyWebhooks(MAX_WEBHOOKS)
    row = Webhook(
        id=uuid7(),
        gateway_id=gateway_id,
        kind="http",
        target=url,
        events=[event for event in EVENTS if not events or event in events],
        secret=signing.make_secret(),
    )
    session.add(row)
    session.flush()
    return row


def list_webhooks(session: Session, gateway_id: UUID) -> list[Webhook]:
    """Return a gateway's webhooks, the newest first."""
    rows = select(Webhook).where(Webhook.gateway_id == gateway_id)
    return list(session.scalars(rows.order_by(Webhook.id.desc())))


def find(
    session: Session, gateway_id: UUID, webhook_id: UUID, *, for_change: bool = False
) -> Webhook:
    """Return a gateway's webhook; locked, if it is to be changed.

    Raises:
        UnknownWebhook: The gateway has no such webhook.
    """
    rows = select(Webhook).where(Webhook.id == webhook_id, Webhook.gateway_id == gateway_id)
    if for_change:
        rows = rows.with_for_update(key_share=True).execution_options(populate_existing=True)
    row = session.scalars(rows).one_or_none()
    if row is None:
        raise UnknownWebhook(webhook_id)
    return row


def remove(session: Session, gateway_id: UUID, webhook_id: UUID) -> None:
    """Tell a URL nothing any more, not even what it has not been told yet; forget its log.

    Raises:
        UnknownWebhook: The gateway has no such webhook.
    """
    session.delete(find(session, gateway_id, webhook_id, for_change=True))
    session.flush()


def rotate(session: Session, gateway_id: UUID, webhook_id: UUID) -> Webhook:
    """Give a webhook a new secret; for a day, messages are signed with the one before, too.

    Raises:
        UnknownWebhook: The gateway has no such webhook.
    """
    row = find(session, gateway_id, webhook_id, for_change=True)
    row.old_secret = row.secret
    row.old_secret_until = session.scalars(select(func.now())).one() + ROTATION
    row.secret = signing.make_secret()
    session.flush()
    return row


def enable(session: Session, gateway_id: UUID, webhook_id: UUID) -> Webhook:
    """Tell a webhook again that was disabled because it failed, what it was not told included.

    Raises:
        UnknownWebhook: The gateway has no such webhook.
    """
    row = find(session, gateway_id, webhook_id, for_change=True)
    row.disabled_at = row.disabled_why = row.failing_since = None
    session.flush()
    return row


def deliveries(
    session: Session, webhook_id: UUID, *, before: int | None = None, limit: int
) -> list[WebhookDelivery]:
    """Return a page of a webhook's log, newest first; `before` is the number to go on from."""
    rows = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    if before is not None:
        rows = rows.where(WebhookDelivery.id < before)
    return list(session.scalars(rows.order_by(WebhookDelivery.id.desc()).limit(limit)))


def replay(session: Session, webhook_id: UUID, delivery_id: int) -> WebhookDelivery:
    """Deliver once more, under the same message id, whatever became of it before.

    Raises:
        UnknownDelivery: The webhook's log has no such delivery.
    """
    row: WebhookDelivery | None = session.scalar(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook_id)
        .values(
            state="pending",
            attempts=0,
            wanted_at=func.now(),
            next_at=func.now(),
            leased_until=None,
        )
        .returning(WebhookDelivery)
    )
    if row is None:
        raise UnknownDelivery(delivery_id)
    return row


def listen_on(session: Session, topics: Sequence[str]) -> None:
    """Tell exactly these SNS topics of the end of every job, whoever's it is."""
    for topic in topics:
        row = {"id": uuid7(), "kind": "sns", "target": topic, "events": list(EVENTS)}
        session.execute(
            insert(Webhook)
            .values(row)
            .on_conflict_do_update(
                index_elements=[Webhook.target],
                index_where=Webhook.kind == "sns",
                set_={"disabled_at": None, "disabled_why": None},
                where=Webhook.disabled_why == _NOT_A_TOPIC,
            )
        )
    session.execute(
        update(Webhook)
        .where(Webhook.kind == "sns", Webhook.target.not_in(topics), Webhook.disabled_at.is_(None))
        .values(disabled_at=func.now(), disabled_why=_NOT_A_TOPIC)
    )


def forget(session: Session, after: timedelta, most: int) -> int:
    """Drop what was delivered, or given up, so long ago: a batch at most; returns how many rows."""
    old = (
        select(WebhookDelivery.id)
        .where(WebhookDelivery.state != "pending", WebhookDelivery.tried_at < func.now() - after)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    gone = delete(WebhookDelivery).where(WebhookDelivery.id.in_(old))
    return len(session.scalars(gone.returning(WebhookDelivery.id)).all())
