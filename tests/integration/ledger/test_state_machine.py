"""Pins that no order of operations, on real PostgreSQL, takes the books away from a plain model.

The model is Python dictionaries of whole quanta, with sums written out again: it shares no
arithmetic with the ledger. After every step the two agree, each currency adds up to zero, no
gateway is below zero, and what is held is the sum of the open holds.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from decimal import Decimal
from functools import reduce
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts, holds, offers, refunds
from ledger.errors import (
    HoldAlreadyResolved,
    InsufficientFunds,
    InvalidAmount,
    ReferenceReused,
    UnknownCharge,
)
from ledger.money import EXACT
from tests.integration.ledger.helpers import ANY_PRICE, LATER, Party, open_party

QUANTA = 10**18
_numbers = itertools.count(1)

_SUMS = text("""
    SELECT a.kind, coalesce(a.gateway_id, a.orchestrator_id) AS owner, a.currency, a.balance,
           sum(p.amount) AS total
      FROM postings p JOIN accounts a ON a.id = p.account_id
     WHERE p.entry_id > :first GROUP BY a.id""")
_STATES = text("SELECT id, state FROM holds WHERE gateway_id = ANY(:gateways)")


@dataclass(frozen=True)
class Terms:
    """What a party trades at: the price of `pixels` in quanta, and the fee in millionths."""

    price: int
    pixels: int
    fee: int
    currency: str

    def cost(self, units: int) -> int:
        return -(-units * self.price // self.pixels)


TERMS = [
    Terms(19_073_484_000, 1, 100_000, "USD"),
    Terms(QUANTA, 3, 333_333, "USD"),
    Terms(7, 10**18, 1_000_000, "ETH"),
]


@dataclass
class ModelHold:
    who: int
    units: int
    fee_rate: int
    state: str = "open"
    charged: int = 0
    fee: int = 0
    refunded: int = 0


@dataclass
class Model:
    available: list[int] = field(default_factory=lambda: [0] * len(TERMS))
    owed: list[int] = field(default_factory=lambda: [0] * len(TERMS))
    funded: dict[str, int] = field(default_factory=lambda: {"USD": 0, "ETH": 0})
    earned: dict[str, int] = field(default_factory=lambda: {"USD": 0, "ETH": 0})
    fee_rates: list[int] = field(default_factory=lambda: [terms.fee for terms in TERMS])
    holds: dict[UUID, ModelHold] = field(default_factory=dict)

    def held(self, who: int) -> int:
        return sum(
            TERMS[who].cost(hold.units)
            for hold in self.holds.values()
            if hold.who == who and hold.state == "open"
        )


def decimal(quanta: int) -> Decimal:
    return Decimal(quanta).scaleb(-18, EXACT)


parties = st.integers(0, len(TERMS) - 1)
small = st.integers(1, 40)


class Books(RuleBasedStateMachine):
    """The ledger beside its model. `sessions` is set by the test."""

    sessions: sessionmaker[Session]

    found = Bundle("found")
    top_ups = Bundle("top_ups")
    tickets = Bundle("tickets")
    several = st.lists(found, min_size=1, max_size=4).map(lambda some: list(dict.fromkeys(some)))

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.parties: list[Party] = []
        self.first_entry = 0

    @initialize()
    def open_books(self) -> None:
        run = next(_numbers)
        for number, terms in enumerate(TERMS):
            price, fee = f"{decimal(terms.price):f}", f"0.{terms.fee:06}"
            party = open_party(
                self.sessions,
                f"run-{run}-{number}",
                currency=terms.currency,
                price=price,
                per=terms.pixels,
                fee_rate="1" if terms.fee == 10**6 else fee,
            )
            self.parties.append(party)
        with self.sessions.begin() as session:
            newest = text("SELECT coalesce(max(id), 0) FROM entries")
            self.first_entry = session.scalars(newest).one()
        for who in range(len(TERMS)):
            self.top_up(who, QUANTA)

    @rule(target=top_ups, who=parties, quanta=st.integers(1, 5 * QUANTA))
    def top_up(self, who: int, quanta: int) -> tuple[str, int, int]:
        reference = f"top-up {next(_numbers)}"
        with self.sessions.begin() as session:
            accounts.top_up(session, self.parties[who].gateway_id, decimal(quanta), reference)
        self.model.available[who] += quanta
        self.model.funded[TERMS[who].currency] += quanta
        return reference, who, quanta

    @rule(made=top_ups, other=st.integers(0, 1))
    def top_up_again(self, made: tuple[str, int, int], other: int) -> None:
        reference, who, quanta = made
        with self.sessions.begin() as session:
            gateway = self.parties[who].gateway_id
            if other:
                with pytest.raises(ReferenceReused):
                    accounts.top_up(session, gateway, decimal(quanta + other), reference)
            else:
                accounts.top_up(session, gateway, decimal(quanta), reference)

    @rule(target=found, who=parties, units=st.one_of(small, st.integers(1, 10**9)))
    def hold(self, who: int, units: int) -> Any:
        party, cost = self.parties[who], TERMS[who].cost(units)
        quote = offers.quote(party.offer, units)
        assert quote.amount == decimal(cost)
        job = f"job {next(_numbers)}"
        with self.sessions.begin() as session:
            if cost > self.model.available[who]:
                with pytest.raises(InsufficientFunds) as refused:
                    holds.authorize(session, party.gateway_id, job, quote, ANY_PRICE, LATER)
                assert refused.value.missing == decimal(cost - self.model.available[who])
                return multiple()
            hold_id = holds.authorize(session, party.gateway_id, job, quote, ANY_PRICE, LATER)
        self.model.available[who] -= cost
        self.model.holds[hold_id] = ModelHold(who, units, self.model.fee_rates[who])
        return hold_id

    @rule(some=several, share=st.integers(1, 4))
    def capture(self, some: list[UUID], share: int) -> None:
        """Capture all or a part of some holds, in one call: if one is resolved, none is."""
        parts = {one: max(1, self.model.holds[one].units * share // 4) for one in some}
        with self.sessions.begin() as session:
            if any(self.model.holds[one].state != "open" for one in some):
                with pytest.raises(HoldAlreadyResolved):
                    holds.capture(session, parts)
                return
            charges = holds.capture(session, parts)
        assert {charge.hold_id: charge.units for charge in charges} == parts
        for hold_id, units in parts.items():
            self._charge(self.model.holds[hold_id], units)

    def _charge(self, hold: ModelHold, units: int) -> None:
        terms = TERMS[hold.who]
        hold.state, hold.charged = "captured", terms.cost(units)
        hold.fee = hold.charged * hold.fee_rate // 10**6
        self.model.available[hold.who] += terms.cost(hold.units) - hold.charged
        self.model.owed[hold.who] += hold.charged - hold.fee
        self.model.earned[terms.currency] += hold.fee

    @rule(one=found)
    def capture_too_much(self, one: UUID) -> None:
        hold = self.model.holds[one]
        expected = InvalidAmount if hold.state == "open" else HoldAlreadyResolved
        with self.sessions.begin() as session, pytest.raises(expected):
            holds.capture(session, {one: hold.units + 1})

    @rule(some=several, late=st.booleans())
    def give_back(self, some: list[UUID], late: bool) -> None:
        release, state = (holds.expire, "expired") if late else (holds.void, "voided")
        with self.sessions.begin() as session:
            if any(self.model.holds[one].state != "open" for one in some):
                with pytest.raises(HoldAlreadyResolved):
                    release(session, some)
                return
            release(session, some)
        for one in some:
            hold = self.model.holds[one]
            hold.state = state
            self.model.available[hold.who] += TERMS[hold.who].cost(hold.units)

    @rule(target=tickets, one=found, share=st.integers(1, 5))
    def refund(self, one: UUID, share: int) -> Any:
        """Refund a share of what is left, or more than that."""
        hold, ticket = self.model.holds[one], f"ticket {next(_numbers)}"
        left = hold.charged - hold.refunded
        part = left + 1 if share == 5 else max(1, left * share // 4)
        with self.sessions.begin() as session:
            if hold.state != "captured":
                with pytest.raises(UnknownCharge):
                    refunds.refund(session, one, decimal(part), ticket)
                return multiple()
            if part > left:
                with pytest.raises(InvalidAmount):
                    refunds.refund(session, one, decimal(part), ticket)
                return multiple()
            refunds.refund(session, one, decimal(part), ticket)
        before = hold.fee * hold.refunded // hold.charged
        hold.refunded += part
        fee = hold.fee * hold.refunded // hold.charged - before
        self.model.available[hold.who] += part
        self.model.owed[hold.who] -= part - fee
        self.model.earned[TERMS[hold.who].currency] -= fee
        return ticket, one, part

    @rule(made=consumes(tickets))
    def refund_again(self, made: tuple[str, UUID, int]) -> None:
        ticket, one, part = made
        with self.sessions.begin() as session:
            refunds.refund(session, one, decimal(part), ticket)
            with pytest.raises(ReferenceReused):
                refunds.refund(session, one, decimal(part + 1), ticket)

    @rule(who=parties, fee=st.integers(0, 10**6))
    def change_the_fee(self, who: int, fee: int) -> None:
        """Whoever was promised another fee keeps it."""
        with self.sessions.begin() as session:
            row = accounts.find_orchestrator(session, self.parties[who].orchestrator_id)
            row.fee_rate = Decimal(fee).scaleb(-6)
        self.model.fee_rates[who] = fee

    @rule(one=found)
    def roll_back(self, one: UUID) -> None:
        """What the caller gives up did not happen."""
        if self.model.holds[one].state == "open":
            with self.sessions() as session:
                holds.capture(session, {one: 1})
                session.rollback()

    @precondition(lambda self: self.parties)
    @invariant()
    def the_books_are_the_model(self) -> None:
        gateways = [party.gateway_id for party in self.parties]
        with self.sessions.begin() as session:
            lines = session.execute(_SUMS, {"first": self.first_entry}).all()
            states = session.execute(_STATES, {"gateways": gateways}).all()
        assert {row.id: row.state for row in states} == {
            hold_id: hold.state for hold_id, hold in self.model.holds.items()
        }
        sums = {(row.kind, row.owner or row.currency): row.total for row in lines}
        assert sums == self._expected()
        assert all(row.balance in (None, row.total) for row in lines)
        for currency in ("USD", "ETH"):
            amounts = (row.total for row in lines if row.currency == currency)
            assert reduce(EXACT.add, amounts, Decimal(0)) == 0

    def _expected(self) -> dict[tuple[str, UUID | str], Decimal]:
        """What each account holds that anything was posted to."""
        model, expected = self.model, dict[tuple[str, UUID | str], int]()
        for who, party in enumerate(self.parties):
            assert model.available[who] >= 0
            expected["available", party.gateway_id] = model.available[who]
            mine = [hold for hold in model.holds.values() if hold.who == who]
            if mine:
                expected["held", party.gateway_id] = model.held(who)
            if any(hold.charged > hold.fee for hold in mine):
                expected["payable", party.orchestrator_id] = model.owed[who]
            currency = TERMS[who].currency
            if any(hold.fee for hold in mine):
                expected["revenue", currency] = model.earned[currency]
            expected["funding", currency] = -model.funded[currency]
        return {key: decimal(quanta) for key, quanta in expected.items()}


def test_no_order_of_operations_breaks_the_books(session_factory: sessionmaker[Session]) -> None:
    machine = type("BooksHere", (Books,), {"sessions": session_factory})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,  # a database on a busy machine has no even pace
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
