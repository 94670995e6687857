"""/metrics: what Prometheus reads, with a key of its own."""

from __future__ import annotations

from flask import Blueprint, Response, abort, request
from prometheus_client import CONTENT_TYPE_LATEST

from api import auth, metrics
from api.openapi import Operation, operation
from api.runtime import current

bp = Blueprint("metrics", __name__)


@bp.get("/metrics")
@operation(Operation(tag="health", security="none", answers=[], hidden=True))
def show() -> Response:
    """Show what is counted, to who has the metrics key; without such a key, there is nothing here.

    Raises:
        NotAuthenticated: The request does not carry it.
    """
    key = current().settings.metrics_key.get_secret_value()
    if not key:
        abort(404)
    auth.authenticate_metrics(key, request.headers.get("Authorization"))
    return Response(metrics.written(), content_type=CONTENT_TYPE_LATEST)
