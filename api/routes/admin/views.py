"""What the admin routes answer."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from api.views import BalanceView, Money, PriceView, View


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
