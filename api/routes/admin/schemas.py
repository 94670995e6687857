"""What the admin routes are asked; the fields themselves are those of `api.schemas`."""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field

from api.schemas import PARTY, POSITIVE, Amount, Body, Name, Rate
from tasks.catalog import Pipeline


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
