"""What we are measured against: the least that Flask and Celery can do, which stores nothing.

Why that is fair: it is what the documentation of both shows, with their own defaults, on the same
gunicorn settings, the same Redis server and the same machine, in the same run. It keeps no row,
checks no key, no price and no balance, and its tasks do nothing: whatever our figures are worse by
is what our promises cost. Nothing here may be made slower than its documentation shows it.
"""

from __future__ import annotations

import time

import redis
from celery import Celery
from flask import Flask, request

SUBMITS, TASKS = "baseline-submits", "baseline-tasks"  # Queues; nobody listens to the first.
GATE, STAMPS = "baseline-gate", "baseline-stamps"  # Lists that the bench talks to its tasks with.

# Its broker is in CELERY_BROKER_URL, which Celery reads by itself.
celery = Celery("baseline")
celery.conf.task_ignore_result = True

app = Flask(__name__)


@celery.task
def generate(payload: dict[str, object]) -> None:
    """Stand for the work."""


@app.post("/v1/jobs")
def submit() -> tuple[dict[str, object], int]:
    """Hand the payload to Celery and answer."""
    task = generate.apply_async((request.get_json(),), queue=SUBMITS)
    return {"id": task.id, "state": "queued"}, 202


@celery.task
def nothing() -> None:
    """Do nothing: what is left is the cost of a task."""


@celery.task
def started(asked_at: float) -> None:
    """Tell how long ago this was asked for; the telling itself is not in the figure."""
    waited_s = time.time() - asked_at
    with redis.Redis.from_url(celery.conf.broker_url) as client:
        client.rpush(STAMPS, waited_s)


@celery.task
def gate() -> None:
    """Hold the worker until the bench opens the gate, while a backlog builds up behind it."""
    with redis.Redis.from_url(celery.conf.broker_url) as client:
        client.blpop([GATE])
        client.rpush(STAMPS, time.time())


@celery.task
def stamp() -> None:
    """Tell the time: the backlog is done."""
    with redis.Redis.from_url(celery.conf.broker_url) as client:
        client.rpush(STAMPS, time.time())
