"""docs/reference/http.md and bodies.md: every route and body, from the API's OpenAPI document."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from api.app import create_app
from api.openapi import document
from api.runtime import assemble
from api.settings import ApiSettings
from ledger import db
from ledger.settings import LedgerSettings
from tasks import catalog
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tools.reference.markdown import NOTICE, table

_ROUTES = """\
This is `/openapi.json` of a running API for reading; `/docs` there lets you try it. [Using the
API](../how-to/api.md) is the short way in, [bodies](bodies.md) has what is sent and answered,
field by field, and [errors](errors.md) says what to do about each code.

Where a key is asked for, `gateway` is a gateway's key and `admin` the admin key, both as
`Authorization: Bearer`; `basic` is a gateway's key as the password of HTTP Basic, and `x-api-key`
one in that header. Every route may also answer `internal_error` (500) and `database_unavailable`
(503). Errors are [problems](bodies.md#problembody) where nothing else is said.
"""
_BODIES = """\
What [the routes](http.md) take and answer. A field that is required is always there in an answer.
Amounts and prices are decimals as text.
"""
_DIALECTS = {"aws": "AWS", "livepeer": "Livepeer", "sdwebui": "WebUI"}
_PROBLEM = "application/problem+json"
_EVERYWHERE = {"`internal_error`", "`database_unavailable`"}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "minLength": "length at least {}",
    "maxLength": "length at most {}",
    "minItems": "items at least {}",
    "maxItems": "items at most {}",
}
_CODE = re.compile(r"(`[a-z_]+`): ")
_Json = Mapping[str, Any]


def routes() -> str:
    """Return the page of routes."""
    described = _described()
    grouped: dict[str, list[str]] = defaultdict(list)
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            grouped[one["tags"][0]].append(_operation(f"{method.upper()} {path}", one))
    parts = [NOTICE, "# The HTTP API", _ROUTES.strip()]
    for tag in described["tags"]:
        parts += [f"## {_titled(tag['name'])}", tag["description"], *grouped[tag["name"]]]
    return "\n\n".join(parts) + "\n"


def bodies() -> str:
    """Return the page of bodies."""
    schemas = _described()["components"]["schemas"]
    parts = [NOTICE, "# Bodies", _BODIES.strip()]
    parts += [_body(name, schemas[name]) for name in sorted(schemas, key=_short)]
    return "\n\n".join(parts) + "\n"


@cache
def _described() -> _Json:
    """Return the document of an API with default settings; nothing is connected to or read."""
    settings, tasks = ApiSettings.model_construct(), TaskSettings.model_construct()
    books = LedgerSettings.model_construct()
    engine = db.make_engine(books.database_url, autocommit=True)
    runtime = assemble(
        engine,
        lambda: ObjectStore.from_settings(tasks),
        catalog.load(None),
        settings,
        tasks,
        books.settlement_currency,
    )
    return document(create_app(runtime))


def _operation(title: str, one: _Json) -> str:
    summary = " ".join(filter(None, (one["summary"], _flat(one["description"]))))
    facts = [f"- Key: {_keys(one['security'])}"]
    for content_type, body in one.get("requestBody", {}).get("content", {}).items():
        facts.append(f"- Body: {_link(body['schema'])}, `{content_type}`")
    facts += _answers(one["responses"])
    parts = [f"### {title}", summary, "\n".join(facts)]
    if one["parameters"]:
        rows = (
            (f"`{given['name']}`", given["in"], _type(given["schema"]), _said(given))
            for given in one["parameters"]
        )
        parts.append(table(("parameter", "in", "type", "means"), rows).rstrip())
    return "\n\n".join(parts)


def _answers(responses: _Json) -> Iterator[str]:
    """Yield a line for each answer that has words, and one for all refusals."""
    refused: list[str] = []
    told: dict[str, None] = {}
    for status, answer in sorted(responses.items()):
        found = _CODE.findall(answer["description"])
        codes = [code for code in found if code not in _EVERYWHERE]
        content = answer.get("content", {})
        if not found:
            yield ", ".join((f"- {status}: {_flat(answer['description'])}", *_listed(content)))
        elif codes:
            refused.append(f"{status} {' '.join(codes)}")
            told |= dict.fromkeys(_listed(content) if _PROBLEM not in content else ())
    if refused:
        yield f"- Refusals{', as ' if told else ''}{' or '.join(told)}: {'; '.join(refused)}"


def _listed(content: _Json) -> Iterator[str]:
    """Yield what an answer's body may be."""
    for content_type, body in content.items():
        if "schema" in body and content_type != _PROBLEM:
            yield _link(body["schema"])
        else:
            yield f"`{content_type}`"


def _body(name: str, schema: _Json) -> str:
    parts = [f"## {_short(name)}", _flat(schema.get("description", ""))]
    required = schema.get("required", ())
    rows = [
        (
            f"`{field}`",
            _type(facts),
            "required" if field in required else _default(facts),
            _said(facts),
        )
        for field, facts in schema.get("properties", {}).items()
    ]
    if rows:
        parts.append(table(("field", "type", "default", "means"), rows).rstrip())
    elif "type" in schema:
        parts.append(f"Type: {_type(schema)}.")
    return "\n\n".join(filter(None, parts))


def _type(schema: _Json) -> str:
    """Return a schema in words."""
    if "$ref" in schema:
        return _link(schema)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[several]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = str(schema.get("type", "any"))
    return f"{kind} ({schema['format']})" if "format" in schema else kind


def _said(facts: _Json) -> str:
    """Return what a field is about, and its bounds."""
    schema = facts.get("schema", facts)
    bounds = [words.format(schema[name]) for name, words in _BOUNDS.items() if name in schema]
    said = _flat(facts.get("description", ""))
    if not bounds:
        return said
    listed = ", ".join(bounds)
    return f"{said} {listed[0].upper()}{listed[1:]}.".strip()


def _default(facts: _Json) -> str:
    if facts.get("default") in (None, ""):
        return ""
    return f"`{facts['default']}`".replace("True", "true").replace("False", "false")


def _link(schema: _Json) -> str:
    name = _short(schema["$ref"].rpartition("/")[2])
    return f"[{name}](bodies.md#{re.sub('[()]', '', name.lower()).replace(' ', '-')})"


def _short(name: str) -> str:
    """Return a body's name; those of dialects that have the same say whose they are."""
    parts = name.split("__")
    return name if len(parts) == 1 else f"{parts[-1]} ({_DIALECTS[parts[2]]})"


def _keys(security: Iterable[_Json]) -> str:
    return " or ".join(f"`{next(iter(one))}`" if one else "none" for one in security) or "none"


def _titled(tag: str) -> str:
    return _DIALECTS.get(tag, tag.capitalize())


def _flat(text: str) -> str:
    return " ".join(text.split())
