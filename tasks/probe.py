"""What a worker and a scheduler answer to who watches them: /healthz and /metrics, in a thread.

Owns the listener and what healthy means there: every chore of the process that has a pulse came
round a short while ago. What is measured is `metrics`' and `gauges`'. The API answers such
questions itself.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from tasks.errors import NotListening

if TYPE_CHECKING:
    from tasks.settings import TaskSettings


class Pulse:
    """When a process last did one of the things that it is there for. Thread-safe."""

    def __init__(self, limit_s: float) -> None:
        """Take how long it may take from one time to the next; the first one counts from now."""
        self._limit_s = limit_s
        self._beat_at = time.monotonic()

    def beat(self) -> None:
        """Say that it was done once more."""
        self._beat_at = time.monotonic()

    @property
    def still_s(self) -> float:
        """For how long it has not been done."""
        return time.monotonic() - self._beat_at

    @property
    def is_healthy(self) -> bool:
        """Tell whether it was done recently enough."""
        return self.still_s <= self._limit_s


def listen(
    settings: TaskSettings, pulses: Mapping[str, Pulse], registry: CollectorRegistry = REGISTRY
) -> ThreadingHTTPServer | None:
    """Answer from now on, if the settings name a port; the thread ends with the process.

    It is healthy while all pulses are. More may be added meanwhile.

    Raises:
        NotListening: The port is taken, or the address is not this machine's.
    """
    if not settings.metrics_port:
        return None
    address = (settings.metrics_host, settings.metrics_port)
    try:
        server = ThreadingHTTPServer(address, _handler(pulses, registry))
    except OSError as error:
        raise NotListening(*address, error.strerror or str(error)) from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="probe", daemon=True).start()
    return server


def _handler(
    pulses: Mapping[str, Pulse], registry: CollectorRegistry
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path == "/healthz":
                self._say_health()
            elif self.path == "/metrics":
                self._say(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry))
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _say_health(self) -> None:
            # Copied, because another thread may be adding one.
            known = dict(pulses)
            late = [name for name, pulse in known.items() if not pulse.is_healthy]
            still_s = {name: round(pulse.still_s, 1) for name, pulse in known.items()}
            facts = {"status": "no progress" if late else "ok", "late": late, "still_s": still_s}
            status = HTTPStatus.SERVICE_UNAVAILABLE if late else HTTPStatus.OK
            self._say(status, "application/json", (json.dumps(facts) + "\n").encode())

        def _say(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:  # noqa: ANN401  the base class's own
            """Log no request: scrapes and checks come every few seconds."""

    return Handler
