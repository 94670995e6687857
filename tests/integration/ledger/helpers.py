"""A small set of books for the tests of the ledger, and the proof that books are sound."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts, audit, budgets, holds, offers, payouts, rates, refunds, snapshots
from ledger.limits import Limit
from ledger.money import unit_price
from ledger.offers import Capability, LiveOffer, Quote
from ledger.tables import Charge, Entry

CAPABILITY = Capability("text-to-image", "acme/turbo")
PRICE = unit_price("1.9073484e-08")
ANY_PRICE = Limit(None, None, None)
LATER = datetime(2100, 1, 1, tzinfo=UTC)

# What only the owner of the tables can do: switch every rule off.
DEFENCELESS = """
    DO $$ DECLARE it record; BEGIN
        FOR it IN SELECT DISTINCT tgrelid::regclass AS name FROM pg_trigger WHERE NOT tgisinternal
        LOOP EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', it.name); END LOOP;
        FOR it IN SELECT conrelid::regclass AS name, conname FROM pg_constraint
                   WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace
                   ORDER BY contype DESC
        LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', it.name, it.conname); END LOOP;
    END $$
"""


@dataclass(frozen=True)
class Party:
    """A gateway and an orchestrator that do business in one currency."""

    gateway_id: UUID
    orchestrator_id: UUID
    offer: LiveOffer


def charges_of(session: Session, hold_ids: Collection[UUID]) -> list[Charge]:
    return list(session.scalars(select(Charge).where(Charge.hold_id.in_(hold_ids))))


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

    def hold(
        self,
        units: int,
        party: Party | None = None,
        limit: Limit = ANY_PRICE,
        api_key_id: str | None = None,
    ) -> UUID:
        party = party or self.party
        with self.sessions.begin() as session:
            quote = self.quote(session, units, party)
            return holds.authorize(
                session,
                party.gateway_id,
                self.fresh("job"),
                quote,
                limit,
                LATER,
                api_key_id=api_key_id,
            )

    def quote(self, session: Session, units: int, party: Party) -> Quote:
        own = accounts.balance(session, party.gateway_id).currency
        return offers.quote(party.offer, units, rates.load(session, own, timedelta(days=1)))

    def capture(self, units_by_hold: Mapping[UUID, int]) -> list[Charge]:
        with self.sessions.begin() as session:
            holds.capture(session, units_by_hold)
            return charges_of(session, units_by_hold)

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

    def do_one_of_everything(self) -> None:
        """Leave one row at least of each kind that the books have."""
        with self.sessions.begin() as session:
            budgets.set_budget(session, self.party.gateway_id, "day", "1")
        self.top_up("1")
        captured, voided, expired, _ = (self.hold(1000 + n) for n in range(4))
        self.capture({captured: 400})
        self.refund(captured, "0.000001")
        self.void(voided)
        self.expire(expired)
        self.pay_out("paid")
        with self.sessions.begin() as session:
            payouts.mark_paid(session, "paid")
            payouts.reverse(session, "paid")
        self.pay_out("to be paid")
        self.take_snapshots()
        ether = self.convert(self.party, "0.000000000005")
        self.capture({self.hold(1000, ether): 1000})

    def pay_out(self, reference: str, currency: str = "USD") -> payouts.Batch:
        with self.sessions.begin() as session:
            return payouts.create(session, reference, currency)

    def take_snapshots(self, min_tail: int = 1) -> int:
        with self.sessions.begin() as session:
            return snapshots.take(session, min_tail)

    def convert(self, party: Party, price: str, rate: str = "4000", currency: str = "ETH") -> Party:
        """Set a rate, and let a party that is paid in USD offer another model at a price in ETH."""
        capability = Capability(CAPABILITY.pipeline, self.fresh("model"))
        with self.sessions.begin() as session:
            rates.set_rate(session, "ETH", "USD", rate, "the test")
            offers.publish(
                session, party.orchestrator_id, capability, unit_price(price, 1, currency), "USD"
            )
            return replace(party, offer=offers.live_for(session, capability)[0])

    def balance(self, party: Party | None = None) -> accounts.Balance:
        with self.sessions.begin() as session:
            return accounts.balance(session, (party or self.party).gateway_id)

    def owed(self, party: Party | None = None) -> Decimal:
        with self.sessions.begin() as session:
            return accounts.owed(session, (party or self.party).orchestrator_id)

    def rows(self, query: str, **values: object) -> list[Any]:
        with self.sessions.begin() as session:
            return list(session.execute(text(query), values).all())

    def execute(self, statement: str, **values: object) -> None:
        with self.sessions.begin() as session:
            session.execute(text(statement), values)

    def trial_balance(self, currency: str = "USD") -> dict[str, Decimal]:
        rows = self.rows(
            "SELECT account, balance FROM ledger_trial_balance WHERE currency = :currency",
            currency=currency,
        )
        return {row.account: row.balance for row in rows}

    def prove(self) -> None:
        """Fail where the books are not sound."""
        with self.sessions.begin() as session:
            assert audit.check(session) == []


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
    price_currency: str | None = None,
) -> Party:
    with sessions.begin() as session:
        gateway = accounts.create_gateway(session, name, currency)
        orchestrator = accounts.create_orchestrator(session, name, currency, Decimal(fee_rate))
        capability = Capability(CAPABILITY.pipeline, f"acme/{name}")
        offers.publish(
            session,
            orchestrator.id,
            capability,
            unit_price(price, per, price_currency or currency),
            currency,
        )
        return Party(gateway.id, orchestrator.id, offers.live_for(session, capability)[0])
