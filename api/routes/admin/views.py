"""What the admin routes answer."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from api.views import BalanceView, Money, PriceView, View
from tasks.policies import Safety


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
    """A key, without its secret."""

    id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None


class NewKeyView(KeyView):
    """A new key. `key` is shown this once."""

    key: str


class KeysView(View):
    """The keys of one owner, newest first."""

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
    """An offer. What it promises is the orchestrator's word; `live` is what we see."""

    id: int
    pipeline: str
    model_id: str
    warm: bool = Field(description="The orchestrator keeps the model in memory.")
    capacity: int = Field(description="How many workers serve it at once.")
    valid_from: datetime = Field(description="In the future, it is planned, and does not hold yet.")
    live: bool = Field(description="A worker that serves it is up.")


class OffersView(View):
    """An orchestrator's offers: those that hold, then those that are planned."""

    data: list[OfferView]
    next_cursor: None


class RateView(View):
    """An exchange rate that somebody stated."""

    id: int
    base_currency: str
    quote_currency: str
    rate: Money
    source: str
    observed_at: datetime
    created_at: datetime
    age_s: float
    too_old: bool = Field(description="Older than `PIXELTOLL_MAX_RATE_AGE_S`: not used.")
    newest: bool = Field(
        description="The last word on what its currency is worth in the settlement currency."
    )


class RatesView(View):
    """A page of exchange rates, those that were recorded last first."""

    data: list[RateView]
    next_cursor: str | None


class OwedView(View):
    """What an orchestrator is owed now."""

    orchestrator: str
    amount: Money
    currency: str


class OwedsView(View):
    """Who is owed something, by name."""

    data: list[OwedView]
    next_cursor: None


class PayoutLineView(View):
    """One orchestrator's part of a payout."""

    orchestrator: str
    amount: Money
    currency: str
    state: Literal["created", "paid", "reversed"]
    created_at: datetime
    paid_at: datetime | None
    reversed_at: datetime | None


class PayoutView(View):
    """A payout: a line for each orchestrator, by name."""

    reference: str
    currency: str
    created_at: datetime
    total: Money = Field(description="What is paid or to be paid: all but the reversed lines.")
    lines: list[PayoutLineView]


class PayoutsView(View):
    """A page of payouts, newest first."""

    data: list[PayoutView]
    next_cursor: str | None


class RefundView(View):
    """One refund of a charge, split as the charge was."""

    reference: str
    amount: Money
    platform_fee: Money
    orchestrator_payment: Money
    created_at: datetime


class RefundsView(View):
    """What a job was charged, and all that was given back of it, the oldest first."""

    job_id: UUID
    charged: Money
    refunded: Money
    currency: str
    data: list[RefundView]
    next_cursor: None


class RefusalView(View):
    """A job that was not sold, and why."""

    id: int
    refused_at: datetime
    gateway: str
    api_key_id: str | None
    reason: Literal["no_limit", "price", "budget", "funds"]
    pipeline: str
    model_id: str
    units: int
    needed: Money | None
    available: Money | None = Field(description="What was left of the budget or the balance.")
    currency: str | None
    best_price: PriceView | None
    limit: PriceView | None
    message: str = Field(description="What the client was told.")


class RefusalsView(View):
    """A page of refusals, newest first."""

    data: list[RefusalView]
    next_cursor: str | None


class PolicyView(View):
    """What becomes of pictures that the safety checker flags."""

    safety: Safety = Field(
        description="`flag`: delivered, and `nsfw` says so. `blur`: delivered beyond recognition. "
        "`withhold`: neither delivered nor charged."
    )
