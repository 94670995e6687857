"""A client that keeps connections open and asks again and again, in a process of its own.

It reads what to do from standard input and writes what it saw to standard output. Raw sockets on
one event loop, because the client shares the machine with the servers: what it costs, both arms
lack.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

_HOST = "127.0.0.1"
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Load:
    """What to send, over how many connections, until the time or the number is reached."""

    port: int
    path: str
    headers: Sequence[Mapping[str, str]]  # Of the first connection, the second, and so on around.
    body: str
    connections: int = 1
    seconds: float = 3600.0
    requests: int = 10**9
    per_second: float = 0.0  # 0: each connection sends as soon as it was answered.

    def raw(self, connection: int) -> bytes:
        """Return the request as it goes over the wire."""
        body = self.body.encode()
        headers = self.headers[connection % len(self.headers)]
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {_HOST}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        return head.encode() + body


@dataclass(frozen=True)
class Answers:
    """What came back: how many of each status, how long each took, and how long all took."""

    statuses: dict[str, int]
    latencies_s: list[float]
    seconds: float

    def accepted(self) -> int:
        """Return how many requests were accepted, which must be all."""
        assert set(self.statuses) == {"202"}, f"answers: {self.statuses}"
        return self.statuses["202"]


def send(load: Load) -> Answers:
    """Run a load in a process of its own."""
    done = subprocess.run(
        (sys.executable, "-m", "bench.load"),
        input=json.dumps(asdict(load)),
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
    )
    assert done.returncode == 0, done.stderr
    return Answers(**json.loads(done.stdout))


class _Connection(asyncio.Protocol):
    """Sends a request, waits for the whole answer, and sends the next."""

    def __init__(self, run: _Run, raw: bytes) -> None:
        self._run = run
        self._raw = raw
        self._seen = b""
        self._sent_at = 0.0
        self._finished = False
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def _next(self) -> None:
        if not self._run.wants_another():
            self._finished = True
            self._transport.close()
            return
        # From when it was due: a server that falls behind must not slow its clients down unseen.
        self._sent_at = self._run.due_at()
        wait = self._sent_at - time.perf_counter()
        asyncio.get_running_loop().call_later(max(0.0, wait), self._transport.write, self._raw)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, gap, body = self._seen.partition(b"\r\n\r\n")
        if not gap or len(body) < content_length(head):
            return
        self._seen = b""
        self._run.note(head[9:12].decode(), time.perf_counter() - self._sent_at)
        self._next()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._finished:
            self._run.statuses["connection lost"] += 1
        if not self.done.done():
            self.done.set_result(None)


def content_length(head: bytes) -> int:
    """Return how long the body after a head is."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    raise ValueError("the answer does not say how long it is")


class _Run:
    """What the connections of one load share."""

    def __init__(self, load: Load) -> None:
        self.statuses: Counter[str] = Counter()
        self.latencies_s: list[float] = []
        self._left = load.requests
        self._per_second = load.per_second
        self._next_at = time.perf_counter()
        self._ends_at = self._next_at + load.seconds

    def wants_another(self) -> bool:
        """Tell whether to send another request; whoever is told so sends it."""
        if self._left <= 0 or time.perf_counter() >= self._ends_at:
            return False
        self._left -= 1
        return True

    def due_at(self) -> float:
        """Return when the next request is due: at once, or by the rate that was asked for."""
        if not self._per_second:
            return time.perf_counter()
        self._next_at += 1 / self._per_second
        return self._next_at

    def note(self, status: str, latency_s: float) -> None:
        self.statuses[status] += 1
        self.latencies_s.append(latency_s)


async def _play(load: Load) -> Answers:
    run = _Run(load)
    began = time.perf_counter()
    loop = asyncio.get_running_loop()
    pairs = [
        await loop.create_connection(partial(_Connection, run, load.raw(number)), _HOST, load.port)
        for number in range(load.connections)
    ]
    await asyncio.gather(*(connection.done for _, connection in pairs))
    return Answers(dict(run.statuses), run.latencies_s, time.perf_counter() - began)


if __name__ == "__main__":
    json.dump(asdict(asyncio.run(_play(Load(**json.load(sys.stdin))))), sys.stdout)
