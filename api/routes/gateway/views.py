"""What a gateway is told of its money: budgets, statement, invoices."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from api.views import Money, PriceView, View


class BudgetView(View):
    """A spending budget, and what is used of it in the period that is now."""

    period: Literal["day", "month"]
    api_key_id: str | None = Field(description="The API key it is for; null: all spending.")
    amount: Money
    used: Money
    remaining: Money
    currency: str
    starts: datetime = Field(description="When the period began. Periods are UTC's.")


class BudgetsView(View):
    """A gateway's budgets, those for all its spending first."""

    data: list[BudgetView]
    next_cursor: None


class MovementView(View):
    """One movement of a gateway's available balance."""

    posted_at: datetime
    kind: str = Field(description="`top_up`, `hold`, `capture`, `void`, `expire` or `refund`.")
    reference: str | None = Field(description="The job's id, or that of the top-up or refund.")
    amount: Money = Field(description="Above zero came in, below zero went out.")
    currency: str


class StatementView(View):
    """A page of a gateway's statement, newest first."""

    data: list[MovementView]
    next_cursor: str | None


class InvoiceLineView(PriceView):
    """What was charged at one price for one capability, or refunded of that."""

    kind: Literal["charge", "refund"]
    pipeline: str
    model_id: str
    items: int = Field(description="How many charges or refunds.")
    units: int = Field(description="Pixels that were delivered; none for refunds.")
    amount: Money = Field(description="In the invoice's currency; below zero for refunds.")


class InvoiceView(View):
    """What a gateway owes for a month of UTC."""

    gateway: str
    month: str = Field(examples=["2026-11"])
    closed: bool = Field(description="The month is over, and the invoice will not change.")
    currency: str
    lines: list[InvoiceLineView]
    charged: Money
    refunded: Money
    total: Money


class InvoiceMonthView(View):
    """A month that has an invoice, and where."""

    month: str = Field(examples=["2026-11"])
    url: str


class InvoicesView(View):
    """The months that have lines, newest first."""

    data: list[InvoiceMonthView]
    next_cursor: None
