"""Ringing: never in the caller's way, and by itself again when the broker is back."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from tasks.app import GENERATE, make_celery
from tasks.dispatch import Ringer
from tasks.jobs import Bell
from tasks.settings import TaskSettings
from tasks.wire import Wire
from tests.processes import Broker, broker
from tests.stage import SMALL, eventually

QUEUE = "text-to-image.acme-small.rig"


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    with tempfile.TemporaryDirectory(prefix="pixeltoll-") as folder, broker(Path(folder)) as own:
        yield own


@pytest.fixture
def ringer(own_broker: Broker) -> Ringer:
    return Ringer(make_celery(TaskSettings(redis_url=own_broker.url)))


def bell(job_id: UUID | None = None) -> Bell:
    return Bell(job_id or uuid4(), QUEUE, SMALL)


def rung(own_broker: Broker) -> int:
    return int(own_broker.client.llen(QUEUE))


def timed_ring(ringer: Ringer) -> float:
    began = time.monotonic()
    ringer.ring(bell())
    return time.monotonic() - began


def test_a_bell_carries_a_job_id_and_nothing_else(own_broker: Broker, ringer: Ringer) -> None:
    job_id = uuid4()
    ringer.ring(bell(job_id))
    eventually(lambda: rung(own_broker) == 1)
    message = json.loads(own_broker.client.lindex(QUEUE, 0))  # type: ignore[arg-type]
    assert message["headers"]["task"] == GENERATE
    assert message["headers"]["argsrepr"] == f"({job_id})"
    assert message["headers"]["kwargsrepr"] == f"({SMALL})"
    assert str(job_id) in json.dumps(message)


def test_a_bell_is_written_as_celery_writes_its_messages(own_broker: Broker) -> None:
    app = make_celery(TaskSettings(redis_url=own_broker.url))
    one = bell()
    pubsub = own_broker.client.pubsub
    with pubsub(ignore_subscribe_messages=True) as events:  # type: ignore[no-untyped-call]
        events.psubscribe("*")
        events.get_message(timeout=5)
        Wire(app).send([one])
        with app.producer_pool.acquire(block=True, timeout=5) as producer:
            app.send_task(
                GENERATE,
                args=[str(one.job_id)],
                queue=one.queue,
                producer=producer,
                argsrepr=f"({one.job_id})",
                kwargsrepr=f"({one.model_id})",
            )
        theirs, ours = map(shape, own_broker.client.lrange(QUEUE, 0, -1))  # type: ignore[arg-type]
        # What the message itself carries already, and where an answer that nobody sends would go.
        for name in ("argsrepr", "kwargsrepr"):
            del theirs["properties"][name]
        assert ours == theirs
        our_event, their_event = (events.get_message(timeout=5) for _ in range(2))
    assert our_event["channel"] == their_event["channel"]
    assert shape(our_event["data"]) == shape(their_event["data"])


def shape(message: bytes) -> dict[str, Any]:
    """Return a message without what is each one's own: names, times and counts."""
    read = json.loads(message)
    read["body"] = json.loads(base64.b64decode(read["body"]))
    own = {"id", "root_id", "uuid", "correlation_id", "reply_to", "delivery_tag"}
    own |= {"origin", "hostname", "pid", "clock", "timestamp"}
    for part in (read["headers"], read["properties"], read["body"]):
        if isinstance(part, dict):
            part.update(dict.fromkeys(own & part.keys(), "its own"))
    return dict(read)


def test_many_bells_all_arrive(own_broker: Broker, ringer: Ringer) -> None:
    for _ in range(250):
        ringer.ring(bell())
    eventually(lambda: rung(own_broker) == 250)


def test_it_recovers_by_itself_when_the_broker_was_restarted(
    own_broker: Broker, ringer: Ringer
) -> None:
    ringer.ring(bell())
    eventually(lambda: rung(own_broker) == 1)
    own_broker.kill()
    assert timed_ring(ringer) < 0.1
    own_broker.start()
    before = rung(own_broker)
    # Not even the first bell after the restart is lost, though its connection is a dead one.
    ringer.ring(bell())
    eventually(lambda: rung(own_broker) > before)


def test_a_restart_between_two_bells_loses_none(own_broker: Broker, ringer: Ringer) -> None:
    ringer.ring(bell())
    eventually(lambda: rung(own_broker) == 1)
    own_broker.client.config_set("appendonly", "no")
    own_broker.restart()
    before = rung(own_broker)
    ringer.ring(bell())
    eventually(lambda: rung(own_broker) == before + 1)


def test_bells_that_do_not_get_through_say_which_jobs_they_were_for() -> None:
    ringer = Ringer(make_celery(TaskSettings(redis_url="redis://127.0.0.1:1/0")))
    one = bell()

    with capture_logs() as said:
        ringer.ring(one)
        eventually(lambda: any(line["event"] == "bells_lost" for line in said))

    assert {line["event"] for line in said} == {"bells_refused", "bells_lost"}
    for line in said:
        assert (line["jobs"], line["queues"]) == ([{"job_id": str(one.job_id)}], [QUEUE])


def test_a_broker_that_hangs_holds_nobody_up(own_broker: Broker, ringer: Ringer) -> None:
    ringer.ring(bell())
    eventually(lambda: rung(own_broker) == 1)
    own_broker.freeze()
    try:
        assert max(timed_ring(ringer) for _ in range(50)) < 0.1
    finally:
        own_broker.thaw()
    eventually(lambda: rung(own_broker) == 51)


def test_too_many_waiting_bells_are_dropped_without_a_word_to_the_caller() -> None:
    ringer = Ringer(make_celery(TaskSettings(redis_url="redis://127.0.0.1:1/0")))
    rung = [bell() for _ in range(10_500)]
    with capture_logs() as said:
        for one in rung:
            ringer.ring(one)
    assert ringer._waiting.qsize() <= 10_000
    ids = {str(one.job_id) for one in rung}
    dropped = [line for line in said if line["event"] == "bell_dropped"]
    assert dropped
    assert {line["job_id"] for line in dropped} <= ids
    with ringer._waiting.mutex:  # or its thread would complain of the broker for minutes
        ringer._waiting.queue.clear()


_FORKING = """
import os, sys, time, redis
from uuid import uuid4
from tasks.app import make_celery
from tasks.dispatch import Ringer
from tasks.jobs import Bell
from tasks.settings import TaskSettings

url, queue = sys.argv[1:]
ringer = Ringer(make_celery(TaskSettings(redis_url=url)))

def ring_and_wait(count):
    ringer.ring(Bell(uuid4(), queue, "acme/small"))
    with redis.Redis.from_url(url) as client:
        while client.llen(queue) < count:
            time.sleep(0.01)

ring_and_wait(1)
child = os.fork()
if child == 0:
    ring_and_wait(2)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_rings_with_a_thread_of_its_own(own_broker: Broker) -> None:
    argv = [sys.executable, "-c", _FORKING, own_broker.url, QUEUE]
    subprocess.run(argv, check=True, timeout=30)
    assert rung(own_broker) == 2
