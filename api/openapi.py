"""The OpenAPI 3.1 document, made from what the routes say of themselves.

A route is described by `@operation`, which is also what lets requests in: the security that is
documented is the security that is enforced, and a route without a description is not served.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal, TypeVar, cast

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.routing import Rule

from api.errors import AdminDisabled, MalformedBody, NotAuthenticated, UnsupportedContentType
from api.problems import problem_of
from api.views import CompletionView, MessageView, ProblemBody
from ledger.budgets import PERIODS
from tasks.errors import InvalidParams

# "caller" is "gateway" where an installation may let requests in that bring no key, "x-api-key"
# where the key may come in a header of that name, "basic" where it may be the password of HTTP
# Basic.
Security = Literal["gateway", "caller", "x-api-key", "basic", "admin", "none"]
View = TypeVar("View", bound=Callable[..., Any])

PROBLEM_JSON = "application/problem+json"
_REF = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE")
_DESCRIPTION = """\
Image generation jobs, priced by the pixel. Submit a job, poll it, fetch its pictures.

Money is a plain decimal string. Errors are RFC 9457 problems with a stable `code`. Lists answer
`{"data": [...], "next_cursor": ...}`.
"""

_PATH_PARAMETERS: Mapping[str, dict[str, Any]] = {
    "job_id": {"schema": {"type": "string", "format": "uuid"}, "description": "A job's id."},
    "name": {"schema": {"type": "string"}, "description": "The picture's name in its job's url."},
    "gateway": {"schema": {"type": "string"}, "description": "A gateway's id or name."},
    "orchestrator": {"schema": {"type": "string"}, "description": "Its id or name."},
    "key_id": {
        "schema": {"type": "string"},
        "description": "The id of a key: the part between its underscores.",
    },
    "month": {
        "schema": {"type": "string", "pattern": r"^\d{4}-\d\d$"},
        "description": "A month such as `2026-11`.",
    },
    "period": {
        "schema": {"type": "string", "enum": list(PERIODS)},
        "description": "What the budget is for.",
    },
    "reference": {"schema": {"type": "string"}, "description": "The payout's reference."},
    "webhook_id": {
        "schema": {"type": "string", "format": "uuid"},
        "description": "A webhook's id.",
    },
    "delivery_id": {"schema": {"type": "integer"}, "description": "A delivery's id in its log."},
    "offer_id": {"schema": {"type": "integer"}, "description": "An offer's id."},
}


# In the order in which a newcomer needs them.
_TAGS = {
    "jobs": "Submit, poll, list and cancel; quotes, which hold nothing.",
    "pictures": "What jobs produced.",
    "livepeer": "The API of a Livepeer AI gateway.",
    "aws": "The task API of Stable Diffusion on AWS.",
    "sdwebui": "The API of the Stable Diffusion WebUI.",
    "models": "What can be asked for, and at what price.",
    "gateway": "The caller's own balance, price limits, budgets, statement and invoices.",
    "webhooks": "Be told of the ends of jobs, instead of asking.",
    "admin": "For the installation's owner: gateways, orchestrators, offers, rates and payouts.",
    "health": "Is it alive, and what does it lack.",
    "docs": "This description.",
}


@dataclass(frozen=True)
class Answer:
    """A response that is no error: its body is JSON of the model, or one of `content`, or empty."""

    status: int
    description: str
    model: type[BaseModel] | None = None
    content: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """What a route says of itself."""

    tag: str
    answers: Sequence[Answer]
    security: Security
    errors: Sequence[type[Exception]] = ()
    query: type[BaseModel] | None = None
    body: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    hidden: bool = False
    # Whether it makes a job: what it refuses is counted.
    submits: bool = False
    # The body of an error by its status, where it is no problem.
    told_as: Callable[[int], type[BaseModel]] | None = None
    # Statuses that a dialect answers in the place of ours.
    instead: Mapping[int, int] = field(default_factory=dict)

    def every_error(self) -> Iterator[type[Exception]]:
        """Yield the errors that it names, and those that follow from what it does."""
        yield from self.errors
        if self.security != "none":
            yield NotAuthenticated
        if self.security == "admin":
            yield AdminDisabled
        if self.query or self.body or self.headers:
            yield InvalidParams
        if self.body:
            yield from (MalformedBody, UnsupportedContentType, RequestEntityTooLarge)


def operation(described: Operation) -> Callable[[View], View]:
    """Describe a view; its docstring's first line is the summary, the rest the description."""

    def attach(view: View) -> View:
        vars(view)["operation"] = described
        return view

    return attach


def described(view: Callable[..., Any]) -> Operation:
    """Return what a view says of itself.

    Raises:
        LookupError: It says nothing: it was written without `@operation`.
    """
    try:
        found: Operation = vars(view)["operation"]
    except KeyError:
        raise LookupError(f"{view} has no @operation") from None
    return found


def document(app: Flask) -> dict[str, Any]:
    """Return the OpenAPI document of an app."""
    routes = [
        (rule, method, app.view_functions[rule.endpoint])
        for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule)
        for method in _METHODS
        if method in (rule.methods or ())
        and not described(app.view_functions[rule.endpoint]).hidden
    ]
    names, schemas = _schemas(described(view) for _, _, view in routes)
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for rule, method, view in routes:
        path = _PARAMETER.sub(r"{\1}", rule.rule)
        paths[path][method.lower()] = _operation(rule, view, names)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pixeltoll",
            "version": version("pixeltoll"),
            "description": _DESCRIPTION,
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": dict(paths),
        "webhooks": {"job": {"post": _message(names)}},
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "gateway": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A gateway's API key.",
                },
                "x-api-key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-api-key",
                    "description": "A gateway's API key, as clients of the AWS task API send it.",
                },
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "A gateway's API key as the password, and anything as the user.",
                },
                "admin": {"type": "http", "scheme": "bearer", "description": "The admin key."},
            },
        },
    }


_SECURITY: Mapping[Security, list[dict[str, list[str]]]] = {
    "none": [],
    "gateway": [{"gateway": []}],
    "caller": [{"gateway": []}, {}],
    "x-api-key": [{"x-api-key": []}, {"gateway": []}],
    "basic": [{"basic": []}, {"gateway": []}],
    "admin": [{"admin": []}],
}
_MESSAGES = (MessageView, CompletionView)
_Names = Mapping[type[BaseModel], dict[str, Any]]


def _message(names: _Names) -> dict[str, Any]:
    """Describe what we send to webhooks."""
    return {
        "tags": ["webhooks"],
        "operationId": "webhook_job",
        "summary": "A job has ended",
        "description": "Signed as Standard Webhooks says, and repeated until it is taken.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"oneOf": [names[message] for message in _MESSAGES]}}
            },
        },
        "responses": {"2XX": {"description": "The message is taken."}},
        "security": [],
    }


def _schemas(operations: Iterable[Operation]) -> tuple[_Names, dict[str, Any]]:
    """Return a reference for each model, and the schemas that they refer to."""
    asked: dict[type[BaseModel], None] = {}
    answered: dict[type[BaseModel], None] = {ProblemBody: None, **dict.fromkeys(_MESSAGES)}
    for one in operations:
        asked.update(dict.fromkeys(one.body.values()))
        answered.update({answer.model: None for answer in one.answers if answer.model})
        if one.told_as is not None:
            answered.update({one.told_as(status): None for status in _codes(one)})
    references, definitions = models_json_schema(
        [
            *((model, "validation") for model in asked),
            *((model, "serialization") for model in answered),
        ],
        ref_template=_REF,
    )
    return {
        cast("type[BaseModel]", model): ref for (model, _), ref in references.items()
    }, definitions["$defs"]


def _operation(rule: Rule, view: Callable[..., Any], names: _Names) -> dict[str, Any]:
    one = described(view)
    summary, _, rest = (inspect.getdoc(view) or "").partition("\n")
    found: dict[str, Any] = {
        "operationId": rule.endpoint.replace(".", "_"),
        "tags": [one.tag],
        "summary": summary,
        "description": rest.strip(),
        "parameters": [*_path_parameters(rule), *_query_parameters(one), *_header_parameters(one)],
        "responses": _responses(one, names),
        "security": _SECURITY[one.security],
    }
    if one.body:
        found["requestBody"] = {
            "required": True,
            "content": {
                content_type: {"schema": names[model]} for content_type, model in one.body.items()
            },
        }
    return found


def _path_parameters(rule: Rule) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, **_PATH_PARAMETERS[name]}
        for name in _PARAMETER.findall(rule.rule)
    ]


def _query_parameters(one: Operation) -> list[dict[str, Any]]:
    if one.query is None:
        return []
    schema = one.query.model_json_schema(ref_template=_REF)
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": facts.pop("description", ""),
            "schema": _without_null(facts),
        }
        for name, facts in schema["properties"].items()
    ]


def _without_null(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an optional parameter: it is left out, and cannot be null."""
    choices = [choice for choice in facts.get("anyOf", ()) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else facts


def _header_parameters(one: Operation) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": description,
            "schema": {"type": "string"},
        }
        for name, description in one.headers.items()
    ]


def _responses(one: Operation, names: _Names) -> dict[str, Any]:
    """Return every response by its status; where an answer has one of a problem, both bodies."""
    found = {str(answer.status): _answer(answer, names) for answer in one.answers}
    for status, problem in _problems(one, names).items():
        answer = found.setdefault(status, problem)
        answer["content"] = {**problem["content"], **answer["content"]}
    return found


def _answer(answer: Answer, names: _Names) -> dict[str, Any]:
    found: dict[str, Any] = {"description": answer.description}
    content: dict[str, Any] = {content_type: {} for content_type in answer.content}
    if answer.model is not None:
        content = {"application/json": {"schema": names[answer.model]}, **content}
    if content:
        found["content"] = content
    if answer.headers:
        found["headers"] = {
            name: {"description": description, "schema": {"type": "string"}}
            for name, description in answer.headers.items()
        }
    return found


def _problems(one: Operation, names: _Names) -> dict[str, Any]:
    """Return a response for each status that an error of the operation has, naming its codes."""
    return {
        str(status): {
            "description": "; ".join(f"`{code}`: {title}" for code, title in found.items()),
            "content": _problem(one, status, found, names),
        }
        for status, found in sorted(_codes(one).items())
    }


def _codes(one: Operation) -> dict[int, dict[str, str]]:
    """Return the codes of an operation's errors with their titles, by status."""
    codes: dict[int, dict[str, str]] = defaultdict(dict)
    for error in one.every_error():
        problem = problem_of(error)
        codes[one.instead.get(problem.status, problem.status)][problem.code] = problem.title
    codes[500]["internal_error"] = "Internal error"
    codes[503]["database_unavailable"] = "The database does not answer"
    return codes


def _problem(
    one: Operation, status: int, codes: Iterable[str], names: _Names
) -> dict[str, dict[str, Any]]:
    if one.told_as is not None:
        return {"application/json": {"schema": names[one.told_as(status)]}}
    coded = {"properties": {"code": {"enum": sorted(codes)}}}
    return {PROBLEM_JSON: {"schema": {"allOf": [names[ProblemBody], coded]}}}
