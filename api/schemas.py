"""What the API is asked, as pydantic models: what OpenAPI documents is what is checked.

Requests are strict: unknown fields are refused, and "1" is no number. Money is a decimal string or
a JSON number, which is read exactly. Times are RFC 3339.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from api.views import State
from ledger import money, names
from ledger.errors import InvalidAmount
from tasks.catalog import Pipeline
from tasks.params import MAX_SEED

MAX_WAIT_S = 60
MAX_PAGE = 100
MAX_LINES = 1000
MAX_CONTEXT_CHARS = 4096

# Above all that any field can be, and small enough to be reckoned with and written in an error.
_MOST = 2**63
_NOT_WHOLE = "must be a whole number, between -2^63 and 2^63"
_Numeric = TypeVar("_Numeric", int, Decimal)

Form = Literal["json", "csv", "html"]

_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,12})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def _as_time(value: object) -> object:
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass  # the 30th of February, or year 1 east of Greenwich
    raise ValueError("must be an RFC 3339 time with an offset, such as 2030-01-31T12:00:00Z")


def _as_float(value: object) -> object:
    if isinstance(value, Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
        # Through text, so that 10**400 becomes infinite and is refused for its size.
        return float(str(value))
    return value


def _as_whole(value: object) -> object:
    if isinstance(value, Decimal):
        # Written out, 1e1000000 is a million digits: seconds of work for ten bytes of a request.
        if _in_range(value) != value.to_integral_value():
            raise ValueError(_NOT_WHOLE)
        return int(value)
    return value


def _in_range(value: _Numeric) -> _Numeric:
    if not -_MOST < value < _MOST:
        raise ValueError(_NOT_WHOLE)
    return value


def _as_amount(value: object) -> object:
    try:
        return money.amount(value)
    except InvalidAmount as error:
        raise ValueError(error.reason) from None


Time = Annotated[
    datetime, BeforeValidator(_as_time), WithJsonSchema({"type": "string", "format": "date-time"})
]
Number = Annotated[float, BeforeValidator(_as_float)]
# Of bodies whose clients write 16 as 16.0 or "16", too.
Whole = Annotated[int, BeforeValidator(_as_whole), AfterValidator(_in_range)]
_ZERO_OR_MORE = {
    "anyOf": [
        {"type": "string", "pattern": r"^\d{1,20}(\.\d{1,18})?$"},
        {"type": "number", "minimum": 0},
    ],
    "description": "An exact decimal of at most 18 places.",
}
_ABOVE_ZERO = {
    "anyOf": [
        {"type": "string", "pattern": r"^(?=.*[1-9])\d{1,20}(\.\d{1,18})?$"},
        {"type": "number", "exclusiveMinimum": 0},
    ],
    "description": "An exact decimal above zero, of at most 18 places.",
    "examples": ["0.000000019073484"],
}
# Which amounts a field takes is the ledger's word; the schema repeats it for those who read it.
Amount = Annotated[Decimal, BeforeValidator(_as_amount), WithJsonSchema(_ABOVE_ZERO)]
Rate = Annotated[Decimal, BeforeValidator(_as_amount), WithJsonSchema(_ZERO_OR_MORE)]
# What names something in the database: one line without control characters.
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=names.MAX_NAME, pattern=r"^[^\x00-\x1f\x7f]+$"),
]


class Body(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Query(BaseModel):
    """The query of a request: all text, so numbers are read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# Bounds for the schema alone: the catalog and the ledger check them, and can say more.
POSITIVE: dict[str, Any] = {"minimum": 1}
_GUIDANCE: dict[str, Any] = {"minimum": 0, "maximum": 100}
_STRENGTH: dict[str, Any] = {"exclusiveMinimum": 0, "maximum": 1}
_SEED: dict[str, Any] = {"minimum": 0, "maximum": MAX_SEED}
PARTY: dict[str, Any] = {"pattern": r"^[a-z0-9][a-z0-9-]{0,62}$"}


def _as_context(value: object) -> object:
    """Return JSON as it can be kept; its decimals are read exactly, and are floats elsewhere."""
    written = json.dumps(value, default=_written, ensure_ascii=False)
    if len(written) > MAX_CONTEXT_CHARS:
        raise ValueError(f"must have at most {MAX_CONTEXT_CHARS} characters as JSON")
    # A backslash is written as two: what is left of them without pairs begins an escape.
    if "\\u0000" in written.replace("\\\\", ""):
        raise ValueError("must not contain a NUL character")
    return json.loads(written)


def _written(value: object) -> object:
    number = float(str(value))
    if not math.isfinite(number):
        raise ValueError("has a number that is too large")
    return number


Context = Annotated[Any, BeforeValidator(_as_context), WithJsonSchema({"description": "Any JSON."})]


class JobFields(Body):
    """What is asked for. What is left out is the model's default."""

    pipeline: Pipeline
    model_id: Name
    prompt: str = Field(
        "",
        description="What to draw; at most as long as the model allows. Only upscale does without.",
    )
    negative_prompt: str = Field("", description="What not to draw.")
    width: int | None = Field(
        None,
        description="Pixels, rounded up to the model's multiple. For text-to-image, and for "
        "upscale, where it is at most as many times the picture's as the model can do.",
        json_schema_extra=POSITIVE,
    )
    height: int | None = Field(None, description="As `width`.", json_schema_extra=POSITIVE)
    num_images_per_prompt: int = Field(
        1, description="Picture k of n has the seed `seed + k`.", json_schema_extra=POSITIVE
    )
    num_inference_steps: int | None = Field(None, json_schema_extra=POSITIVE)
    guidance_scale: Number | None = Field(None, json_schema_extra=_GUIDANCE)
    image_guidance_scale: Number | None = Field(
        None,
        description="How close to keep to the input picture; instruct-pix2pix models only.",
        json_schema_extra=_GUIDANCE,
    )
    strength: Number | None = Field(
        None,
        description="How far to leave the input picture; image-to-image only.",
        json_schema_extra=_STRENGTH,
    )
    seed: int | None = Field(
        None,
        description="Chosen at random, and reported, when left out.",
        json_schema_extra=_SEED,
    )
    loras: str = Field(
        "",
        description='LoRA adapters, as the text of a JSON object: `{"owner/style": 0.8}`. Up to '
        "four, with weights from 0 to 4.",
    )
    safety_check: bool = Field(
        default=True,
        description="Let the installation's safety checker, if it has one, look at the pictures. "
        "`nsfw` is its verdict, and null where nobody looked.",
    )
    sampler: Name | None = Field(
        None,
        description="How noise is taken away, by its name in the Stable Diffusion WebUI, such as "
        "`DPM++ 2M`; the model's own way when left out.",
    )
    schedule: Name | None = Field(
        None, description="How that is spaced, such as `Karras`; only with a sampler."
    )
    max_price: Amount | None = Field(
        None,
        description="The most to pay per pixel, in the settlement currency; only ever tightens "
        "the gateway's own limit.",
    )
    deadline: Time | None = Field(
        None,
        description="When the job expires if it has not ended, and its funds come back. In the "
        "future, and no further than the installation allows.",
    )
    priority: int = Field(0, ge=0, le=9, description="Higher goes first within its queue.")
    context: Context = Field(
        None,
        description="Anything of yours, as JSON of at most "
        f"{MAX_CONTEXT_CHARS} characters: the job and its webhooks carry it, and nobody reads it. "
        "Its names may come back in another order, and its decimals as doubles: 1E2 as 100.0.",
    )


class JobRequest(JobFields):
    """A job, as JSON."""

    image: str | None = Field(
        None,
        description="The input picture of image-to-image and upscale, as base64, a base64 `data:` "
        "URL, or an http, https or s3 link.",
    )


def _without_null(schema: dict[str, Any]) -> None:
    """Take the nulls out of a schema: a form cannot say null, it leaves out."""
    for facts in schema["properties"].values():
        choices = [one for one in facts.pop("anyOf", ()) if one != {"type": "null"}]
        only = choices[0] if len(choices) == 1 else {"anyOf": choices} if choices else {}
        for name, fact in only.items():
            facts.setdefault(name, fact)
        if facts.get("default", ...) is None:
            del facts["default"]


class JobForm(JobFields):
    """A job, as a form: the same fields as text, and the picture as a file."""

    model_config = ConfigDict(json_schema_extra=_without_null)

    image: Annotated[Any, WithJsonSchema({"type": "string", "format": "binary"})] = Field(
        # A factory, because a plain default would be documented, and null is no file.
        default_factory=lambda: None,
        description="The input picture of image-to-image and upscale, as a file, or as the text of "
        "a link.",
    )


# The fields of a form whose text is a number or a boolean.
FORM_SCALARS = frozenset(
    {
        *("width", "height", "num_images_per_prompt", "num_inference_steps", "guidance_scale"),
        *("image_guidance_scale", "strength", "seed", "safety_check", "priority"),
    }
)
# The field of a form whose text is any JSON.
FORM_JSON = "context"


class WaitQuery(Query):
    """How long a poll may wait."""

    wait: float = Field(
        0.0,
        ge=0,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="Seconds to wait for the job to end; a busy server may answer sooner.",
    )


class PageQuery(Query):
    """Which page of a list."""

    limit: int = Field(50, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")


class FormQuery(Query):
    """In which form to answer."""

    format: Form | None = Field(
        None, description="Goes before the `Accept` header; JSON where neither says."
    )


class StatementQuery(PageQuery, FormQuery):
    """Which page of a statement, and in which form."""

    limit: int = Field(50, ge=1, le=MAX_LINES)


class JobsQuery(PageQuery):
    """Which jobs to list."""

    state: State | None = None
    model_id: Name | None = None
    created_after: Time | None = None
    created_before: Time | None = None


class LimitItem(Body):
    """The most to pay for a model, a pipeline (no model), or everything (neither)."""

    # Any name: a limit may wait for what nobody offers yet, such as a file of Livepeer's sets.
    pipeline: Name | None = None
    model_id: Name | None = None
    price_per_unit: Amount | None = Field(description="null accepts any price.")
    pixels_per_unit: int | None = Field(
        None, description="Pixels that the price buys; 1 if null.", json_schema_extra=POSITIVE
    )
    currency: str | None = Field(None, description="The settlement currency if null.")


class LimitsRequest(Body):
    """All limits of a gateway: what is not listed is no longer allowed."""

    data: list[LimitItem] = Field(max_length=1000)
    next_cursor: None = Field(None, description="So that an answer can be sent back as it is.")
    warnings: list[Any] = Field([], description="The same: what was warned of before.")
