"""What the API counts of its own: requests by route, and its processes' memory.

What it counts of jobs is `tasks.metrics`'.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

from flask import Flask, Response, g, request
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from api import settings

REQUESTS = Counter(
    "pixeltoll_http_requests",
    "Requests by route, never by address.",
    ["method", "route", "status"],
)
REQUEST_SECONDS = Histogram(
    "pixeltoll_http_request_seconds",
    "How long answers take, those that a client asked to wait for included.",
    ["route"],
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def install(app: Flask) -> None:
    """Count every request of an app."""
    app.before_request(_begin)
    app.after_request(_count)


def written() -> bytes:
    """Return the metrics of all processes of this API, or of this one where it is alone."""
    folder = settings.metrics_folder()
    if not folder:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    registry.register(MemoryCollector(os.getppid()))
    return generate_latest(registry)


class MemoryCollector(Collector):
    """What the children of a process have in memory, added up: none of them would tell of all."""

    def __init__(self, parent: int) -> None:
        """Take whose children they are: the one process that starts those of this API."""
        self._parent = parent

    def collect(self) -> Iterable[Metric]:
        """Return it under the name that it has for one process; nothing where there is no /proc."""
        children = Path(f"/proc/{self._parent}/task/{self._parent}/children")
        try:
            resident = sum(map(_resident_bytes, children.read_text().split()))
        except OSError:
            return []
        said = "Resident memory of this API's processes in bytes."
        return [GaugeMetricFamily("process_resident_memory_bytes", said, value=resident)]


def _resident_bytes(pid: str) -> int:
    try:
        _, pages, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0  # It has ended meanwhile.
    return int(pages) * resource.getpagesize()


def _begin() -> None:
    g.began_at = time.perf_counter()


def _count(response: Response) -> Response:
    route = request.url_rule.rule if request.url_rule is not None else "none"
    method = request.method if request.method in _METHODS else "other"
    REQUESTS.labels(method, route, str(response.status_code)).inc()
    if "began_at" in g:
        REQUEST_SECONDS.labels(route).observe(time.perf_counter() - g.began_at)
    return response
