"""Delivering what jobs have to tell: each is claimed, sent and noted, by one process at a time.

A delivery is at least once: a process that dies after it has sent, and before it has noted so, is
followed by another that sends again, under the same message id. No transaction is open while a
receiver answers. What a message says is for the floor above, which renders it; what it is told of
is the job's row, which does not change any more.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import case, func, text, update
from sqlalchemy.orm import Session, sessionmaker
from structlog.contextvars import bound_contextvars

from tasks import jobs, manifests, metrics, signing, stems, telemetry, webhooks
from tasks.errors import LinkError, PublishFailed, StorageError
from tasks.outbound import Deadline, Outbound
from tasks.places import place_of
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tasks.tables import Job, Webhook, WebhookDelivery
from tasks.topics import Publish

# Of a job, an event, and the key of the job's manifest, if it has one.
Render: TypeAlias = Callable[[Job, str, str | None], bytes]

_log = telemetry.get_logger()
# One webhook has at most so many of a process's hands: what is slow holds up itself.
_PER_WEBHOOK = 2
# Beyond the time that a receiver has: for our own part of the work.
_LEASE_MARGIN_S = 30.0
_MAX_PAUSE_S = 6 * 3600.0
_GONE = 410
# What is counted of an attempt, by the state of its delivery afterwards.
OUTCOMES: Mapping[str | None, str] = {
    "delivered": "delivered",
    "pending": "failed",
    "failed": "given_up",
    None: "overtaken",
}
_JSON = {"Content-Type": "application/json"}

# The webhook first, and of all that have something due, the one that was served longest ago: a long
# queue of one does not keep the others waiting.
_CLAIM = text("""
WITH chosen AS (
    SELECT w.id FROM webhooks w
     WHERE w.disabled_at IS NULL
       AND EXISTS (SELECT 1 FROM webhook_deliveries d
                    WHERE d.webhook_id = w.id AND d.state = 'pending' AND d.next_at <= now())
       AND (SELECT count(*) FROM webhook_deliveries d
             WHERE d.webhook_id = w.id AND d.leased_until > now()) < :most
     ORDER BY w.turn_at LIMIT 1
       FOR NO KEY UPDATE OF w SKIP LOCKED
), turned AS (
    UPDATE webhooks SET turn_at = clock_timestamp() FROM chosen WHERE webhooks.id = chosen.id
    RETURNING webhooks.*
), due AS (
    SELECT d.id FROM webhook_deliveries d, chosen
     WHERE d.webhook_id = chosen.id AND d.state = 'pending' AND d.next_at <= now()
     ORDER BY d.next_at, d.id LIMIT 1
       FOR NO KEY UPDATE OF d SKIP LOCKED
), claimed AS (
    UPDATE webhook_deliveries d
       SET attempts = attempts + 1, tried_at = now(),
           leased_until = now() + make_interval(secs => :lease_s),
           next_at = now() + make_interval(secs => :lease_s)
      FROM due WHERE d.id = due.id
    RETURNING d.*
)
SELECT claimed.id, claimed.job_id, claimed.event, claimed.attempts, jobs.gateway_id, jobs.attempt,
       turned.id AS webhook_id, turned.kind, turned.target, turned.secret,
       CASE WHEN turned.old_secret_until > now() THEN turned.old_secret END AS old_secret
  FROM claimed, turned, jobs WHERE jobs.id = claimed.job_id
""")


@dataclass(frozen=True)
class Parcel:
    """A claimed delivery: what to tell whom, and which attempt this is."""

    id: int
    job_id: UUID
    event: str
    attempts: int
    gateway_id: UUID
    attempt: int
    webhook_id: UUID
    kind: str
    target: str
    secret: str | None
    old_secret: str | None

    @property
    def message_id(self) -> str:
        """The same for every attempt, and for every replay."""
        return f"msg_{self.job_id.hex}"

    @property
    def about(self) -> dict[str, object]:
        """What every line about it says: of the job, as `telemetry.of`, and of the webhook."""
        return {
            "job_id": str(self.job_id),
            "gateway_id": str(self.gateway_id),
            "attempt": self.attempt,
            "webhook_id": str(self.webhook_id),
        }


@dataclass(frozen=True)
class Outcome:
    """How an attempt went: delivered where there is no error."""

    status: int | None = None
    error: str | None = None


class Courier:
    """Delivers what is due. Thread-safe: several threads, of several processes, share the work."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        outbound: Outbound,
        publish: Publish,
        render: Render,
        settings: TaskSettings,
        store: ObjectStore,
    ) -> None:
        """Take what a delivery works with."""
        self._store = store
        self._sessions = sessions
        self._outbound = outbound
        self._publish = publish
        self._render = render
        self._settings = settings

    def deliver(
        self, stopping: threading.Event | None = None, beat: Callable[[], None] = lambda: None
    ) -> None:
        """Deliver all that is due, but begin with none after `stopping` is set.

        `beat` is told of each: there may be no end of them.
        """
        while not (stopping and stopping.is_set()) and self.deliver_one():
            beat()

    def deliver_one(self) -> bool:
        """Deliver what is due next; False when there is nothing for us."""
        with self._sessions.begin() as session:
            parcel = claim(session, self._settings.webhook_timeout_s + _LEASE_MARGIN_S)
        if parcel is None:
            return False
        with bound_contextvars(**parcel.about):
            outcome = self._try(parcel)
        with self._sessions.begin() as session:
            state = note(session, parcel, outcome, self._settings)
        metrics.DELIVERIES.labels(OUTCOMES[state]).inc()
        if outcome.error is not None:
            _log.info(
                "webhook_failed",
                **parcel.about,
                attempts=parcel.attempts,
                status=outcome.status,
                error=outcome.error,
            )
        return True

    def forget(self) -> None:
        """Drop the log's old rows."""
        after = timedelta(seconds=self._settings.webhook_keep_s)
        gone = webhooks.FORGET_BATCH
        while gone == webhooks.FORGET_BATCH:
            with self._sessions.begin() as session:
                gone = webhooks.forget(session, after, webhooks.FORGET_BATCH)

    def _try(self, parcel: Parcel) -> Outcome:
        try:
            with self._sessions.begin() as session:
                job = jobs.find(session, parcel.gateway_id, parcel.job_id)
            # Before the message that says where it is.
            manifest = manifests.explain(stems.through(self._sessions), self._store, job)
            body = self._render(job, parcel.event, manifest)
            return self._post(parcel, body) if parcel.kind == "http" else self._tell(parcel, body)
        except (LinkError, PublishFailed, StorageError) as error:
            return Outcome(error=str(error))
        except Exception:  # noqa: BLE001  the others must go on, and this one is tried again
            _log.exception("webhook_broken", **parcel.about)
            return Outcome(error="This failed on our side and was logged.")

    def _post(self, parcel: Parcel, body: bytes) -> Outcome:
        known = [secret for secret in (parcel.secret, parcel.old_secret) if secret is not None]
        signed = signing.headers(parcel.message_id, int(time.time()), body, known)
        status = self._outbound.post(
            place_of(parcel.target, self._outbound.rules),
            body,
            headers={**_JSON, **signed},
            deadline=Deadline(self._settings.webhook_timeout_s),
        )
        good = 200 <= status < 300  # noqa: PLR2004  what HTTP calls successful
        return Outcome(status, None if good else f"It answers with status {status}.")

    def _tell(self, parcel: Parcel, body: bytes) -> Outcome:
        self._publish(parcel.target, body.decode(), {"event": parcel.event})
        return Outcome()


def claim(session: Session, lease_s: float) -> Parcel | None:
    """Take what is due next; another process may have it again when the lease has ended."""
    row = session.execute(_CLAIM, {"lease_s": lease_s, "most": _PER_WEBHOOK}).one_or_none()
    return None if row is None else Parcel(**row._mapping)  # noqa: SLF001  its documented mapping


def note(session: Session, parcel: Parcel, outcome: Outcome, settings: TaskSettings) -> str | None:
    """Write down how an attempt went, and what follows, unless it was claimed or asked for anew.

    Returns the state of the delivery then; None where this attempt does not count any more.
    """
    ended = func.now() - WebhookDelivery.wanted_at > timedelta(seconds=settings.webhook_give_up_s)
    pause = timedelta(seconds=pause_s(parcel.attempts, settings.webhook_retry_s))
    failed = {"next_at": func.now() + pause}
    state = session.scalar(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == parcel.id,
            WebhookDelivery.attempts == parcel.attempts,
            WebhookDelivery.state == "pending",
        )
        .values(
            state="delivered"
            if outcome.error is None
            else case((ended, "failed"), else_="pending"),
            status=outcome.status,
            error=outcome.error,
            leased_until=None,
            **({} if outcome.error is None else failed),
        )
        .returning(WebhookDelivery.state)
    )
    if state is not None:
        _judge(session, parcel, outcome, settings)
    return state


def _judge(session: Session, parcel: Parcel, outcome: Outcome, settings: TaskSettings) -> None:
    """Disable a webhook that has failed for too long, or says that it is gone."""
    mine = update(Webhook).where(Webhook.id == parcel.webhook_id)
    if outcome.error is None:
        session.execute(mine.where(Webhook.failing_since.is_not(None)).values(failing_since=None))
        return
    session.execute(mine.where(Webhook.failing_since.is_(None)).values(failing_since=func.now()))
    long = timedelta(seconds=settings.webhook_disable_s)
    over = mine.where(Webhook.disabled_at.is_(None))
    why = f"Every delivery has failed for {long}; the last: {outcome.error}"
    if outcome.status == _GONE:
        why = "It answers that it is gone."
    else:
        over = over.where(func.now() - Webhook.failing_since > long)
    session.execute(over.values(disabled_at=func.now(), disabled_why=why))


def pause_s(attempts: int, first_s: float) -> float:
    """Return how long to wait after so many attempts: ever longer, and never all at once."""
    longest = min(_MAX_PAUSE_S, first_s * 2.0 ** min(attempts - 1, 30))
    return longest * random.uniform(0.5, 1)  # noqa: S311  nobody gains by guessing it
