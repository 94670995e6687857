"""Gateways, orchestrators and the accounts they own: opening them, topping up, reading balances.

Accounts per gateway: `available` and `held`; per orchestrator: `payable`; for the platform:
`revenue` and `funding`. An owner's accounts are in one currency, the installation's. Postings are
written by `ledger.journal`, `ledger.holds` and `ledger.refunds`, not here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger import journal
from ledger.errors import (
    InvalidAmount,
    InvalidName,
    NameTaken,
    UnknownGateway,
    UnknownOrchestrator,
)
from ledger.money import EXACT, known_currency
from ledger.money import amount as exact_amount
from ledger.tables import Account, Entry, Gateway, Orchestrator

_FEE_RATE_STEP = Decimal("0.000001")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Balance:
    """What a gateway can spend, and what is reserved for its open jobs."""

    available: Decimal
    held: Decimal
    currency: str


def create_gateway(session: Session, name: str, currency: str) -> Gateway:
    """Open a gateway with its two accounts.

    Raises:
        InvalidName: The name is not 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit.
        InvalidAmount: The currency is unknown.
        NameTaken: A gateway has the name.
    """
    known_currency(currency)
    row = session.scalars(
        insert(Gateway)
        .values(name=_checked(name))
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(Gateway)
    ).one_or_none()
    if row is None:
        raise NameTaken("a gateway", name)
    session.add(Account(kind="available", gateway_id=row.id, currency=currency, balance=Decimal(0)))
    session.add(Account(kind="held", gateway_id=row.id, currency=currency))
    session.flush()
    return row


def create_orchestrator(
    session: Session, name: str, currency: str, fee_rate: Decimal = Decimal(0)
) -> Orchestrator:
    """Open an orchestrator with its payable account; `fee_rate` is the platform's share, 0 to 1.

    Raises:
        InvalidName: The name is not 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit.
        InvalidAmount: The fee rate is not from 0 to 1 with at most 6 decimals, or the currency is
            unknown.
        NameTaken: An orchestrator has the name.
    """
    known_currency(currency)
    rate = exact_amount(fee_rate, field="fee_rate")
    if not 0 <= rate <= 1 or EXACT.remainder(rate, _FEE_RATE_STEP):
        raise InvalidAmount("fee_rate", "must be from 0 to 1, with at most 6 decimals")
    row = session.scalars(
        insert(Orchestrator)
        .values(name=_checked(name), fee_rate=rate)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(Orchestrator)
    ).one_or_none()
    if row is None:
        raise NameTaken("an orchestrator", name)
    session.add(Account(kind="payable", orchestrator_id=row.id, currency=currency))
    session.flush()
    platform_account(session, "revenue", currency)  # every charge goes to both
    return row


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"{name!r} cannot be a name: use 1 to 63 of a-z, 0-9 and '-', "
            "beginning with a letter or digit."
        )
    return name


def _can_be(name_or_id: UUID | str) -> bool:
    """Tell whether somebody can have the name: PostgreSQL refuses to compare some texts at all."""
    return isinstance(name_or_id, UUID) or _NAME.fullmatch(name_or_id) is not None


def find_gateway(session: Session, name_or_id: UUID | str) -> Gateway:
    """Return a gateway by id or by name.

    Raises:
        UnknownGateway: There is none.
    """
    by = Gateway.id if isinstance(name_or_id, UUID) else Gateway.name
    row = session.scalar(select(Gateway).where(by == name_or_id)) if _can_be(name_or_id) else None
    if row is None:
        raise UnknownGateway(name_or_id)
    return row


def find_orchestrator(session: Session, name_or_id: UUID | str) -> Orchestrator:
    """Return an orchestrator by id or by name.

    Raises:
        UnknownOrchestrator: There is none.
    """
    by = Orchestrator.id if isinstance(name_or_id, UUID) else Orchestrator.name
    found = select(Orchestrator).where(by == name_or_id)
    row = session.scalar(found) if _can_be(name_or_id) else None
    if row is None:
        raise UnknownOrchestrator(name_or_id)
    return row


def platform_account(session: Session, kind: str, currency: str) -> int:
    """Return the id of a platform account, opening it when it is needed for the first time."""
    key = (Account.kind == kind, Account.gateway_id.is_(None), Account.orchestrator_id.is_(None))
    query = select(Account.id).where(*key, Account.currency == currency)
    found = session.scalar(query)
    if found is not None:
        return found
    session.execute(insert(Account).values(kind=kind, currency=currency).on_conflict_do_nothing())
    return session.scalars(query).one()


def top_up(session: Session, gateway_id: UUID, amount: Decimal, reference: str) -> Entry:
    """Add funds to a gateway; the same reference again returns the entry it made before.

    Raises:
        InvalidAmount: The amount is not above zero, not exact to 18 decimals, or more than the
            account can take.
        InvalidName: The reference is empty, too long or has unprintable characters.
        UnknownGateway: There is no such gateway.
        ReferenceReused: The reference was used with another amount or gateway.
    """
    exact = exact_amount(amount)
    if exact <= 0:
        raise InvalidAmount("amount", "must be greater than zero")
    account = session.execute(
        select(Account.id, Account.currency).where(
            Account.gateway_id == gateway_id, Account.kind == "available"
        )
    ).one_or_none()
    if account is None:
        raise UnknownGateway(gateway_id)
    funding = platform_account(session, "funding", account.currency)
    # copy_negate, because a minus sign rounds to 28 digits.
    lines = {funding: exact.copy_negate(), account.id: exact}
    return journal.post(session, "top_up", reference, account.currency, lines)


# Kept beside the account, or a snapshot and what was posted after it: the view knows.
_BALANCES = text("""
SELECT b.account, b.balance, b.currency
  FROM ledger_balances b JOIN accounts a ON a.id = b.account_id
 WHERE a.gateway_id = :gateway_id
""")
_OWED = text("""
SELECT b.balance FROM ledger_balances b JOIN accounts a ON a.id = b.account_id
 WHERE a.orchestrator_id = :orchestrator_id AND a.kind = 'payable'
""")


def balance(session: Session, gateway_id: UUID) -> Balance:
    """Return a gateway's balance.

    Raises:
        UnknownGateway: There is no such gateway.
    """
    rows = session.execute(_BALANCES, {"gateway_id": gateway_id}).all()
    if not rows:
        raise UnknownGateway(gateway_id)
    amounts = {row.account: row.balance for row in rows}
    return Balance(amounts["available"], amounts["held"], rows[0].currency)


def owed(session: Session, orchestrator_id: UUID) -> Decimal:
    """Return what an orchestrator has earned and has not been paid yet.

    Raises:
        UnknownOrchestrator: There is no such orchestrator.
    """
    total: Decimal | None = session.scalar(_OWED, {"orchestrator_id": orchestrator_id})
    if total is None:
        raise UnknownOrchestrator(orchestrator_id)
    return total
