"""What a worker and a scheduler answer to who watches them: /healthz and /metrics, in a thread.

Owns the listener and what healthy means there: the process's main chore came round a short while
ago. What is measured is `metrics`' and `gauges`'. The API answers such questions itself.
"""

from __future__ import annotations

import json
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from tasks.errors import NotListening

if TYPE_CHECKING:
    from tasks.settings import TaskSettings


class Pulse:
    """When a process last did what it is there for. Thread-safe."""

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
    settings: TaskSettings, pulse: Pulse, registry: CollectorRegistry = REGISTRY
) -> ThreadingHTTPServer | None:
    """Answer from now on, if the settings name a port; the thread ends with the process.

    Raises:
        NotListening: The port is taken, or the address is not this machine's.
    """
    if not settings.metrics_port:
        return None
    address = (settings.metrics_host, settings.metrics_port)
    try:
        server = ThreadingHTTPServer(address, _handler(pulse, registry))
    except OSError as error:
        raise NotListening(*address, error.strerror or str(error)) from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="probe", daemon=True).start()
    return server


def _handler(pulse: Pulse, registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
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
            word = "ok" if pulse.is_healthy else "no progress"
            body = json.dumps({"status": word, "still_s": round(pulse.still_s, 1)}) + "\n"
            status = HTTPStatus.OK if word == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
            self._say(status, "application/json", body.encode())

        def _say(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:  # noqa: ANN401  the base class's own
            """Log no request: scrapes and checks come every few seconds."""

    return Handler
