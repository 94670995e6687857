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

from bench import backlog, baselines, load
from bench.engines import SIDE, SUBMITTED
from bench.load import Answers, Load
from bench.measure import Row, compare, compare_percentile, interleave
from bench.parts import GATEWAYS, Parts
from ledger.tables import Hold
from tasks.tables import Job

_CONNECTIONS = 32
_SECONDS = 2.0
_REQUESTS = 300
_WARM_UP = 64
_PATH = "/v1/jobs"
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
_ONE, _MANY, _BARE = "one gateway", f"{GATEWAYS} gateways", "bare"


def rows(parts: Parts, rounds: int, share: float) -> list[Row]:
    """Compare submits a second from many connections, and how long a single client waits."""
    keys = [{**_JSON, "Authorization": f"Bearer {key}"} for key in parts.gateway_keys]
    servers = {
        _ONE: (partial(_ours, parts), Load(parts.api_port, _PATH, keys[:1], _BODY)),
        _MANY: (partial(_ours, parts), Load(parts.api_port, _PATH, keys, _BODY)),
        _BARE: (partial(_bare, parts), Load(parts.baseline_port, _PATH, [_JSON], _BODY)),
    }
    for send, full in servers.values():
        send(replace(full, connections=_CONNECTIONS, requests=_WARM_UP))
    many = {
        name: partial(send, replace(full, connections=_CONNECTIONS, seconds=share * _SECONDS))
        for name, (send, full) in servers.items()
    }
    single = {
        name: partial(send, replace(full, requests=round(share * _REQUESTS)))
        for name, (send, full) in servers.items()
        if name != _MANY
    }
    taken = interleave(rounds, many)
    waits = interleave(rounds, single)
    backlog.check_books(parts.sessions)
    return [*_rates(taken), *_latencies(waits)]


def _rates(taken: Mapping[str, Sequence[Answers]]) -> list[Row]:
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


def _latencies(taken: Mapping[str, Sequence[Answers]]) -> list[Row]:
    return [
        compare_percentile(
            "submit, one client (baseline: stores nothing)",
            percent,
            [answers.latencies_s for answers in taken[_ONE]],
            [answers.latencies_s for answers in taken[_BARE]],
        )
        for percent in (50, 99)
    ]


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
