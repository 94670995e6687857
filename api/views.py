"""What the API answers, as pydantic models. Money is a plain decimal string; times are in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from tasks import availability
from tasks.catalog import Pipeline
from tasks.finer import Between, Format, Start
from tasks.waiting import MAX_QUEUE_POSITION

State = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
Money = Annotated[
    str, WithJsonSchema({"type": "string", "pattern": r"^-?\d+(\.\d+)?$", "examples": ["0.02"]})
]


class View(BaseModel):
    """An answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OutputView(View):
    """One picture."""

    url: str
    seed: int
    nsfw: bool | None = Field(description="null: no safety checker has looked at it.")
    width: int
    height: int
    content_type: str


class JobErrorView(View):
    """Why a job ended without pictures; `partial_result`: without some of them."""

    code: str
    message: str


class HoldView(View):
    """The funds reserved for a job."""

    id: UUID
    state: Literal["open", "captured", "voided", "expired"]
    expires_at: datetime


class FirstPassView(View):
    """A smaller picture that was drawn first, and drawn over."""

    width: int
    height: int
    steps: int = Field(description="Steps of the second pass.")
    between: Between


class FinerView(View):
    """What was asked for beyond these, which some foreign APIs can."""

    first_pass: FirstPassView | None
    subseed: int
    subseed_strength: float
    start: Start = Field(description="What image-to-image started from.")
    format: Format


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
    loras: dict[str, float] = Field({}, description="Weights by adapter.")
    safety_check: bool = True
    sampler: str = Field("", description="Empty where the model's own is run.")
    schedule: str = Field("", description="The same.")
    masked: bool = Field(
        default=False, description="Only a part of the input picture was drawn: what a mask shows."
    )
    finer: FinerView | None = Field(None, description="null where nothing more was asked for.")


class JobView(View):
    """A job."""

    id: UUID
    state: State
    pipeline: Pipeline
    model_id: str
    progress: float = Field(ge=0, le=1)
    phase: Literal["loading", "drawing"] | None = Field(
        description="What a running job's worker is at: bringing the model into memory, or drawing."
    )
    queue_position: int | None = Field(
        description="Queued jobs before this one, counted to "
        f"{MAX_QUEUE_POSITION}. null when not queued, and in lists."
    )
    units: int = Field(description="Pixels that were asked for: width x height x images.")
    price_per_unit: Money
    pixels_per_unit: int
    amount: Money = Field(description="What is held, and charged when all pictures are there.")
    charged: Money | None = Field(
        description="What was charged: for the pictures that there are. null before."
    )
    currency: str
    orchestrator: str
    outputs: list[OutputView]
    error: JobErrorView | None
    hold: HoldView
    attempt: int = Field(description="How many times a worker has started it.")
    priority: int
    context: Any = Field(None, description="What the job was submitted with.")
    parameters: Parameters
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline: datetime
    notice: str | None = Field(description="Something to know, such as that no worker is up.")


class MessageView(View):
    """What a webhook is told."""

    type: str = Field(description="What happened, such as `job.succeeded`.")
    timestamp: datetime = Field(description="When it happened.")
    data: JobView


class CompletionView(View):
    """What a webhook is told of the end of a task of the AWS task API."""

    runtime: str = Field(description="As the task named it; `legacy` for `/v1alpha1`.")
    id: str = Field(description="The task's id.")
    result: bool = Field(description="Whether there are pictures.")
    status: Literal["completed", "failed"]
    image_url: list[str] = Field(description="Where the pictures are, as s3:// addresses.")
    output_url: str = Field(description="Where the manifest is, which says how it went.")
    context: Any = Field(None, description="What the task was submitted with.")
    job_id: UUID
    state: State
    error: JobErrorView | None = Field(description="Why pictures are missing, if some are.")


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
    """A capability that can be ordered, and what it costs where, by currency and price."""

    pipeline: Pipeline
    model_id: str
    aliases: list[str] = Field(description="Other names that requests may use.")
    revision: str | None
    state: availability.State = Field(
        description="`warm`: in a worker's memory. `on_demand`: a worker loads it when it is asked "
        "for. `unavailable`: jobs would wait, or fail; `reason` says why."
    )
    reason: str | None
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


class LimitWarningView(View):
    """A limit that was set for what nobody offered then."""

    pipeline: str
    model_id: str | None
    message: str
    created_at: datetime


class LimitWarningsView(View):
    """A page of warnings, newest first."""

    data: list[LimitWarningView]
    next_cursor: str | None


class LimitsSetView(LimitsView):
    """A gateway's limits as they were set just now."""

    warnings: list[LimitWarningView] = Field(
        description="The limits for what nobody offers. They hold as any other."
    )


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
    period: Literal["day", "month"] | None = Field(None, description="What the budget is for.")
    api_key_id: str | None = Field(None, description="The API key that the budget is for.")
    budget: Money | None = Field(None, description="What may be spent in the period.")
    used: Money | None = Field(None, description="What is used of the budget.")
    models: list[str] | None = Field(None, description="The models that there are.")
    job_id: UUID | None = None
    state: State | None = None
    request_id: str | None = Field(None, description="Finds the log line of our own failure.")
