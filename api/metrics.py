"""What the API counts of its own: requests by route. What it counts of jobs is `tasks.metrics`'."""

from __future__ import annotations

import time

from flask import Flask, Response, g, request
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

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
    return generate_latest(registry)


def _begin() -> None:
    g.began_at = time.perf_counter()


def _count(response: Response) -> Response:
    route = request.url_rule.rule if request.url_rule is not None else "none"
    method = request.method if request.method in _METHODS else "other"
    REQUESTS.labels(method, route, str(response.status_code)).inc()
    if "began_at" in g:
        REQUEST_SECONDS.labels(route).observe(time.perf_counter() - g.began_at)
    return response
