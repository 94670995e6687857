"""How fast jobs are accepted: ours with its row, its hold and its bell, the baseline with nothing.

Every accepted request is counted again in the database: a 202 without its job and its hold would be
a lie, however fast.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from sqlalchemy import func, select

from api import auth
from bench import backlog, baselines, load
from bench.engines import SIDE, SUBMITTED
from bench.load import Answers, Load
from bench.measure import Row, compare, compare_percentile, interleave
from bench.parts import Parts
from ledger.tables import Hold
from tasks.tables import Job

_CONNECTIONS = 32
_GATEWAYS = 16
_SECONDS = 3.0
_REQUESTS = 300
_WARM_UP = 200
_BODY = json.dumps(
    {
        "pipeline": "text-to-image",
        "model_id": SUBMITTED.model_id,
        "prompt": "a red bicycle leaning against a blue door in the rain",
        "width": SIDE,
        "height": SIDE,
        "num_images_per_prompt": 1,
        "seed": 1,
    }
)
_JSON = {"Content-Type": "application/json"}
_ONE, _MANY, _BARE = "one gateway", f"{_GATEWAYS} gateways", "bare"


def rates(parts: Parts, rounds: int, share: float) -> list[Row]:
    """Compare how many submits a second are accepted from many connections."""
    arms = _arms(parts, connections=_CONNECTIONS, seconds=share * _SECONDS)
    taken = interleave(rounds, arms)
    backlog.check_books(parts.sessions)
    per_s = {
        name: [answers.accepted() / answers.seconds for answers in runs]
        for name, runs in taken.items()
    }
    return [
        compare(
            f"durable submits, {_CONNECTIONS} connections, {name} (baseline: stores nothing)",
            "/s",
            "higher",
            per_s[name],
            per_s[_BARE],
        )
        for name in (_ONE, _MANY)
    ]


def latencies(parts: Parts, rounds: int, share: float) -> list[Row]:
    """Compare how long one client, asking again and again, waits for its answer."""
    arms = _arms(parts, connections=1, requests=round(share * _REQUESTS))
    del arms[_MANY]  # One client is one gateway.
    taken = interleave(rounds, arms)
    backlog.check_books(parts.sessions)
    return [
        compare_percentile(
            "submit, one client (baseline: stores nothing)",
            percent,
            [answers.latencies_s for answers in taken[_ONE]],
            [answers.latencies_s for answers in taken[_BARE]],
        )
        for percent in (50, 99)
    ]


def _arms(
    parts: Parts, connections: int, seconds: float = 3600, requests: int = 10**9
) -> dict[str, partial[Answers]]:
    """Return what sends the load to each server, after each has answered some requests."""
    keys = _keys(parts)
    arms: dict[str, partial[Answers]] = {}
    for spread, name, send in (
        (keys[:1], _ONE, _ours),
        (keys, _MANY, _ours),
        ([_JSON], _BARE, _bare),
    ):
        port = parts.baseline_port if send is _bare else parts.api_port
        full = Load(port, connections, "/v1/jobs", spread, _BODY, seconds, requests)
        send(parts, replace(full, connections=_CONNECTIONS, requests=_WARM_UP))
        arms[name] = partial(send, parts, full)
    return arms


def _keys(parts: Parts) -> Sequence[Mapping[str, str]]:
    """Return the headers of as many gateways as take part, each with a key of its own."""
    headers = []
    with parts.sessions.begin() as session:
        for number in range(_GATEWAYS):
            gateway_id = backlog.add_gateway(session, f"{backlog.OWNER}-{number}")
            _, key = auth.create_key(session, gateway_id, backlog.OWNER)
            headers.append({**_JSON, "Authorization": f"Bearer {key}"})
    return headers


def _ours(parts: Parts, sent: Load) -> Answers:
    before = _stored(parts)
    answers = load.send(sent)
    stored = tuple(now - then for now, then in zip(_stored(parts), before, strict=True))
    accepted = answers.accepted()
    assert stored == (accepted, accepted), f"{accepted} accepted, (jobs, holds) stored: {stored}"
    return answers


def _stored(parts: Parts) -> tuple[int, int]:
    with parts.sessions.begin() as session:
        jobs = session.scalars(select(func.count()).select_from(Job)).one()
        holds = session.scalars(select(func.count()).where(Hold.state == "open")).one()
    return jobs, holds


def _bare(parts: Parts, sent: Load) -> Answers:
    parts.redis.delete(baselines.SUBMITS)
    answers = load.send(sent)
    queued = parts.redis.llen(baselines.SUBMITS)
    assert queued == answers.accepted(), f"{answers.accepted()} accepted, {queued} queued"
    return answers
