"""Pins that no order of operations, on real PostgreSQL, takes the books away from a plain model.

The model is Python dictionaries of whole quanta, with sums written out again: it shares no
arithmetic with the ledger. After every step the two agree, each currency adds up to zero, no
gateway is below zero, and what is held is the sum of the open holds.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from functools import reduce
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts, audit, budgets, holds, offers, payouts, rates, refunds, snapshots
from ledger.errors import (
    HoldAlreadyResolved,
    InsufficientFunds,
    InvalidAmount,
    NothingOwed,
    OverBudget,
    PayoutReversed,
    ReferenceReused,
)
from ledger.money import EXACT
from ledger.reassign import reassign
from tests.integration.ledger.helpers import ANY_PRICE, LATER, Party, charges_of, open_party

QUANTA = 10**18
RESOLVED = ("captured", "voided", "expired")
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
    price_currency: str
    exchange: int = 1

    def cost(self, units: int) -> int:
        return -(-units * self.price * self.exchange // self.pixels)


TERMS = [
    Terms(19_073_484_000, 1, 100_000, "USD", "USD"),
    Terms(QUANTA, 3, 333_333, "USD", "USD"),
    Terms(7, 10**18, 1_000_000, "ETH", "ETH"),
    Terms(1_907_348_400, 7, 100_000, "USD", "ETH", 4000),
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
class ModelPayout:
    who: int
    amount: int
    state: str = "created"


@dataclass
class Model:
    available: list[int] = field(default_factory=lambda: [0] * len(TERMS))
    owed: list[int] = field(default_factory=lambda: [0] * len(TERMS))
    funded: dict[str, int] = field(default_factory=lambda: {"USD": 0, "ETH": 0})
    earned: dict[str, int] = field(default_factory=lambda: {"USD": 0, "ETH": 0})
    fee_rates: list[int] = field(default_factory=lambda: [terms.fee for terms in TERMS])
    holds: dict[UUID, ModelHold] = field(default_factory=dict)
    payouts: dict[str, ModelPayout] = field(default_factory=dict)
    budgets: dict[int, int] = field(default_factory=dict)

    def used(self, who: int) -> int:
        """What counts towards a budget: open holds, and what was charged."""
        mine = (hold for hold in self.holds.values() if hold.who == who)
        return self.held(who) + sum(hold.charged for hold in mine)

    def held(self, who: int) -> int:
        return sum(
            TERMS[who].cost(hold.units)
            for hold in self.holds.values()
            if hold.who == who and hold.state == "open"
        )


def decimal(quanta: int) -> Decimal:
    return Decimal(quanta).scaleb(-18, EXACT)


parties = st.integers(0, len(TERMS) - 1)
picks = st.lists(st.integers(0, 99), min_size=1, max_size=3)
quarters = st.integers(1, 4)
counts = st.one_of(st.integers(1, 40), st.integers(1, 10**9))


class Books(RuleBasedStateMachine):
    """The ledger beside its model. `sessions` is set by the test."""

    sessions: sessionmaker[Session]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.parties: list[Party] = []
        self.first_entry = 0
        self.rates: dict[str, rates.Rates] = {}

    def pick(self, picks: list[int], *states: str) -> list[UUID]:
        """Choose among the holds in these states."""
        fitting = [key for key, hold in self.model.holds.items() if hold.state in states]
        return list(dict.fromkeys(fitting[pick % len(fitting)] for pick in picks))

    def any_hold(self, *states: str) -> bool:
        return any(hold.state in states for hold in self.model.holds.values())

    @initialize()
    def open_books(self) -> None:
        run = next(_numbers)
        for number, terms in enumerate(TERMS):
            party = open_party(
                self.sessions,
                f"run-{run}-{number}",
                currency=terms.currency,
                price=f"{decimal(terms.price):f}",
                per=terms.pixels,
                fee_rate=str(Decimal(terms.fee).scaleb(-6)),
                price_currency=terms.price_currency,
            )
            self.parties.append(party)
        with self.sessions.begin() as session:
            rates.set_rate(session, "ETH", "USD", 4000, "the test")
            self.rates = {
                currency: rates.load(session, currency, timedelta(days=1))
                for currency in ("USD", "ETH")
            }
            newest = text("SELECT coalesce(max(id), 0) FROM entries")
            self.first_entry = session.scalars(newest).one()
        for who in range(len(TERMS)):
            self.top_up(who, QUANTA)

    @rule(who=parties, quanta=st.integers(1, 5 * QUANTA))
    def top_up(self, who: int, quanta: int) -> None:
        """Top up twice with one reference, and once more with another amount: once counts."""
        gateway, reference = self.parties[who].gateway_id, f"top-up {next(_numbers)}"
        with self.sessions.begin() as session:
            first = accounts.top_up(session, gateway, decimal(quanta), reference)
            again = accounts.top_up(session, gateway, decimal(quanta), reference)
            assert first.id == again.id
            with pytest.raises(ReferenceReused):
                accounts.top_up(session, gateway, decimal(quanta + 1), reference)
        self.model.available[who] += quanta
        self.model.funded[TERMS[who].currency] += quanta

    @rule(orders=st.lists(st.tuples(parties, counts), min_size=1, max_size=4))
    def hold(self, orders: list[tuple[int, int]]) -> None:
        for who, units in orders:
            self._hold(who, units)

    @rule(orders=st.lists(st.tuples(parties, counts), min_size=1, max_size=4), quarters=quarters)
    def work(self, orders: list[tuple[int, int]], quarters: int) -> None:
        """Hold, and deliver at once: else the dice bring few jobs to their end."""
        self.hold(orders)
        if self.any_hold("open"):
            self.capture([0, 1], quarters)

    def _hold(self, who: int, units: int) -> None:
        party, cost = self.parties[who], TERMS[who].cost(units)
        quote = offers.quote(party.offer, units, self.rates[TERMS[who].currency])
        job = f"job {next(_numbers)}"
        assert quote.amount == decimal(cost)
        missing = cost - self.model.available[who]
        budget = self.model.budgets.get(who)
        if missing <= 0 and budget is not None and self.model.used(who) + cost > budget:
            with pytest.raises(OverBudget) as over, self.sessions.begin() as session:
                holds.authorize(session, party.gateway_id, job, quote, ANY_PRICE, LATER)
            assert over.value.used == decimal(self.model.used(who))
            return
        with self.sessions.begin() as session:
            if missing > 0:
                with pytest.raises(InsufficientFunds) as refused:
                    holds.authorize(session, party.gateway_id, job, quote, ANY_PRICE, LATER)
                assert refused.value.missing == decimal(missing)
                return
            hold_id = holds.authorize(session, party.gateway_id, job, quote, ANY_PRICE, LATER)
        self.model.available[who] -= cost
        self.model.holds[hold_id] = ModelHold(who, units, self.model.fee_rates[who])

    @rule(who=parties, quanta=st.one_of(st.none(), st.integers(0, 6 * QUANTA)))
    def set_budget(self, who: int, quanta: int | None) -> None:
        """Set a month's budget, or take it away."""
        gateway = self.parties[who].gateway_id
        with self.sessions.begin() as session:
            if quanta is None:
                had = budgets.remove_budget(session, gateway, "month")
                assert had is (who in self.model.budgets)
                self.model.budgets.pop(who, None)
                return
            budgets.set_budget(session, gateway, "month", decimal(quanta))
            self.model.budgets[who] = quanta
            [status] = budgets.list_budgets(session, gateway)
            assert status.used == decimal(self.model.used(who))

    @rule(who=parties)
    def pay_out(self, who: int) -> None:
        """Pay a party all that it is owed, twice with one reference: once counts."""
        reference, payee = f"payout {next(_numbers)}", self.parties[who].orchestrator_id
        currency, due = TERMS[who].currency, self.model.owed[who]
        with self.sessions.begin() as session:
            if due <= 0:
                with pytest.raises(NothingOwed):
                    payouts.create(session, reference, currency, [payee])
                return
            batch = payouts.create(session, reference, currency, [payee])
            assert [line.amount for line in batch.lines] == [decimal(due)]
            assert payouts.create(session, reference, currency, [payee]) == batch
        self.model.owed[who] = 0
        self.model.payouts[reference] = ModelPayout(who, due)

    @precondition(lambda self: self.model.payouts)
    @rule(pick=st.integers(0, 99), pays=st.booleans())
    def decide_a_payout(self, pick: int, pays: bool) -> None:
        """Mark a payout paid, or reverse it, twice: once counts, and nothing follows a reversal."""
        reference = list(self.model.payouts)[pick % len(self.model.payouts)]
        mine = self.model.payouts[reference]
        for _ in range(2):
            with self.sessions.begin() as session:
                if pays and mine.state == "reversed":
                    with pytest.raises(PayoutReversed):
                        payouts.mark_paid(session, reference)
                else:
                    (payouts.mark_paid if pays else payouts.reverse)(session, reference)
        if pays and mine.state == "created":
            mine.state = "paid"
        elif not pays and mine.state != "reversed":
            mine.state = "reversed"
            self.model.owed[mine.who] += mine.amount

    @rule(min_tail=st.integers(1, 5))
    def take_snapshots(self, min_tail: int) -> None:
        with self.sessions.begin() as session:
            snapshots.take(session, min_tail)
            for who, party in enumerate(self.parties):
                owed = accounts.owed(session, party.orchestrator_id)
                assert owed == decimal(self.model.owed[who])

    def teardown(self) -> None:
        with self.sessions.begin() as session:
            assert audit.check(session) == []

    @precondition(lambda self: self.any_hold("open"))
    @rule(picks=picks, quarters=quarters)
    def capture(self, picks: list[int], quarters: int) -> None:
        """Capture all or a part of some holds, in one call; more than is held is refused."""
        chosen = self.pick(picks, "open")
        parts = {one: max(1, self.model.holds[one].units * quarters // 4) for one in chosen}
        with self.sessions.begin() as session:
            too_much = {chosen[0]: self.model.holds[chosen[0]].units + 1}
            with pytest.raises(InvalidAmount):
                holds.capture(session, parts | too_much)
            holds.capture(session, parts)
            charges = charges_of(session, parts)
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

    @precondition(lambda self: self.any_hold("open"))
    @rule(picks=picks, state=st.sampled_from(["voided", "expired"]))
    def give_back(self, picks: list[int], state: str) -> None:
        chosen = self.pick(picks, "open")
        with self.sessions.begin() as session:
            (holds.void if state == "voided" else holds.expire)(session, chosen)
        for one in chosen:
            hold = self.model.holds[one]
            hold.state = state
            self.model.available[hold.who] += TERMS[hold.who].cost(hold.units)

    @precondition(lambda self: self.any_hold("open"))
    @rule(picks=picks)
    def move(self, picks: list[int]) -> None:
        """Put other holds in the place of some: funds and budgets see no difference."""
        for one in self.pick(picks, "open"):
            hold = self.model.holds[one]
            terms, party = TERMS[hold.who], self.parties[hold.who]
            own_rates = self.rates[terms.currency]
            with self.sessions.begin() as session:
                more = offers.quote(party.offer, hold.units + 1, own_rates)
                with pytest.raises(InvalidAmount):
                    reassign(session, one, more)
                quote = offers.quote(party.offer, hold.units, own_rates)
                moved = reassign(session, one, quote)
                with pytest.raises(HoldAlreadyResolved):
                    reassign(session, one, quote)
            hold.state = "voided"
            fee_rate = self.model.fee_rates[hold.who]
            self.model.holds[moved] = ModelHold(hold.who, hold.units, fee_rate)

    @precondition(lambda self: self.any_hold(*RESOLVED))
    @rule(picks=picks)
    def resolve_again(self, picks: list[int]) -> None:
        """One resolved hold spoils a batch, whatever else is in it, and whatever is asked."""
        chosen = self.pick(picks, "open", *RESOLVED) + self.pick([0], *RESOLVED)
        with self.sessions.begin() as session:
            for attempt in (holds.void, holds.expire):
                with pytest.raises(HoldAlreadyResolved):
                    attempt(session, chosen)
            with pytest.raises(HoldAlreadyResolved):
                holds.capture(session, dict.fromkeys(chosen, 1))

    @precondition(lambda self: self.any_hold("captured"))
    @rule(picks=picks, quarters=quarters)
    def refund(self, picks: list[int], quarters: int) -> None:
        """Refund a part of what is left of some charges, twice with one reference: once counts."""
        for one in self.pick(picks, "captured"):
            hold, ticket = self.model.holds[one], f"ticket {next(_numbers)}"
            left = hold.charged - hold.refunded
            part = max(1, left * quarters // 4)
            with self.sessions.begin() as session:
                with pytest.raises(InvalidAmount):
                    refunds.refund(session, one, decimal(left + 1), ticket)
                if left == 0:
                    continue
                first = refunds.refund(session, one, decimal(part), ticket)
                again = refunds.refund(session, one, decimal(part), ticket)
                assert first.id == again.id
            self._refund(hold, part)

    def _refund(self, hold: ModelHold, part: int) -> None:
        before = hold.fee * hold.refunded // hold.charged
        hold.refunded += part
        fee = hold.fee * hold.refunded // hold.charged - before
        self.model.available[hold.who] += part
        self.model.owed[hold.who] -= part - fee
        self.model.earned[TERMS[hold.who].currency] -= fee

    @rule(who=parties, fee=st.integers(0, 10**6))
    def change_the_fee(self, who: int, fee: int) -> None:
        """Whoever was promised another fee keeps it."""
        with self.sessions.begin() as session:
            row = accounts.find_orchestrator(session, self.parties[who].orchestrator_id)
            row.fee_rate = Decimal(fee).scaleb(-6)
        self.model.fee_rates[who] = fee

    @precondition(lambda self: self.any_hold("open"))
    @rule(picks=picks)
    def roll_back(self, picks: list[int]) -> None:
        """What the caller gives up did not happen."""
        with self.sessions() as session:
            holds.capture(session, dict.fromkeys(self.pick(picks, "open"), 1))
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
            gone = [one for one in model.payouts.values() if TERMS[one.who].currency == currency]
            left = sum(one.amount for one in gone if one.state == "paid")
            expected["funding", currency] = left - model.funded[currency]
            if gone:
                expected["payouts", currency] = sum(
                    one.amount for one in gone if one.state == "created"
                )
        return {key: decimal(quanta) for key, quanta in expected.items()}


def test_no_order_of_operations_breaks_the_books(session_factory: sessionmaker[Session]) -> None:
    machine = type("BooksHere", (Books,), {"sessions": session_factory})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,  # a database on a busy machine has no even pace
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
