"""Untrusted input to checked models: JSON, forms, queries and headers.

Money survives because decimals are never read as floats. What JSON leaves open is closed here:
duplicate names, NaN and infinity, halves of characters, and depth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NoReturn, TypeVar

import flask
from flask import request
from pydantic import BaseModel, ValidationError
from werkzeug.formparser import FormDataParser

from api.errors import MalformedBody, UnsupportedContentType
from api.schemas import FORM_JSON, FORM_SCALARS, JobFields, JobForm, JobRequest
from tasks.errors import FieldError, InvalidParams
from tasks.inputs import decode_base64
from tasks.links import is_link

JSON = "application/json"
FORM = "multipart/form-data"
# Bodies without a picture in them; the largest is a list of limits.
_SMALL_BODY_BYTES = 1_000_000
_MAX_KEY_CHARS = 255
_VISIBLE = re.compile(rf"[\x21-\x7e]{{1,{_MAX_KEY_CHARS}}}")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
_EXTRA = "is not a field of this request"
_TWICE = "is given more than once"

Model = TypeVar("Model", bound=BaseModel)


def json_body(model: type[Model]) -> Model:
    """Read the request's JSON body into a model.

    Raises:
        UnsupportedContentType: It is not JSON by its content type.
        MalformedBody: It is not JSON by its content.
        InvalidParams: It does not fit the model.
    """
    most = request.max_content_length
    request.max_content_length = min(most or _SMALL_BODY_BYTES, _SMALL_BODY_BYTES)
    if request.mimetype != JSON:
        raise UnsupportedContentType(request.mimetype, (JSON,))
    return checked(model, loads(_whole_body()))


def untyped_json() -> Any:  # noqa: ANN401  JSON is anything
    """Return the request's body as JSON, whatever its content type says; it may have pictures.

    Raises:
        MalformedBody: It is not JSON.
    """
    return loads(_whole_body())


def large_json_body(model: type[Model]) -> Model:
    """Read the request's JSON body, which may have pictures in it, into a model.

    Raises:
        UnsupportedContentType, MalformedBody, InvalidParams: As `json_body`.
    """
    if request.mimetype != JSON:
        raise UnsupportedContentType(request.mimetype, (JSON,))
    return checked(model, loads(_whole_body()))


def _whole_body() -> bytes:
    """Return the body.

    Raises:
        werkzeug.exceptions.RequestEntityTooLarge: It is above the limit.
    """
    data = request.get_data(cache=False)
    # A body that does not say how long it is would be cut off at the limit without a word. Reading
    # on is what raises.
    request.stream.read(1)
    return data


def job_body() -> tuple[JobFields, bytes | str | None]:
    """Read a job from a JSON body or a form; returns its fields, and its picture or a link to it.

    Raises:
        UnsupportedContentType: It is neither.
        MalformedBody: It is no valid JSON, or half a form.
        InvalidParams: A field is wrong.
        InvalidImage: The picture is not base64.
    """
    if request.mimetype == JSON:
        asked = large_json_body(JobRequest)
        return asked, None if asked.image is None else picture_of(asked.image)
    if request.mimetype == FORM:
        return _form()
    raise UnsupportedContentType(request.mimetype, (JSON, FORM))


def picture_of(text: str) -> bytes | str:
    """Return the bytes of a picture in base64, or the link that a text is.

    Raises:
        InvalidImage: It is neither.
    """
    return text.strip() if is_link(text) else decode_base64(text)


class Request(flask.Request):
    """A request whose broken form is an error; by itself it would be an empty form."""

    def make_form_data_parser(self) -> FormDataParser:
        """Return a parser that does not keep errors to itself."""
        parser = super().make_form_data_parser()
        parser.silent = False
        return parser


def _form() -> tuple[JobFields, bytes | str | None]:
    try:
        _ = request.form  # it is parsed when first looked at
    except ValueError:
        raise MalformedBody("The form is cut off, or its boundary is missing.") from None
    errors = [
        FieldError(name, _TWICE)
        for parts in (request.form, request.files)
        for name, values in parts.lists()
        if len(values) > 1
    ]
    errors += [FieldError(name, _EXTRA) for name in request.files if name != "image"]
    link = request.form.get("image")
    if link is not None and not is_link(link):
        errors.append(FieldError("image", "must be sent as a file, with a file name, or be a link"))
    if link is not None and request.files:
        errors.append(FieldError("image", _TWICE))
    if errors:
        raise InvalidParams(errors)
    fields = {name: _scalar(name, text) for name, text in request.form.items() if name != "image"}
    picture = request.files.get("image")
    if picture is not None:
        return checked(JobForm, fields), picture.read()
    return checked(JobForm, fields), None if link is None else link.strip()


def _scalar(name: str, text: str) -> object:
    """Return the number or boolean that a form's text stands for, or the text to complain of."""
    if name == FORM_JSON:
        return loads(text.encode())
    if name not in FORM_SCALARS:
        return text
    try:
        value = loads(text.encode())
    except MalformedBody:
        return text
    return value if isinstance(value, int | Decimal) else text


def query(model: type[Model]) -> Model:
    """Read the request's query into a model.

    Raises:
        InvalidParams: A parameter is unknown, repeated or wrong.
    """
    repeated = [
        FieldError(name, _TWICE) for name, values in request.args.lists() if len(values) > 1
    ]
    if repeated:
        raise InvalidParams(repeated)
    return checked(model, request.args.to_dict())


def idempotency_key() -> str | None:
    """Return the request's `Idempotency-Key`, if it has one.

    Raises:
        InvalidParams: It is empty, too long, or has other than visible ASCII characters.
    """
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _VISIBLE.fullmatch(key):
        said = f"must be 1 to {_MAX_KEY_CHARS} visible ASCII characters"
        raise InvalidParams([FieldError("Idempotency-Key", said)])
    return key


def loads(data: bytes) -> Any:  # noqa: ANN401  JSON is anything
    """Parse JSON strictly: decimals exactly, and nothing that two parsers could read differently.

    Raises:
        MalformedBody: It is not such JSON; says where.
    """
    try:
        text = data.decode()
        value = json.loads(
            text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_no_twice
        )
        if _HALF_CHARACTER.search(text):
            json.dumps(value, default=str, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not UTF-8 at byte {error.start}.") from None
    except UnicodeEncodeError:
        raise MalformedBody("A string has half of a surrogate pair.") from None
    except json.JSONDecodeError as error:
        raise MalformedBody(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise MalformedBody("The body is nested too deeply.") from None
    except (ValueError, ArithmeticError):
        raise MalformedBody("A number has too many digits.") from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise MalformedBody(f"{name} is not JSON; numbers must be finite.")


def _no_twice(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedBody(f"The name {twice!r} stands twice in one object.")
    return found


def checked(model: type[Model], value: object) -> Model:
    """Validate a value by a model.

    Raises:
        InvalidParams: It does not fit; names every field that is wrong, by its path.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidParams([_field_error(one) for one in error.errors()]) from None


# Where pydantic speaks of Python; what is not here reads well as it is.
_SAID = {
    "missing": "is required",
    "extra_forbidden": _EXTRA,
    "model_type": "must be an object",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "list_type": "must be a list",
    "none_required": "must be null",
    "string_pattern_mismatch": "must not contain control characters",
}


def _field_error(error: Mapping[str, Any]) -> FieldError:
    field = ".".join(str(part) for part in error["loc"]) or "body"
    context = error.get("ctx", {})
    if error["type"] == "literal_error":
        return FieldError(field, f"must be {context['expected']}")
    if error["type"] == "value_error":
        return FieldError(field, str(context["error"]))
    message: str = _SAID.get(error["type"]) or error["msg"]
    return FieldError(field, message[:1].lower() + message[1:])
