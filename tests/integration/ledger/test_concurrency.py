"""Pins that threads which race for the same money find it spent once, and never wait in a circle.

Each thread has a connection of its own to real PostgreSQL. A lock is waited for at most 5 s, so a
deadlock or a lost wake-up fails a test instead of hanging it.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from typing import TypeVar
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts, budgets, holds, limits, offers, payouts, refunds, snapshots
from ledger.errors import (
    HoldAlreadyResolved,
    InsufficientFunds,
    InvalidAmount,
    LedgerError,
    NothingOwed,
    OverBudget,
    PayoutReversed,
    ReferenceReused,
    UnknownPayout,
)
from ledger.limits import Limit
from ledger.money import unit_price
from ledger.reassign import reassign
from ledger.tables import Hold
from tests.integration.ledger.helpers import ANY_PRICE, LATER, Book, Party, new_book

T = TypeVar("T")
UNITS = 131072


def race(threads: int, work: Callable[[int], T]) -> list[T | LedgerError]:
    """Run `work` on all threads at the same moment; returns what each got, or was refused with."""
    gate = threading.Barrier(threads)

    def run(number: int) -> T | LedgerError:
        gate.wait()
        try:
            return work(number)
        except LedgerError as refusal:
            return refusal

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


def outcome(results: list[T | LedgerError]) -> Counter[str]:
    return Counter(type(one).__name__ if isinstance(one, LedgerError) else "ok" for one in results)


@pytest.fixture
def book(shared_book: Book) -> Book:
    return shared_book


def test_forty_holds_on_a_balance_that_covers_thirteen(book: Book) -> None:
    book.top_up("0.034")  # 13.6 times 0.002499999694848

    results = race(40, lambda _: book.hold(UNITS))

    assert outcome(results) == {"ok": 13, "InsufficientFunds": 27}
    assert book.balance().held == Decimal("0.032499996033024")
    assert book.balance().available == Decimal("0.001500003966976")
    book.prove()


def test_eight_captures_of_one_hold(book: Book) -> None:
    book.top_up("1")
    hold_id = book.hold(UNITS)

    results = race(8, lambda _: book.capture({hold_id: UNITS}))

    assert outcome(results) == {"ok": 1, "HoldAlreadyResolved": 7}
    assert book.owed() == Decimal("0.0022499997253632")
    book.prove()


def test_capture_void_and_expiry_of_one_hold(book: Book) -> None:
    book.top_up("1")
    for _ in range(5):
        hold_id = book.hold(UNITS)
        results = race(6, partial(_resolve, book, hold_id))
        assert outcome(results) == {"ok": 1, "HoldAlreadyResolved": 5}
    book.prove()


def _resolve(book: Book, hold_id: UUID, number: int) -> None:
    if number % 3 == 0:
        book.capture({hold_id: UNITS})
    elif number % 3 == 1:
        book.void(hold_id)
    else:
        book.expire(hold_id)


def test_eight_top_ups_with_one_reference(book: Book) -> None:
    order = book.fresh("order")

    def top_up(_: int) -> int:
        with book.sessions.begin() as session:
            return accounts.top_up(session, book.party.gateway_id, Decimal(3), order).id

    assert len(set(race(8, top_up))) == 1
    assert book.balance().available == 3
    book.prove()


def test_eight_holds_for_one_job(book: Book) -> None:
    book.top_up("1")
    quote, job = offers.quote(book.party.offer, UNITS), book.fresh("job")

    def hold(_: int) -> UUID:
        with book.sessions.begin() as session:
            return holds.authorize(session, book.party.gateway_id, job, quote, ANY_PRICE, LATER)

    assert outcome(race(8, hold)) == {"ok": 1, "ReferenceReused": 7}
    assert book.balance().held == quote.amount
    book.prove()


def test_eight_refunds_of_a_charge_that_covers_three(book: Book) -> None:
    book.top_up("1")
    hold_id = book.hold(UNITS)
    book.capture({hold_id: UNITS})

    results = race(8, lambda _: book.refund(hold_id, "0.0008"))

    assert outcome(results) == {"ok": 3, "InvalidAmount": 5}
    book.prove()


def test_eight_refunds_with_one_reference(book: Book) -> None:
    book.top_up("1")
    hold_id = book.hold(UNITS)
    book.capture({hold_id: UNITS})

    ticket = book.fresh("ticket")
    results = race(8, lambda _: book.refund(hold_id, "0.0008", ticket).id)

    assert len(set(results)) == 1
    book.prove()


def test_one_reference_for_refunds_of_two_charges(book: Book) -> None:
    book.top_up("1")
    charged = [book.hold(UNITS) for _ in range(2)]
    book.capture(dict.fromkeys(charged, UNITS))

    ticket = book.fresh("ticket")
    results = race(8, lambda number: book.refund(charged[number % 2], "0.0008", ticket).id)

    assert outcome(results) == {"ok": 4, "ReferenceReused": 4}
    book.prove()


def test_limits_that_are_replaced_at_once_do_not_mix(book: Book) -> None:
    sets = [
        [Limit("text-to-image", f"acme/{number}-{model}", None) for model in range(5)]
        for number in range(6)
    ]

    def replace(number: int) -> None:
        with book.sessions.begin() as session:
            limits.replace_limits(session, book.party.gateway_id, sets[number], "USD")

    race(6, replace)
    with book.sessions.begin() as session:
        assert limits.list_limits(session, book.party.gateway_id) in sets


def test_the_first_charges_of_a_new_platform(session_factory: sessionmaker[Session]) -> None:
    """The platform's accounts are opened by whoever needs them first."""
    book = new_book(session_factory)
    parties = [book.open_party(f"party-{number}") for number in range(8)]
    for party in parties:
        book.top_up("1", party)
    held = [book.hold(UNITS, party) for party in parties]

    results = race(8, lambda number: book.capture({held[number]: UNITS}))

    assert outcome(results) == {"ok": 8}
    book.prove()


def test_a_transaction_with_an_old_view_cannot_refund_twice(book: Book) -> None:
    """At a stricter isolation level the sum of the refunds is old: the charge's row is not."""
    book.top_up("1")
    hold_id = book.hold(UNITS)
    book.capture({hold_id: UNITS})
    with book.sessions() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        session.execute(text("SELECT 1"))
        book.refund(hold_id, "0.002")
        with pytest.raises(OperationalError, match="could not serialize"):
            refunds.refund(session, hold_id, Decimal("0.002"), book.fresh("ticket"))
    book.prove()


def test_a_transaction_with_an_old_view_cannot_pay_twice(book: Book) -> None:
    book.top_up("1")
    book.capture({book.hold(UNITS): UNITS})
    only = [book.party.orchestrator_id]
    with book.sessions() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        session.execute(text("SELECT 1"))
        with book.sessions.begin() as other:
            payouts.create(other, book.fresh("payout"), "USD", only)
        with pytest.raises(OperationalError, match="could not serialize"):
            payouts.create(session, book.fresh("payout"), "USD", only)
    book.prove()


def test_a_transaction_with_an_old_view_cannot_pass_a_new_budget(book: Book) -> None:
    book.top_up("1")
    quote = offers.quote(book.party.offer, UNITS)
    gateway_id, job = book.party.gateway_id, book.fresh("job")
    with book.sessions() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        session.execute(text("SELECT 1"))
        with book.sessions.begin() as other:
            budgets.set_budget(other, gateway_id, "day", "0")
        with pytest.raises(OperationalError, match="could not serialize"):
            holds.authorize(session, gateway_id, job, quote, ANY_PRICE, LATER)
    book.prove()


REFUSALS = (
    InsufficientFunds,
    OverBudget,
    HoldAlreadyResolved,
    InvalidAmount,
    ReferenceReused,
    NothingOwed,
    PayoutReversed,
    UnknownPayout,
)


class Market:
    """Threads that do anything, to anybody, in any order."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.parties = [
            book.open_party("east", price="1", per=3, fee_rate="0.333333"),
            book.open_party("south", price="0.000003", fee_rate="0"),
            book.open_party("west", price="0.000007", per=11, fee_rate="1"),
        ]
        self.held: list[UUID] = []
        self.charged: list[UUID] = []
        for party in self.parties:
            book.top_up("20", party)

    def work(self, seed: int) -> Counter[str]:
        """Trade for a while; returns how often each operation was done or refused."""
        dice = random.Random(seed)
        done: Counter[str] = Counter()
        actions = [self.hold] * 4 + [self.capture] * 2 + [self.void, self.expire, self.move]
        actions += [self.top_up, self.refund, self.set_budget, self.take_snapshots]
        actions += [self.pay_out, self.mark_paid, self.reverse]
        for _ in range(25):
            action = dice.choice(actions)
            try:
                with self.book.sessions.begin() as session:
                    after = action(session, dice)
            except REFUSALS as no:
                done[type(no).__name__] += 1
            else:
                done[action.__name__] += 1
                after()
        return done

    def party(self, dice: random.Random) -> Party:
        return dice.choice(self.parties)

    def some(self, dice: random.Random) -> list[UUID]:
        """A few holds of anybody, in any order, open or not."""
        known = list(self.held)
        return dice.sample(known, min(len(known), dice.randint(1, 4)))

    def hold(self, session: Session, dice: random.Random) -> Callable[[], None]:
        party = self.party(dice)
        quote = offers.quote(party.offer, dice.randint(1, 10))
        reference = str(dice.getrandbits(64))
        key = dice.choice([None, "ann", "bob"])
        found = holds.authorize(
            session, party.gateway_id, reference, quote, ANY_PRICE, LATER, api_key_id=key
        )
        return lambda: self.held.append(found)

    def set_budget(self, session: Session, dice: random.Random) -> Callable[[], None]:
        key, period = dice.choice([None, "ann"]), dice.choice(budgets.PERIODS)
        amount = Decimal(dice.randint(1, 40))
        budgets.set_budget(session, self.party(dice).gateway_id, period, amount, key)
        return lambda: None

    def take_snapshots(self, session: Session, dice: random.Random) -> Callable[[], None]:
        snapshots.take(session, dice.randint(1, 5))
        return lambda: None

    def pay_out(self, session: Session, dice: random.Random) -> Callable[[], None]:
        payouts.create(session, f"payout {dice.randint(1, 9)}", "USD")
        return lambda: None

    def mark_paid(self, session: Session, dice: random.Random) -> Callable[[], None]:
        payouts.mark_paid(session, f"payout {dice.randint(1, 9)}")
        return lambda: None

    def reverse(self, session: Session, dice: random.Random) -> Callable[[], None]:
        payouts.reverse(session, f"payout {dice.randint(1, 9)}")
        return lambda: None

    def capture(self, session: Session, dice: random.Random) -> Callable[[], None]:
        chosen = self.some(dice)
        holds.capture(session, dict.fromkeys(chosen, 1))
        return lambda: self.charged.extend(chosen)

    def move(self, session: Session, dice: random.Random) -> Callable[[], None]:
        if not self.held:
            return lambda: None
        hold = session.get_one(Hold, dice.choice(self.held))
        offer = next(one.offer for one in self.parties if one.gateway_id == hold.gateway_id)
        found = reassign(session, hold.id, offers.quote(offer, hold.units))
        return lambda: self.held.append(found)

    def void(self, session: Session, dice: random.Random) -> Callable[[], None]:
        holds.void(session, self.some(dice))
        return lambda: None

    def expire(self, session: Session, dice: random.Random) -> Callable[[], None]:
        holds.expire(session, self.some(dice))
        return lambda: None

    def top_up(self, session: Session, dice: random.Random) -> Callable[[], None]:
        reference = f"order {dice.randint(1, 50)}"
        accounts.top_up(session, self.party(dice).gateway_id, Decimal(1), reference)
        return lambda: None

    def refund(self, session: Session, dice: random.Random) -> Callable[[], None]:
        if self.charged:
            hold_id = dice.choice(list(self.charged))
            reference = f"ticket {dice.randint(1, 50)}"
            refunds.refund(session, hold_id, Decimal("0.0000000003"), reference)
        return lambda: None


def test_thirty_two_threads_of_everything(book: Book) -> None:
    """No deadlock (any database error fails the test), and books that are sound to the last line.

    A thread resolves holds of several gateways in one call, in no order: the ledger orders them.
    """
    market = Market(book)

    with ThreadPoolExecutor(32) as pool:
        done = sum(pool.map(market.work, range(32)), Counter[str]())

    assert done.total() == 32 * 25
    for action in (
        "hold",
        "capture",
        "move",
        "void",
        "expire",
        "top_up",
        "refund",
        "pay_out",
        "take_snapshots",
    ):
        assert done[action] > 0, action
    assert done["HoldAlreadyResolved"] > 0
    book.prove()


def test_a_stuck_transaction_is_not_waited_for_forever(book: Book) -> None:
    book.top_up("1")
    hold_id = book.hold(UNITS)
    with book.sessions() as stuck:
        holds.void(stuck, [hold_id])
        with book.sessions() as session:
            session.execute(text("SET LOCAL lock_timeout = '100ms'"))
            with pytest.raises(OperationalError, match="lock timeout"):
                holds.capture(session, {hold_id: UNITS})
    book.capture({hold_id: UNITS})
    book.prove()


def test_a_price_that_changes_meanwhile(book: Book) -> None:
    """A price that changes while a job is quoted and held: the hold keeps the quote's."""
    book.top_up("1")
    quote = offers.quote(book.party.offer, UNITS)

    def trade(number: int) -> None:
        with book.sessions.begin() as session:
            if number % 2:
                price = unit_price(f"{number}e-08")
                payee, capability = book.party.orchestrator_id, book.party.offer.capability
                offers.publish(session, payee, capability, price, "USD")
            else:
                job = book.fresh("job")
                holds.authorize(session, book.party.gateway_id, job, quote, ANY_PRICE, LATER)

    assert outcome(race(8, trade)) == {"ok": 8}
    query = "SELECT DISTINCT price_per_unit FROM holds WHERE gateway_id = :gateway"
    prices = book.rows(query, gateway=book.party.gateway_id)
    assert [row.price_per_unit for row in prices] == [Decimal("1.9073484e-08")]
    book.prove()
