"""A job that moves to another orchestrator: its funds move with it, and never more of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import update

from ledger import accounts, audit, budgets, holds, offers
from ledger.errors import (
    CurrencyMismatch,
    HoldAlreadyResolved,
    InvalidAmount,
    LedgerError,
    OverBudget,
    OverPriceLimit,
    UnknownHold,
)
from ledger.limits import Limit
from ledger.money import unit_price
from ledger.offers import LiveOffer, Quote
from ledger.rates import Rates
from ledger.reassign import reassign
from ledger.tables import Hold
from tests.integration.ledger.helpers import Book

UNITS = 1000
LIMIT = Limit(None, None, unit_price("3e-08"))


@pytest.fixture
def book(shared_book: Book) -> Book:
    """Books with funds, in a database that the tests of this module share."""
    shared_book.top_up("1")
    return shared_book


def offer(book: Book, price: str) -> LiveOffer:
    """Return another orchestrator's offer for the same capability."""
    capability = book.party.offer.capability
    with book.sessions.begin() as session:
        name = f"{book.name}-{next(book.numbers)}"
        owner = accounts.create_orchestrator(session, name, "USD", Decimal("0.2"))
        row = offers.publish(session, owner.id, capability, unit_price(price), "USD")
        return next(one for one in offers.live_for(session, capability) if one.id == row.id)


def move(book: Book, hold_id: UUID, quote: Quote) -> UUID:
    with book.sessions.begin() as session:
        return reassign(session, hold_id, quote)


def find(book: Book, hold_id: UUID) -> Hold:
    with book.sessions.begin() as session:
        return session.get_one(Hold, hold_id)


def test_the_new_hold_is_for_the_same_job_at_the_other_price(book: Book) -> None:
    first = book.hold(UNITS, limit=LIMIT, api_key_id="key")
    cheaper = offer(book, "1e-08")
    second = move(book, first, offers.quote(cheaper, UNITS))
    old, new = find(book, first), find(book, second)
    assert (old.state, new.state, new.supersedes) == ("voided", "open", first)
    assert new.orchestrator_id == cheaper.orchestrator_id
    assert (new.amount, new.price) == (Decimal("0.00001"), cheaper.price)
    for same in ("reference", "gateway_id", "units", "expires_at", "api_key_id", "limit_price"):
        assert getattr(new, same) == getattr(old, same), same
    assert book.balance().held == new.amount
    assert book.balance().available == 1 - new.amount


def test_a_job_moves_on_and_is_charged_once_at_its_last_price(book: Book) -> None:
    hold_id = book.hold(UNITS)
    for price in ("1.9e-08", "1.9e-08", "1e-08"):
        hold_id = move(book, hold_id, offers.quote(offer(book, price), UNITS))
    last = find(book, hold_id)
    [charge] = book.capture({hold_id: UNITS})
    assert charge.amount == Decimal("0.00001")
    assert charge.orchestrator_id == last.orchestrator_id
    assert charge.reference == last.reference
    assert book.balance().available == 1 - charge.amount
    with book.sessions.begin() as session:
        assert audit.check(session) == []


def dearer(book: Book) -> Quote:
    return offers.quote(offer(book, "2e-08"), UNITS)


def above_the_limit(book: Book) -> Quote:
    return offers.quote(offer(book, "4e-08"), UNITS)


def of_fewer_units(book: Book) -> Quote:
    return offers.quote(offer(book, "1e-08"), UNITS - 1)


def in_ether(book: Book) -> Quote:
    quote = offers.quote(offer(book, "1e-08"), UNITS)
    return replace(quote, rates=Rates("ETH"))


@pytest.mark.parametrize(
    ("quote", "error"),
    [
        (dearer, InvalidAmount),
        (above_the_limit, OverPriceLimit),
        (of_fewer_units, InvalidAmount),
        (in_ether, CurrencyMismatch),
    ],
)
def test_what_was_not_agreed_to_moves_nothing(
    book: Book, quote: Callable[[Book], Quote], error: type[LedgerError]
) -> None:
    hold_id = book.hold(UNITS, limit=LIMIT)
    before = book.balance()
    with pytest.raises(error):
        move(book, hold_id, quote(book))
    assert find(book, hold_id).state == "open"
    assert book.balance() == before


def test_only_an_open_hold_moves(book: Book) -> None:
    quote = offers.quote(offer(book, "1e-08"), UNITS)
    captured, voided, moved = (book.hold(UNITS) for _ in range(3))
    book.capture({captured: UNITS})
    book.void(voided)
    move(book, moved, quote)
    for hold_id in (captured, voided, moved):
        with pytest.raises(HoldAlreadyResolved):
            move(book, hold_id, quote)
    with pytest.raises(UnknownHold):
        move(book, UUID(int=0), quote)


def test_a_move_goes_through_with_the_last_of_the_funds_and_of_a_budget(book: Book) -> None:
    hold_id = book.hold(UNITS)
    amount = find(book, hold_id).amount
    with book.sessions.begin() as session:
        budgets.set_budget(session, book.party.gateway_id, "day", str(amount))
    rest = book.balance().available
    assert rest > 0
    with pytest.raises(OverBudget):
        book.hold(UNITS)
    same = offers.quote(offer(book, "1.9073484e-08"), UNITS)
    assert find(book, move(book, hold_id, same)).amount == amount


def test_a_move_for_the_same_amount_takes_nothing_of_a_budget(book: Book) -> None:
    """So it goes through where the budget was lowered below what is used of it."""
    hold_id = book.hold(UNITS)
    with book.sessions.begin() as session:
        budgets.set_budget(session, book.party.gateway_id, "day", "0")
    same = offers.quote(offer(book, "1.9073484e-08"), UNITS)
    moved = move(book, hold_id, same)
    assert find(book, moved).state == "open"
    with book.sessions.begin() as session:
        [status] = budgets.list_budgets(session, book.party.gateway_id)
    assert status.used == find(book, moved).amount


def test_another_days_budget_may_refuse_and_then_the_job_stays(book: Book) -> None:
    hold_id = book.hold(UNITS)
    # As if it had been held yesterday: then today's budget has seen nothing of it.
    with book.sessions.begin() as session:
        session.connection().exec_driver_sql("SET LOCAL session_replication_role = replica")
        yesterday = Hold.created_at - timedelta(days=1)
        session.execute(update(Hold).where(Hold.id == hold_id).values(created_at=yesterday))
    with book.sessions.begin() as session:
        budgets.set_budget(session, book.party.gateway_id, "day", "0.000001")
    with pytest.raises(OverBudget):
        move(book, hold_id, offers.quote(offer(book, "1e-08"), UNITS))
    assert find(book, hold_id).state == "open"
    book.void(hold_id)


def test_a_reference_can_still_not_be_used_again(book: Book) -> None:
    hold_id = book.hold(UNITS)
    moved = find(book, move(book, hold_id, offers.quote(offer(book, "1e-08"), UNITS)))
    quote = offers.quote(book.party.offer, UNITS)
    with book.sessions.begin() as session, pytest.raises(LedgerError, match="belongs to"):
        holds.authorize(
            session, book.party.gateway_id, moved.reference, quote, LIMIT, moved.expires_at
        )
