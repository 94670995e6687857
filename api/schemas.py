"""The bodies and queries of the API, as pydantic models: what OpenAPI documents is what is checked.

Requests are strict: unknown fields are refused, and "1" is no number. Money goes out as a plain
decimal string and comes in as one, or as a JSON number, which is read exactly. Times are RFC 3339.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from ledger import money
from ledger.errors import InvalidAmount
from tasks.catalog import Pipeline
from tasks.params import MAX_SEED

State = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
MAX_WAIT_S = 60
MAX_PAGE = 100

_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def _as_time(value: object) -> object:
    if isinstance(value, datetime):
        return value
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


def _as_amount(value: object) -> object:
    try:
        return money.amount(value)
    except InvalidAmount as error:
        raise ValueError(error.reason) from None


Time = Annotated[
    datetime, BeforeValidator(_as_time), WithJsonSchema({"type": "string", "format": "date-time"})
]
Number = Annotated[float, BeforeValidator(_as_float)]
Amount = Annotated[
    Decimal,
    BeforeValidator(_as_amount),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^-?\d{1,20}(\.\d{1,18})?$"},
                {"type": "number"},
            ],
            "description": "An exact decimal of at most 18 places.",
            "examples": ["0.000000019073484"],
        }
    ),
]
# What names something in the database: one line without control characters.
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Money = Annotated[
    str, WithJsonSchema({"type": "string", "pattern": r"^-?\d+(\.\d+)?$", "examples": ["0.02"]})
]


class Body(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Query(BaseModel):
    """The query of a request: all text, so numbers are read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class View(BaseModel):
    """An answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- asked ------------------------------------------------------------------------------------


class JobFields(Body):
    """What is asked for. What is left out is the model's default."""

    pipeline: Pipeline
    model_id: Name
    prompt: str = Field(description="What to draw; at most as long as the model allows.")
    negative_prompt: str = Field("", description="What not to draw.")
    width: int | None = Field(
        None, description="Pixels, rounded up to the model's multiple. For text-to-image only."
    )
    height: int | None = Field(None, description="As `width`.")
    num_images_per_prompt: int = Field(1, description="Picture k of n has the seed `seed + k`.")
    num_inference_steps: int | None = None
    guidance_scale: Number | None = None
    image_guidance_scale: Number | None = Field(
        None, description="How close to keep to the input picture; instruct-pix2pix models only."
    )
    strength: Number | None = Field(
        None, description="How far to leave the input picture, above 0 to 1; image-to-image only."
    )
    seed: int | None = Field(
        None, description=f"0 to {MAX_SEED}. Chosen at random, and reported, when left out."
    )
    loras: str = Field("", description='LoRA adapters; none are supported yet, so "" or "{}".')
    safety_check: bool = Field(
        default=True,
        description="Accepted for compatibility. No checker looks at pictures yet, which is why "
        "`nsfw` is null.",
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


class JobRequest(JobFields):
    """A job, as JSON."""

    image: str | None = Field(
        None, description="The input picture of image-to-image, as base64 or a base64 `data:` URL."
    )


class JobForm(JobFields):
    """A job, as a form: the same fields as text, and the picture as a file."""

    image: Annotated[Any, WithJsonSchema({"type": "string", "format": "binary"})] = Field(
        # A factory, because a plain default would be documented, and null is no file.
        default_factory=lambda: None,
        description="The input picture of image-to-image, as a file.",
    )


# The fields of a form whose text is a number or a boolean.
FORM_SCALARS = frozenset(
    {
        *("width", "height", "num_images_per_prompt", "num_inference_steps", "guidance_scale"),
        *("image_guidance_scale", "strength", "seed", "safety_check", "priority"),
    }
)


class WaitQuery(Query):
    """How long a poll may wait."""

    wait: float = Field(
        0.0,
        ge=0,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="Seconds to wait for the job to end; a busy server may answer sooner.",
    )


class JobsQuery(Query):
    """Which jobs to list."""

    limit: int = Field(50, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")
    state: State | None = None
    model_id: Name | None = None
    created_after: Time | None = None
    created_before: Time | None = None


class LimitItem(Body):
    """The most to pay for a model, a pipeline (no model), or everything (neither)."""

    pipeline: Pipeline | None = None
    model_id: Name | None = None
    price_per_unit: Amount | None = Field(description="null accepts any price.")
    pixels_per_unit: int | None = Field(None, description="Pixels that the price buys; 1 if null.")
    currency: str | None = Field(None, description="The settlement currency if null.")


class LimitsRequest(Body):
    """All limits of a gateway: what is not listed is no longer allowed."""

    data: list[LimitItem] = Field(max_length=1000)
    next_cursor: None = Field(None, description="So that an answer can be sent back as it is.")


class NewGateway(Body):
    """A gateway to create."""

    name: str = Field(description="1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit.")


class NewKey(Body):
    """An API key to create."""

    name: Name = Field(description="What it is for; need not be unique.")


class TopUp(Body):
    """Funds to add."""

    amount: Amount
    reference: Name = Field(description="Yours, once for each payment: sent again, it pays once.")


class NewOrchestrator(Body):
    """An orchestrator to create."""

    name: str = Field(description="1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit.")
    fee_rate: Amount = Field(Decimal(0), description="The platform's share of each charge, 0 to 1.")


class NewOffer(Body):
    """A price for a capability, from now on; it supersedes the orchestrator's earlier one."""

    pipeline: Pipeline
    model_id: Name
    price_per_unit: Amount
    pixels_per_unit: int = 1
    currency: str | None = Field(None, description="The settlement currency if null.")


# --- answered ---------------------------------------------------------------------------------


class OutputView(View):
    """One picture."""

    url: str
    seed: int
    nsfw: bool | None = Field(description="null: no safety checker has looked at it.")
    width: int
    height: int
    content_type: str


class JobErrorView(View):
    """Why a job ended without pictures."""

    code: str
    message: str


class HoldView(View):
    """The funds reserved for a job."""

    id: UUID
    state: Literal["open", "captured", "voided", "expired"]
    expires_at: datetime


class Parameters(View):
    """What is run, with every default filled in."""

    pipeline: Pipeline
    model_id: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_images_per_prompt: int
    num_inference_steps: int
    guidance_scale: float
    image_guidance_scale: float
    strength: float
    seed: int


class JobView(View):
    """A job."""

    id: UUID
    state: State
    pipeline: Pipeline
    model_id: str
    progress: float = Field(ge=0, le=1)
    queue_position: int | None = Field(
        description="Queued jobs before this one, counted to 10000. null when not queued, and in "
        "lists."
    )
    units: int = Field(description="Pixels that are charged for: width x height x images.")
    price_per_unit: Money
    pixels_per_unit: int
    amount: Money = Field(description="What is held, and charged when the pictures are there.")
    currency: str
    orchestrator: str
    outputs: list[OutputView]
    error: JobErrorView | None
    hold: HoldView
    attempt: int = Field(description="How many times a worker has started it.")
    priority: int
    parameters: Parameters
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline: datetime
    notice: str | None = Field(description="Something to know, such as that no worker is up.")


class JobsView(View):
    """A page of jobs, newest first."""

    data: list[JobView]
    next_cursor: str | None


class PriceView(View):
    """An exact price: `price_per_unit` for every `pixels_per_unit` pixels."""

    price_per_unit: Money
    pixels_per_unit: int
    currency: str


class QuoteView(View):
    """What a job would cost and who would run it. Nothing is held."""

    pipeline: Pipeline
    model_id: str
    units: int
    price_per_unit: Money
    pixels_per_unit: int
    amount: Money
    currency: str
    orchestrator: str
    limit: PriceView | None = Field(description="The limit that allows it; null: any price.")
    live: bool = Field(description="A worker of the orchestrator is up.")
    warm: bool = Field(description="A worker has the model in memory.")
    parameters: Parameters
    notice: str | None


class OfferPriceView(PriceView):
    """One orchestrator's price for a capability."""

    orchestrator: str
    live: bool
    warm: bool


class Range(View):
    """The least and the most that is accepted."""

    minimum: int
    maximum: int


class BoundsView(View):
    """What a model accepts. Sizes are in pixels."""

    size: Range
    size_multiple: int
    num_images_per_prompt: Range
    num_inference_steps: Range
    prompt_characters: Range


class DefaultsView(View):
    """What a model does when the request does not say."""

    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    image_guidance_scale: float
    strength: float


class ModelView(View):
    """A capability that can be ordered, and what it costs where; the cheapest offer first."""

    pipeline: Pipeline
    model_id: str
    revision: str | None
    live: bool
    warm: bool
    offers: list[OfferPriceView]
    bounds: BoundsView
    defaults: DefaultsView


class ModelsView(View):
    """All capabilities that are offered."""

    data: list[ModelView]
    next_cursor: None


class BalanceView(View):
    """What a gateway can spend, and what is reserved for its open jobs."""

    available: Money
    held: Money
    currency: str


class LimitView(View):
    """One price limit; a null price accepts any."""

    pipeline: str | None
    model_id: str | None
    price_per_unit: Money | None
    pixels_per_unit: int | None
    currency: str | None


class LimitsView(View):
    """A gateway's limits, the most exact first."""

    data: list[LimitView]
    next_cursor: None


class GatewayView(View):
    """A gateway."""

    id: UUID
    name: str
    created_at: datetime
    balance: BalanceView


class GatewaysView(View):
    """All gateways, by name."""

    data: list[GatewayView]
    next_cursor: None


class KeyView(View):
    """An API key, without its secret."""

    id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None


class NewKeyView(KeyView):
    """A new API key. `key` is shown this once."""

    key: str


class KeysView(View):
    """A gateway's API keys, newest first."""

    data: list[KeyView]
    next_cursor: None


class TopUpView(View):
    """Funds that were added, and the balance now."""

    reference: str
    amount: Money
    currency: str
    balance: BalanceView


class OrchestratorView(View):
    """An orchestrator, and what it has earned and was not paid yet."""

    id: UUID
    name: str
    fee_rate: Money
    owed: Money
    currency: str
    created_at: datetime


class OrchestratorsView(View):
    """All orchestrators, by name."""

    data: list[OrchestratorView]
    next_cursor: None


class OfferView(PriceView):
    """An offer that holds now."""

    id: int
    pipeline: str
    model_id: str


class OffersView(View):
    """An orchestrator's offers that hold now, cheapest first."""

    data: list[OfferView]
    next_cursor: None


class HealthView(View):
    """The process answers."""

    status: Literal["ok"]


class ReadyView(View):
    """What the API stands on: "ok", or what is wrong."""

    status: Literal["ready", "unavailable"]
    database: str
    broker: str
    storage: str


class FieldErrorView(View):
    """What is wrong with one field."""

    field: str
    message: str


class ProblemBody(View):
    """An RFC 9457 problem. `code` is stable; the members after it come with some codes only."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FieldErrorView] | None = Field(None, description="Each field that is wrong.")
    limit: PriceView | None = Field(None, description="The limit that stands against it.")
    best_price: PriceView | None = Field(None, description="The best price there is now.")
    orchestrator: str | None = Field(None, description="Whose price that is.")
    needed: Money | None = None
    available: Money | None = None
    missing: Money | None = Field(None, description="What a top-up must add at least.")
    currency: str | None = None
    models: list[str] | None = Field(None, description="The models that there are.")
    job_id: UUID | None = None
    state: State | None = None
    request_id: str | None = Field(None, description="Finds the log line of our own failure.")
