"""The Flask app: its routes, who may use them, and what every answer has in common."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from uuid import UUID

from flask import Flask, Response, current_app, g, request
from structlog.contextvars import bind_contextvars, clear_contextvars
from werkzeug.routing import PathConverter

from api import auth, metrics, parsing, problems
from api.dialects import refusing, sdwebui
from api.dialects.aws import routes as aws
from api.dialects.livepeer import routes as livepeer
from api.openapi import described
from api.routes import admin, docs, gateway, health, jobs, models, quotes, stream, webhooks
from api.routes import metrics as metrics_route
from api.runtime import EXTENSION, Runtime, current
from tasks import tracing

_RESOURCES = (
    *(jobs, quotes, models, gateway, webhooks, admin, stream, health, docs, aws),
    metrics_route,
)
# A form is a dozen short fields and one file. The file is spooled to disk and bounded by the body.
_MAX_FORM_PARTS = 40
_MAX_FORM_FIELDS_BYTES = 200_000


class _AnyPath(PathConverter):
    """The rest of an address, which may begin with a slash: a reference may, too."""

    regex = ".+?"
    part_isolating = False


def create_app(runtime: Runtime) -> Flask:
    """Build the app around a runtime. Connects to nothing."""
    app = Flask("api", static_folder=None)
    app.request_class = parsing.Request
    # An address is what it says: with a slash less it would be somebody else's, who has that name.
    app.url_map.merge_slashes = False
    app.url_map.converters["path"] = _AnyPath
    app.config.update(
        MAX_CONTENT_LENGTH=runtime.settings.max_body_bytes,
        MAX_FORM_PARTS=_MAX_FORM_PARTS,
        MAX_FORM_MEMORY_SIZE=_MAX_FORM_FIELDS_BYTES,
    )
    app.extensions[EXTENSION] = runtime
    # First, so that what is not let in is counted, too.
    metrics.install(app)
    app.before_request(_begin_span)
    app.teardown_request(_end_span)
    app.before_request(_admit)
    app.after_request(_finish)
    problems.install(app)
    for resource in _RESOURCES:
        app.register_blueprint(resource.bp)
    livepeer.install(app, runtime.settings.livepeer_mounts)
    app.register_blueprint(sdwebui.bp)
    refusing.install(app)
    return app


def _begin_span() -> None:
    """Let the request be a span, below its client's own if that says so."""
    route = request.url_rule.rule if request.url_rule is not None else "none"
    span = tracing.span(f"{request.method} {route}", "server", request.headers.get("traceparent"))
    span.__enter__()
    g.span = span


def _end_span(error: BaseException | None) -> None:
    span: AbstractContextManager[None] | None = g.pop("span", None)
    if span is not None:
        span.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


def _admit() -> None:
    """Let a request in by the security that its route is documented with, before its body is read.

    Raises:
        NotAuthenticated: It has no valid key.
        AdminDisabled: It is for an admin route, and there is no admin key.
    """
    clear_contextvars()
    _bind_job(request.view_args or {})
    if request.endpoint is None:
        return  # nothing is at this address, as the router says next
    operation = described(current_app.view_functions[request.endpoint])
    g.submits = operation.submits
    security = operation.security
    authorization = request.headers.get("Authorization")
    runtime = current()
    keyless = runtime.settings.livepeer_key.get_secret_value()
    if security == "caller" and authorization is None and keyless:
        authorization = f"Bearer {keyless}"
    if security == "x-api-key" and "x-api-key" in request.headers:
        authorization = f"Bearer {request.headers['x-api-key']}"
    if security == "basic":
        authorization = auth.from_basic(authorization)
    if security in ("gateway", "caller", "x-api-key", "basic"):
        g.caller = runtime.keyring.authenticate(authorization)
        bind_contextvars(gateway_id=str(g.caller.gateway_id))
    elif security == "admin":
        auth.authenticate_admin(runtime.settings.admin_key.get_secret_value(), authorization)


def _bind_job(parts: Mapping[str, str]) -> None:
    """Let every line about a request say which job it names; what is no id may be anything."""
    with suppress(KeyError, ValueError):
        bind_contextvars(job_id=str(UUID(parts["job_id"])))


def _finish(response: Response) -> Response:
    """Keep browsers from guessing types, and caches from keeping what is somebody's own."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    return response
