"""A small set of books for the tests of the ledger, and the proof that books are sound."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts, holds, offers, refunds
from ledger.limits import Limit
from ledger.money import unit_price
from ledger.offers import Capability, LiveOffer
from ledger.tables import Charge, Entry

CAPABILITY = Capability("text-to-image", "acme/turbo")
PRICE = unit_price("1.9073484e-08")
ANY_PRICE = Limit(None, None, None)
LATER = datetime(2100, 1, 1, tzinfo=UTC)

# Each finds what must not be, and so returns nothing.
PROOFS = {
    "an entry that does not add up to zero": """
        SELECT entry_id FROM postings GROUP BY entry_id HAVING sum(amount) <> 0""",
    "a currency that does not add up to zero": """
        SELECT a.currency FROM postings p JOIN accounts a ON a.id = p.account_id
         GROUP BY a.currency HAVING sum(p.amount) <> 0""",
    "an entry in two currencies": """
        SELECT e.id FROM entries e JOIN postings p ON p.entry_id = e.id
          JOIN accounts a ON a.id = p.account_id WHERE a.currency <> e.currency""",
    "an entry without postings": """
        SELECT id FROM entries WHERE id NOT IN (SELECT entry_id FROM postings)""",
    "a balance that is not the sum of its postings": """
        SELECT a.id FROM accounts a LEFT JOIN postings p ON p.account_id = a.id
         WHERE a.balance IS NOT NULL
         GROUP BY a.id HAVING a.balance <> coalesce(sum(p.amount), 0)""",
    "a gateway below zero": "SELECT id FROM accounts WHERE balance < 0",
    "held funds that are not the sum of the open holds": """
        SELECT a.gateway_id FROM accounts a
          LEFT JOIN holds h ON h.gateway_id = a.gateway_id AND h.state = 'open'
         WHERE a.kind = 'held'
         GROUP BY a.gateway_id, a.balance HAVING a.balance <> coalesce(sum(h.amount), 0)""",
    "a hold whose state is not what its entries say": """
        SELECT h.id FROM holds h LEFT JOIN entries e ON e.hold_id = h.id AND e.kind <> 'hold'
         WHERE h.state <> CASE coalesce(e.kind, '') WHEN 'capture' THEN 'captured'
                          WHEN 'void' THEN 'voided' WHEN 'expire' THEN 'expired' ELSE 'open' END""",
    "a captured hold without its charge": """
        SELECT id FROM holds
         WHERE state = 'captured' AND id NOT IN (SELECT hold_id FROM charges)""",
    "a charge above the limit": """
        SELECT hold_id FROM billing_charges
         WHERE price_per_unit * limit_pixels_per_unit > limit_price_per_unit * pixels_per_unit""",
    "what is refunded is not the sum of the refunds": """
        SELECT c.hold_id FROM charges c LEFT JOIN refunds r ON r.hold_id = c.hold_id
         GROUP BY c.hold_id HAVING c.refunded <> coalesce(sum(r.amount), 0)""",
    "earnings that are not charges less refunds": """
        SELECT b.owner FROM ledger_balances b
          JOIN accounts a ON a.id = b.account_id
         WHERE b.account = 'payable' AND b.balance <>
               coalesce((SELECT sum(orchestrator_payment) FROM charges c
                          WHERE c.orchestrator_id = a.orchestrator_id), 0)
             - coalesce((SELECT sum(r.orchestrator_payment) FROM refunds r
                           JOIN charges c ON c.hold_id = r.hold_id
                          WHERE c.orchestrator_id = a.orchestrator_id), 0)""",
}


@dataclass(frozen=True)
class Party:
    """A gateway and an orchestrator that do business in one currency."""

    gateway_id: UUID
    orchestrator_id: UUID
    offer: LiveOffer


@dataclass(frozen=True)
class Book:
    """The ledger as the tests use it: each call is one committed transaction."""

    sessions: sessionmaker[Session]
    name: str
    party: Party
    numbers: itertools.count[int]

    def open_party(
        self,
        name: str,
        *,
        currency: str = "USD",
        price: str = "1.9073484e-08",
        per: int = 1,
        fee_rate: str = "0.1",
    ) -> Party:
        return open_party(
            self.sessions,
            f"{self.name}-{name}",
            currency=currency,
            price=price,
            per=per,
            fee_rate=fee_rate,
        )

    def fresh(self, what: str) -> str:
        """A reference that nobody used."""
        return f"{what} {next(self.numbers)} of {self.name}"

    def top_up(self, amount: str, party: Party | None = None) -> Entry:
        with self.sessions.begin() as session:
            return accounts.top_up(
                session, (party or self.party).gateway_id, Decimal(amount), self.fresh("top-up")
            )

    def hold(self, units: int, party: Party | None = None, limit: Limit = ANY_PRICE) -> UUID:
        party = party or self.party
        with self.sessions.begin() as session:
            return holds.authorize(
                session,
                party.gateway_id,
                self.fresh("job"),
                offers.quote(party.offer, units),
                limit,
                LATER,
            )

    def capture(self, units_by_hold: Mapping[UUID, int]) -> list[Charge]:
        with self.sessions.begin() as session:
            return holds.capture(session, units_by_hold)

    def void(self, *hold_ids: UUID) -> None:
        with self.sessions.begin() as session:
            holds.void(session, hold_ids)

    def expire(self, *hold_ids: UUID) -> None:
        with self.sessions.begin() as session:
            holds.expire(session, hold_ids)

    def refund(self, hold_id: UUID, amount: str, reference: str | None = None) -> Entry:
        with self.sessions.begin() as session:
            return refunds.refund(
                session, hold_id, Decimal(amount), reference or self.fresh("refund")
            )

    def balance(self, party: Party | None = None) -> accounts.Balance:
        with self.sessions.begin() as session:
            return accounts.balance(session, (party or self.party).gateway_id)

    def owed(self, party: Party | None = None) -> Decimal:
        with self.sessions.begin() as session:
            return accounts.owed(session, (party or self.party).orchestrator_id)

    def rows(self, query: str, **values: object) -> list[Any]:
        with self.sessions.begin() as session:
            return list(session.execute(text(query), values).all())

    def trial_balance(self, currency: str = "USD") -> dict[str, Decimal]:
        rows = self.rows(
            "SELECT account, balance FROM ledger_trial_balance WHERE currency = :currency",
            currency=currency,
        )
        return {row.account: row.balance for row in rows}

    def prove(self) -> None:
        """Fail where the books are not sound."""
        with self.sessions.begin() as session:
            found = {name: session.execute(text(query)).all() for name, query in PROOFS.items()}
        assert {name: rows for name, rows in found.items() if rows} == {}


def new_book(sessions: sessionmaker[Session], name: str = "north") -> Book:
    return Book(sessions, name, open_party(sessions, name), itertools.count(1))


def open_party(
    sessions: sessionmaker[Session],
    name: str,
    *,
    currency: str = "USD",
    price: str = "1.9073484e-08",
    per: int = 1,
    fee_rate: str = "0.1",
) -> Party:
    with sessions.begin() as session:
        gateway = accounts.create_gateway(session, name, currency)
        orchestrator = accounts.create_orchestrator(session, name, currency, Decimal(fee_rate))
        capability = Capability(CAPABILITY.pipeline, f"acme/{name}")
        offers.publish(
            session, orchestrator.id, capability, unit_price(price, per, currency), currency
        )
        return Party(gateway.id, orchestrator.id, offers.live_for(session, capability)[0])
