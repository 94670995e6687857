"""What clients that wait for their jobs cost: those that submit meanwhile, and the database.

One process of the API holds them all, or the two that a machine of two cores has, beside a worker
whose engine sleeps. Everybody who waits must be told of the end of the job; an answer that is late
or missing stops the bench.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from select import select as readable
from uuid import UUID

from sqlalchemy import select, text

from api import auth
from bench import backlog, engines, load
from bench.load import Answers, Load
from bench.measure import Row, compare, compare_percentile, interleave
from bench.parts import GATEWAYS, Parts
from tasks import jobs
from tasks.tables import Job

WAITERS = 500
_SUBMITS_PER_S = 30
_FLOOD_PER_S = 200
_CONNECTIONS = 32
_SECONDS = 5.0
_FLOOD_S = 10.0
# A client that has waited for longer has given up: it would be a timeout.
_TIMEOUT_S = 10.0
_IDLE_S = 10.0
_WAIT_S = 60
_POLLS = 50
_AT_ONCE_S = 0.1
# PostgreSQL's processes tell what they have counted when they have been idle for so long.
_TOLD_AFTER_S = 10.5
_PATH = "/v1/jobs"
_LOCK = select(Job).order_by(Job.id).with_for_update(key_share=True)
_BODY = json.dumps(
    {
        "pipeline": "text-to-image",
        "model_id": engines.SLOW.model_id,
        "prompt": "a red bicycle leaning against a blue door in the rain",
        "width": engines.SIDE,
        "height": engines.SIDE,
    }
)


def rows(parts: Parts, rounds: int, share: float) -> list[Row]:
    """Compare submits beside those who wait with submits alone; count what waiting asks."""
    with parts.sessions.begin() as session:
        _, key = auth.create_key(session, parts.gateway_id, "waiting")
    one, all_of_it = parts.single_api_port, parts.api_port
    statements = _statements(parts, one, key)  # Before a worker adds its own.
    parts.start_worker()
    headers = [
        {"Content-Type": "application/json", "Authorization": f"Bearer {each}"}
        for each in parts.gateway_keys
    ]
    sent = Load(
        one,
        _PATH,
        headers,
        _BODY,
        connections=_CONNECTIONS,
        seconds=share * _SECONDS,
        per_second=_SUBMITS_PER_S,
    )
    flood = replace(sent, port=all_of_it, seconds=share * _FLOOD_S, per_second=_FLOOD_PER_S)
    for usual in (sent, flood):
        load.send(usual)
    taken = interleave(
        rounds,
        {
            "waiting": partial(_beside, parts, key, sent),
            "alone": partial(load.send, sent),
            "flood, waiting": partial(_beside, parts, key, flood),
            "flood, alone": partial(load.send, flood),
        },
    )
    _clear(parts)
    rates = {arm: [answers.accepted() / answers.seconds for answers in taken[arm]] for arm in taken}
    return [
        *_latencies(taken, _SUBMITS_PER_S, "waiting", "alone"),
        *_latencies(taken, _FLOOD_PER_S, "flood, waiting", "flood, alone"),
        compare(
            f"submits, of {_FLOOD_PER_S}/s offered by {GATEWAYS} gateways, beside {WAITERS} "
            "who wait (baseline: nobody)",
            "/s",
            "higher",
            rates["flood, waiting"],
            rates["flood, alone"],
        ),
        statements,
    ]


def _latencies(
    taken: Mapping[str, Sequence[Answers]], per_second: int, *arms: str
) -> Iterator[Row]:
    """Compare how long submits take at a rate, beside those who wait and without them."""
    what = f"submit, at {per_second}/s beside {WAITERS} who wait (baseline: nobody waits)"
    ours, baseline = ([answers.latencies_s for answers in taken[arm]] for arm in arms)
    slowest = max(max(latencies) for latencies in (*ours, *baseline))
    assert slowest < _TIMEOUT_S, f"a submit took {slowest:.1f} s: its client has timed out"
    for percent in (50, 99):
        yield compare_percentile(what, percent, ours, baseline)


def _beside(parts: Parts, key: str, sent: Load) -> Answers:
    with _waiting(parts, sent.port, key):
        return load.send(sent)


def _clear(parts: Parts) -> None:
    """Cancel what the sleeping engine would be at for hours, and other benches after it."""
    queue = backlog.queue(engines.SLOW)
    with parts.sessions.begin() as session:
        left = session.scalars(_LOCK.where(Job.queue == queue, Job.state == "queued")).all()
        jobs.end(session, left, "canceled", None, None)


def _statements(parts: Parts, port: int, key: str) -> Row:
    """Count the statements of those who wait, and of a client that polls every second instead."""
    with _waiting(parts, port, key, 1) as [polled]:
        before = _transactions(parts)
        for _ in range(_POLLS):
            with _ask(port, key, polled, wait=0) as connection:
                _read(connection)
        polls = (_transactions(parts) - before) / _POLLS
    with _waiting(parts, port, key):
        before, began = _transactions(parts), time.perf_counter()
        time.sleep(_IDLE_S)
        asked = _transactions(parts) - before
        waits = asked / (time.perf_counter() - began) / WAITERS
    return compare(
        f"database statements for each of {WAITERS} who wait (baseline: polls each second)",
        "/s",
        "lower",
        [waits],
        [polls],
    )


@contextlib.contextmanager
def _waiting(parts: Parts, port: int, key: str, count: int = WAITERS) -> Iterator[list[UUID]]:
    """Let clients wait for a job each, which ends with the block; all of them must hear of it."""
    order = backlog.order(parts.gateway_id, engines.SUBMITTED)
    with parts.sessions.begin() as session:
        awaited = [jobs.submit(session, order)[0].id for _ in range(count)]
    connections = [_ask(port, key, job_id, _WAIT_S) for job_id in awaited]
    _settle_down(port, key, awaited[0])
    yield awaited
    began = time.perf_counter()
    with parts.sessions.begin() as session:
        ending = session.scalars(_LOCK.where(Job.id.in_(awaited))).all()
        jobs.end(session, ending, "canceled", None, None)
    for connection in connections:
        with connection:
            ready, _, _ = readable([connection], [], [], 10)
            assert ready, "a client that waits was not told"
            answer = _read(connection)
            assert b" 200 OK" in answer, answer
            assert b'"canceled"' in answer, answer
    assert time.perf_counter() - began < _WAIT_S / 2, "they were told by the end of their wait"


def _ask(port: int, key: str, job_id: UUID, wait: int) -> socket.socket:
    """Send a poll, and leave the answer to be read."""
    connection = socket.create_connection(("127.0.0.1", port))
    request = (
        f"GET {_PATH}/{job_id}?wait={wait} HTTP/1.1\r\nHost: bench\r\n"
        f"Authorization: Bearer {key}\r\n\r\n"
    )
    connection.sendall(request.encode())
    return connection


def _read(connection: socket.socket) -> bytes:
    """Return the whole answer. The client closes the connection, as browsers and SDKs do."""
    answer = b""
    while True:
        answer += connection.recv(65_536)
        head, gap, body = answer.partition(b"\r\n\r\n")
        if gap and len(body) >= load.content_length(head):
            return answer


def _settle_down(port: int, key: str, job_id: UUID) -> None:
    """Return when the API has taken in what it was asked, and answers at once again."""
    answered_s = 1.0
    while answered_s > _AT_ONCE_S:
        time.sleep(1)
        began = time.perf_counter()
        with _ask(port, key, job_id, wait=0) as connection:
            _read(connection)
        answered_s = time.perf_counter() - began


def _transactions(parts: Parts) -> int:
    """Return how many transactions there were. Each statement of a poll is one of its own."""
    with parts.engine.connect() as connection:
        time.sleep(_TOLD_AFTER_S)
        return int(
            connection.scalar(
                text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
            )
            or 0
        )
