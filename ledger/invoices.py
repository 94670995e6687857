"""What a gateway owes for a month of UTC: the lines of `billing_invoice_lines`, and their sums.

Invoices are read, never stored: a month that is over does not change, because charges and refunds
are dated by the database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from ledger.errors import InvalidMonth, UnknownGateway
from ledger.money import EXACT
from ledger.tables import Account, Gateway

_MONTH = re.compile(r"[0-9]{4}-[0-9]{2}")
_FIRST_YEAR = 1970  # no books are older

# From one month to the one before, each by one look at an index: it reads as many rows as there are
# months. Refunds are indexed by day.
_MONTHS = text("""
WITH RECURSIVE charged (month) AS (
    SELECT (SELECT month FROM charges WHERE gateway_id = :gateway_id
             ORDER BY gateway_id DESC, month DESC LIMIT 1)
     UNION ALL
    SELECT (SELECT c.month FROM charges c
             WHERE c.gateway_id = :gateway_id AND c.month < charged.month
             ORDER BY c.gateway_id DESC, c.month DESC LIMIT 1)
      FROM charged WHERE charged.month IS NOT NULL
), refunded (month) AS (
    SELECT (SELECT month FROM refunds WHERE gateway_id = :gateway_id
             ORDER BY gateway_id DESC, day DESC LIMIT 1)
     UNION ALL
    SELECT (SELECT r.month FROM refunds r
             WHERE r.gateway_id = :gateway_id AND r.day < refunded.month
             ORDER BY r.gateway_id DESC, r.day DESC LIMIT 1)
      FROM refunded WHERE refunded.month IS NOT NULL
)
SELECT month FROM charged WHERE month IS NOT NULL
 UNION SELECT month FROM refunded WHERE month IS NOT NULL
 ORDER BY month DESC
""")

_LINES = text("""
SELECT kind, pipeline, model_id, price_per_unit, pixels_per_unit, price_currency, items, units,
       amount
  FROM billing_invoice_lines
 WHERE gateway = :gateway AND month = :month
 ORDER BY kind, pipeline, model_id, price_currency, price_per_unit / pixels_per_unit,
          price_per_unit
""")

_THIS_MONTH = text("SELECT CAST(date_trunc('month', now() AT TIME ZONE 'UTC') AS date)")


@dataclass(frozen=True)
class Line:
    """What was charged at one price for one capability, or, below zero, refunded of that."""

    kind: str
    pipeline: str
    model_id: str
    price_per_unit: Decimal
    pixels_per_unit: int
    price_currency: str
    items: int
    units: int
    amount: Decimal


@dataclass(frozen=True)
class Invoice:
    """A gateway's month. `closed`: it is over, and no line can be added."""

    gateway: str
    month: date
    currency: str
    closed: bool
    lines: tuple[Line, ...]

    @property
    def charged(self) -> Decimal:
        """The sum of the charges."""
        return self._sum("charge")

    @property
    def refunded(self) -> Decimal:
        """The sum of the refunds, as an amount above zero."""
        return self._sum("refund").copy_abs()

    @property
    def total(self) -> Decimal:
        """What is owed: the sum of all lines."""
        return EXACT.subtract(self.charged, self.refunded)

    def _sum(self, kind: str) -> Decimal:
        total = Decimal(0)
        for line in self.lines:
            if line.kind == kind:
                total = EXACT.add(total, line.amount)
        return total


def months(session: Session, gateway_id: UUID) -> list[date]:
    """Return the first days of the months that have lines, newest first."""
    return list(session.scalars(_MONTHS, {"gateway_id": gateway_id}))


def find(session: Session, gateway_id: UUID, month: str) -> Invoice:
    """Return a gateway's invoice of a month such as `2026-11`; one without lines is of nothing.

    Raises:
        InvalidMonth: It is no month, before all books, or in the future.
        UnknownGateway: There is no such gateway.
    """
    first = first_day(month)
    this_month = session.scalars(_THIS_MONTH).one()
    if first > this_month:
        raise InvalidMonth(month, "is in the future")
    gateway = session.execute(
        select(Gateway.name, Account.currency)
        .join(Account, Account.gateway_id == Gateway.id)
        .where(Gateway.id == gateway_id, Account.kind == "available")
    ).one_or_none()
    if gateway is None:
        raise UnknownGateway(gateway_id)
    rows = session.execute(_LINES, {"gateway": gateway.name, "month": first}).mappings()
    return Invoice(
        gateway.name,
        first,
        gateway.currency,
        first < this_month,
        tuple(Line(**row) for row in rows),
    )


def first_day(month: str) -> date:
    """Read a month such as `2026-11`.

    Raises:
        InvalidMonth: It is none, or before all books.
    """
    try:
        first = date.fromisoformat(f"{month}-01") if _MONTH.fullmatch(month) else None
    except ValueError:
        first = None  # the month 13
    if first is None:
        raise InvalidMonth(month, "is not a month such as 2026-11")
    if first.year < _FIRST_YEAR:
        raise InvalidMonth(month, f"is before {_FIRST_YEAR}")
    return first
