"""What a bell is on the wire: the message that Celery's `send_task` would send, made by ourselves.

Celery says what is in a task's message and in the event that tells Flower of it; the envelope is
kombu's for Redis, and a test holds ours to theirs. To send one through both took as long as a third
of all else that a submission costs in Python. When a bell is sent, and what happens when it cannot
be, is for `tasks.dispatch`.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery import Celery

from tasks import tracing
from tasks.app import GENERATE
from tasks.jobs import Bell

if TYPE_CHECKING:
    from redis import Redis

_EVENTS, _SENT = "celeryev", "task-sent"
_OF_SOCKETS = ("socket_timeout", "socket_connect_timeout", "socket_keepalive")
_TRANSIENT, _PERSISTENT = 1, 2


class Wire:
    """Writes bells into the broker of an app. It connects when first used."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    @cached_property
    def _redis(self) -> Redis:
        # Loads much, which only those who send a bell need.
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        options = self._app.conf.broker_transport_options
        return Redis.from_url(
            self._app.conf.broker_url,
            health_check_interval=options["health_check_interval"],
            # Whoever sends decides what to try again.
            retry=Retry(NoBackoff(), 0),
            **{name: options[name] for name in _OF_SOCKETS},
        )

    @cached_property
    def _topic(self) -> str:
        database = self._redis.connection_pool.connection_kwargs.get("db") or 0
        return f"/{database}.{_EVENTS}/{_SENT.replace('-', '.')}"

    def send(self, bells: Sequence[Bell]) -> None:
        """Send bells in one round trip.

        What Flower shows of each is the job's id and model, never its prompt.

        Raises:
            redis.RedisError: The broker cannot be reached, or does not take them.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            for bell in bells:
                with tracing.span("ring", "producer", bell.traceparent, {"queue": bell.queue}):
                    task, event = self._message(bell, tracing.carried())
                pipeline.lpush(bell.queue, task)
                pipeline.publish(self._topic, event)
            pipeline.execute()

    def _message(self, bell: Bell, traceparent: str | None) -> tuple[str, str]:
        """Return the task's message, and that of its event."""
        message = self._app.amqp.as_task_v2(
            str(uuid4()),
            GENERATE,
            args=(str(bell.job_id),),
            argsrepr=f"({bell.job_id})",
            kwargsrepr=f"({bell.model_id})",
            create_sent_event=True,
            ignore_result=None,  # type: ignore[arg-type]  # as `send_task` does
        )
        headers: dict[str, Any] = message.headers
        event = {
            **(message.sent_event or {}),
            "type": _SENT,
            "queue": bell.queue,
            "exchange": "",
            "routing_key": bell.queue,
            "hostname": headers["origin"],
            "pid": os.getpid(),
            "utcoffset": 0,
            "clock": self._app.clock.forward(),  # type: ignore[attr-defined]
            "timestamp": time.time(),
        }
        trace = {"traceparent": traceparent} if traceparent else {}
        task = _enveloped(
            message.body,
            {**headers, **trace},
            {**message.properties, "delivery_mode": _PERSISTENT},
            {"exchange": "", "routing_key": bell.queue},
        )
        return task, _enveloped(
            event,
            {"hostname": headers["origin"]},
            {"delivery_mode": _TRANSIENT},
            {"exchange": _EVENTS, "routing_key": _SENT.replace("-", ".")},
        )


def _enveloped(
    body: object,
    headers: Mapping[str, object],
    properties: Mapping[str, object],
    delivery: Mapping[str, str],
) -> str:
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": {
                **properties,
                "delivery_info": delivery,
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid4()),
            },
        }
    )
