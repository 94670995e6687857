"""A test client that holds every answer to the OpenAPI document."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from api.openapi import document

_BASE = "urn:openapi"


class Answer(TestResponse):
    """A response whose body is known to be JSON where a test reads it as such."""

    @property
    def json(self) -> Any:
        return self.get_json()


class CheckedClient(FlaskClient):
    """Asserts that each response has a documented status, content type and body."""

    if TYPE_CHECKING:

        def get(self, *args: Any, **kwargs: Any) -> Answer: ...
        def post(self, *args: Any, **kwargs: Any) -> Answer: ...
        def put(self, *args: Any, **kwargs: Any) -> Answer: ...
        def patch(self, *args: Any, **kwargs: Any) -> Answer: ...
        def delete(self, *args: Any, **kwargs: Any) -> Answer: ...
        def head(self, *args: Any, **kwargs: Any) -> Answer: ...

    def open(self, *args: Any, **kwargs: Any) -> Answer:
        response = super().open(*args, **kwargs)
        if response.request.method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            _checker(self.application).check(response)
        return cast("Answer", response)


class _Checker:
    """The document of an app, ready to validate by."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._document = document(app)
        resource = DRAFT202012.create_resource(self._document)
        self._registry: Registry[Any] = Registry().with_resource(_BASE, resource)

    def check(self, response: TestResponse) -> None:
        said = self._documented(response)
        if said is None:  # no such route, or not with this method: any problem will do
            self._validate(f"{_BASE}#/components/schemas/ProblemBody", response.json)
            assert response.mimetype == "application/problem+json"
            return
        content = said.get("content", {})
        if not content:
            return
        assert response.mimetype in content, f"{response.mimetype} is not in {list(content)}"
        schema = content[response.mimetype].get("schema")
        if schema is not None:
            self._validate(_absolute(schema), response.json)
        for name in said.get("headers", {}):
            if name not in ("Idempotency-Replayed", "Link"):
                assert name in response.headers

    def _documented(self, response: TestResponse) -> dict[str, Any] | None:
        request = response.request
        try:
            rule, _ = self._app.url_map.bind("localhost").match(
                request.path, method=request.method, return_rule=True
            )
        except HTTPException:
            return None
        path = re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)
        if path not in self._document["paths"]:
            return None if response.status_code >= 400 else {}
        responses = self._document["paths"][path][request.method.lower()]["responses"]
        status = str(response.status_code)
        assert status in responses, f"{request.method} {path} does not document {status}"
        return cast("dict[str, Any]", responses[status])

    def _validate(self, schema: str | dict[str, Any], value: object) -> None:
        wanted = {"$ref": schema} if isinstance(schema, str) else schema
        Draft202012Validator(
            wanted, registry=self._registry, format_checker=Draft202012Validator.FORMAT_CHECKER
        ).validate(value)


def _absolute(value: Any) -> Any:
    """Return a schema whose references name the document."""
    if isinstance(value, dict):
        return {
            key: _BASE + part if key == "$ref" else _absolute(part) for key, part in value.items()
        }
    return [_absolute(part) for part in value] if isinstance(value, list) else value


_made: list[_Checker] = []


def _checker(app: Flask) -> _Checker:
    """Return the one checker: every app of these tests has the same routes."""
    if not _made:
        _made.append(_Checker(app))
    return _made[0]
