"""What the admin routes are asked; the fields themselves are those of `api.schemas`."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

from pydantic import ConfigDict, Field

from api.schemas import PARTY, POSITIVE, Amount, Body, Name, PageQuery, Query, Rate, Time
from tasks.catalog import Pipeline
from tasks.policies import Safety

_CURRENCY: dict[str, Any] = {"enum": ["USD", "ETH"]}


class NewGateway(Body):
    """A gateway to create."""

    name: str = Field(
        description="1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit.",
        json_schema_extra=PARTY,
    )


class NewKey(Body):
    """An API key to create."""

    name: Name = Field(description="What it is for; need not be unique.")


class TopUp(Body):
    """Funds to add."""

    amount: Amount
    reference: Name = Field(description="Yours, once for each payment: sent again, it pays once.")


class NewOrchestrator(Body):
    """An orchestrator to create."""

    name: str = Field(
        description="1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit.",
        json_schema_extra=PARTY,
    )
    fee_rate: Rate = Field(Decimal(0), description="The platform's share of each charge, 0 to 1.")


class NewOffer(Body):
    """A price for a capability, from now on; it supersedes the orchestrator's earlier one."""

    pipeline: Pipeline
    model_id: Name
    price_per_unit: Amount
    pixels_per_unit: int = Field(1, json_schema_extra=POSITIVE)
    currency: str | None = Field(None, description="The settlement currency if null.")
    warm: bool = Field(default=False, description="The model is kept in memory.")
    capacity: int = Field(
        1, description="How many workers serve it at once.", json_schema_extra=POSITIVE
    )
    valid_from: Time | None = Field(None, description="From when on it holds; now if null.")


class OfferEdit(Body):
    """What nobody can do to an offer. Any fields are taken, and each is refused."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, Any]


class NewRate(Body):
    """What one of the base currency is worth in the quote currency."""

    base_currency: str = Field(json_schema_extra=_CURRENCY)
    quote_currency: str = Field(json_schema_extra=_CURRENCY)
    rate: Amount
    source: Name = Field(description="Who says so.")
    observed_at: Time | None = Field(None, description="As of when; now if null.")


class BudgetAmount(Body):
    """What may be spent in each period."""

    amount: Rate = Field(description="Zero stops all spending.")


class NewPayout(Body):
    """What is owed, to be paid: all of it, or that of some orchestrators."""

    reference: Name = Field(description="Yours, once for each payout: sent again, it pays once.")
    currency: str | None = Field(None, description="The settlement currency if null.")
    orchestrators: list[Name] | None = Field(
        None, min_length=1, max_length=1000, description="Ids or names; all who are owed if null."
    )


class Reversal(Body):
    """What of a payout could not be paid, or came back."""

    orchestrator: Name | None = Field(None, description="Whose line; all lines if null.")


class NewRefund(Body):
    """A part of a charge, or all of it, to give back."""

    amount: Amount
    reference: Name = Field(description="Yours, once for each refund: sent again, it pays once.")


class OwedQuery(Query):
    """What to narrow what is owed by."""

    currency: str | None = Field(None, description="Any currency if it is left out.")


class RefusalsQuery(PageQuery):
    """Which refusals to list."""

    gateway: Name | None = Field(None, description="A gateway's name.")
    reason: Literal["no_limit", "price", "budget", "funds"] | None = None
    model_id: Name | None = None


class SheetQuery(Query):
    """In which form to answer."""

    format: Literal["json", "csv"] | None = Field(
        None, description="Goes before the `Accept` header; JSON where neither says."
    )


class PolicyRequest(Body):
    """A gateway's policy."""

    safety: Safety
