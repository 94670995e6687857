"""/openapi.json and /docs: the API's description, for programs and for people.

The page is Swagger UI, served from an installed package: it asks no other host for anything, and
its content security policy would not let it.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from flask import Blueprint, Response, current_app, jsonify, send_from_directory

from api.openapi import Answer, Operation, document, operation

bp = Blueprint("docs", __name__)

_PACKAGE = "flask_openapi3_swagger"
_ASSETS = {"swagger-ui.css": "css", "swagger-ui-bundle.js": "js"}
_HIDDEN = Operation(tag="docs", security="none", answers=[], hidden=True)
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Pixeltoll API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """\
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null,
  persistAuthorization: false
});
"""
# Swagger UI styles its elements inline; scripts come from files of ours alone.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)


@bp.get("/openapi.json")
@operation(
    Operation(
        tag="docs",
        security="none",
        answers=[Answer(200, "An OpenAPI 3.1 document", content=["application/json"])],
    )
)
def openapi() -> Response:
    """Describe this API."""
    return jsonify(document(current_app))


@bp.get("/docs")
@operation(_HIDDEN)
def page() -> Response:
    """Show the description to a person."""
    return Response(_PAGE, mimetype="text/html", headers={"Content-Security-Policy": _POLICY})


@bp.get("/docs/start.js")
@operation(_HIDDEN)
def start() -> Response:
    """Return the page's few lines of script."""
    return Response(_START, mimetype="text/javascript")


@bp.get("/docs/<any('swagger-ui.css', 'swagger-ui-bundle.js'):asset>")
@operation(_HIDDEN)
def asset(asset: str) -> Response:
    """Return a part of Swagger UI."""
    return send_from_directory(_folder() / _ASSETS[asset], asset, max_age=86_400)


@cache
def _folder() -> Path:
    """Return where the package keeps Swagger UI; looked up without importing it."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(_PACKAGE)
    return Path(spec.origin).parent / "templates" / "swagger"
