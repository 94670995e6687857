"""What a gateway, or one of its API keys, may spend in a day and in a month of UTC.

Open holds count in full, captures with what was charged; what is given back counts no more, and a
job counts in the period in which its funds were held. The database keeps count and refuses what is
too much (migration 0006), so that jobs submitted at once cannot pass together. An API key is only a
name here: who may use it is for the floors above.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ledger import names
from ledger.errors import InvalidAmount, InvalidName, OverBudget, UnknownGateway
from ledger.money import amount as exact_amount
from ledger.tables import Budget, Gateway

PERIODS = ("day", "month")

_STATUS = text("""
SELECT v.period, v.api_key_id, v.amount, v.used, v.remaining, v.currency, v.starts
  FROM billing_budgets v JOIN gateways g ON g.name = v.gateway
 WHERE g.id = :gateway_id
 ORDER BY v.api_key_id NULLS FIRST, v.period
""")

_LOCK = text("""
SELECT 1 FROM accounts WHERE gateway_id = :gateway_id AND kind = 'available' FOR NO KEY UPDATE
""")


@dataclass(frozen=True)
class Status:
    """A budget, and what is used of it in the period that `starts` then.

    No API key: it is for all that the gateway spends.
    """

    period: str
    api_key_id: str | None
    amount: Decimal
    used: Decimal
    remaining: Decimal
    currency: str
    starts: datetime


def set_budget(
    session: Session,
    gateway_id: UUID,
    period: str,
    amount: object,
    api_key_id: str | None = None,
) -> None:
    """Set a budget, in place of an earlier one. It counts what the period has seen so far.

    A budget below what is used stops spending until the period is over; zero stops it altogether.

    Raises:
        InvalidName: The period is neither `day` nor `month`, or the key cannot be one.
        InvalidAmount: The amount is below zero, or not exact to 18 decimals.
        UnknownGateway: There is no such gateway.
    """
    _check(period, api_key_id)
    exact = exact_amount(amount)
    if exact < 0:
        raise InvalidAmount("amount", "must be zero or more")
    known = select(Gateway.id).where(Gateway.id == gateway_id)
    if session.scalar(known) is None:
        raise UnknownGateway(gateway_id)
    session.execute(
        insert(Budget)
        .values(gateway_id=gateway_id, api_key_id=api_key_id, period=period, amount=exact)
        .on_conflict_do_update(
            constraint="uq_budgets_gateway_id_api_key_id_period", set_={"amount": exact}
        )
    )


def _check(period: str, api_key_id: str | None) -> None:
    if period not in PERIODS:
        raise InvalidName(f"period: must be one of {', '.join(PERIODS)}.")
    if api_key_id is not None:
        names.checked("api_key_id", api_key_id)


def remove_budget(
    session: Session, gateway_id: UUID, period: str, api_key_id: str | None = None
) -> bool:
    """Take a budget away; tells whether there was one.

    Raises:
        InvalidName: The period is neither `day` nor `month`, or the key cannot be one.
    """
    _check(period, api_key_id)
    # Who is holding funds counts them in budgets: they are there until that is done, or not at all.
    session.execute(_LOCK, {"gateway_id": gateway_id})
    gone = session.scalars(
        delete(Budget)
        .where(
            Budget.gateway_id == gateway_id,
            Budget.period == period,
            Budget.api_key_id.is_not_distinct_from(api_key_id),
        )
        .returning(Budget.id)
    )
    return gone.one_or_none() is not None


def list_budgets(session: Session, gateway_id: UUID) -> list[Status]:
    """Return a gateway's budgets, its own before those of its keys, with what is used of them."""
    return [
        Status(
            row.period,
            row.api_key_id,
            row.amount,
            row.used,
            row.remaining,
            row.currency,
            row.starts,
        )
        for row in session.execute(_STATUS, {"gateway_id": gateway_id})
    ]


def refusal(error: IntegrityError, currency: str) -> OverBudget | None:
    """Return what the database said, if it was that a budget does not cover an amount."""
    diagnosis = getattr(error.orig, "diag", None)
    if getattr(diagnosis, "constraint_name", None) != "budgets_kept":
        return None
    facts = json.loads(getattr(diagnosis, "message_detail", None) or "{}")
    return OverBudget(
        facts["period"],
        facts["api_key_id"],
        Decimal(facts["budget"]),
        Decimal(facts["used"]),
        Decimal(facts["needed"]),
        currency,
    )
