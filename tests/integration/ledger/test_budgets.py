"""Pins that no spending passes a budget, however many try at once, and what counts towards it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger import budgets
from ledger.errors import InvalidAmount, InvalidName, LedgerError, OverBudget, UnknownGateway
from tests.integration.ledger.helpers import Book

# A party of these tests sells a pixel for a tenth of a dollar.
TENTH = "0.1"


@pytest.fixture
def rich(book: Book) -> Book:
    """Books whose gateway has 100 USD to spend at 0.1 USD a pixel."""
    party = book.open_party("rich", price=TENTH)
    rich = Book(book.sessions, book.name, party, book.numbers)
    rich.top_up("100")
    return rich


def set_budget(book: Book, amount: str, period: str = "day", key: str | None = None) -> None:
    with book.sessions.begin() as session:
        budgets.set_budget(session, book.party.gateway_id, period, amount, key)


def used(book: Book) -> dict[tuple[str, str | None], Decimal]:
    with book.sessions.begin() as session:
        found = budgets.list_budgets(session, book.party.gateway_id)
    return {(one.period, one.api_key_id): one.used for one in found}


def test_a_day_of_a_gateway_with_a_budget(rich: Book) -> None:
    """One dollar a day: open holds count, what is given back does not, and the last cent can go."""
    set_budget(rich, "1")
    first, second, third = rich.hold(4), rich.hold(3), rich.hold(3)
    with pytest.raises(OverBudget) as refused:
        rich.hold(1)
    assert (refused.value.period, refused.value.api_key_id) == ("day", None)
    assert refused.value.budget == refused.value.used == 1
    assert refused.value.needed == Decimal("0.1")
    assert refused.value.remaining == 0

    rich.void(first)
    assert used(rich) == {("day", None): Decimal("0.6")}
    rich.capture({second: 1})  # of 3
    assert used(rich) == {("day", None): Decimal("0.4")}
    rich.expire(third)
    assert used(rich) == {("day", None): Decimal("0.1")}
    rich.hold(9)
    with pytest.raises(OverBudget):
        rich.hold(1)
    assert rich.balance().held == Decimal("0.9")
    rich.prove()


def test_each_budget_that_applies_has_to_cover_the_amount(rich: Book) -> None:
    set_budget(rich, "5", "month")
    set_budget(rich, "3", "day", "ann")
    rich.hold(10, api_key_id="ann")
    rich.hold(25, api_key_id="bob")
    with pytest.raises(OverBudget, match="this gateway"):
        rich.hold(16, api_key_id="bob")
    with pytest.raises(OverBudget, match="this gateway"):
        rich.hold(16)
    rich.void(rich.hold(15, api_key_id="ann"))
    set_budget(rich, "100", "month")
    with pytest.raises(OverBudget, match="API key ann"):
        rich.hold(21, api_key_id="ann")
    assert used(rich) == {("month", None): Decimal("3.5"), ("day", "ann"): Decimal(1)}
    rich.prove()


def test_a_budget_counts_what_was_spent_before_it_was_set(rich: Book) -> None:
    rich.capture({rich.hold(10, api_key_id="ann"): 7})
    rich.hold(5)
    rich.void(rich.hold(50))
    set_budget(rich, "1.5")
    set_budget(rich, "1", "month", "ann")
    assert used(rich) == {("day", None): Decimal("1.2"), ("month", "ann"): Decimal("0.7")}
    with pytest.raises(OverBudget):
        rich.hold(4)
    rich.hold(3)
    rich.prove()


def test_a_refund_does_not_bring_back_a_budget(rich: Book) -> None:
    set_budget(rich, "1")
    hold = rich.hold(10)
    rich.capture({hold: 10})
    rich.refund(hold, "1")
    with pytest.raises(OverBudget):
        rich.hold(1)


def test_a_budget_below_what_is_used_stops_spending_and_can_be_raised_or_removed(
    rich: Book,
) -> None:
    set_budget(rich, "10")
    rich.hold(50)
    set_budget(rich, "1")
    with rich.sessions.begin() as session:
        [status] = budgets.list_budgets(session, rich.party.gateway_id)
    assert (status.used, status.remaining) == (Decimal(5), Decimal(0))
    with pytest.raises(OverBudget):
        rich.hold(1)
    set_budget(rich, "5.1")
    rich.hold(1)
    with rich.sessions.begin() as session:
        assert budgets.remove_budget(session, rich.party.gateway_id, "day")
        assert not budgets.remove_budget(session, rich.party.gateway_id, "day")
    rich.hold(100)
    rich.prove()


def test_a_budget_of_nothing_lets_nothing_through(rich: Book) -> None:
    set_budget(rich, "0", "month", "ann")
    with pytest.raises(OverBudget):
        rich.hold(1, api_key_id="ann")
    rich.hold(1, api_key_id="bob")


def test_yesterday_is_another_day(rich: Book) -> None:
    """What was used yesterday does not count today, and what comes back from then changes nothing.

    Yesterday is made by moving what was counted today.
    """
    set_budget(rich, "1")
    hold = rich.hold(10)
    yesterday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(1)
    rich.execute("UPDATE budget_usage SET starts = :day", day=yesterday)
    rich.execute("ALTER TABLE holds DISABLE TRIGGER USER")
    rich.execute("UPDATE holds SET created_at = :day", day=yesterday)
    rich.execute("ALTER TABLE holds ENABLE TRIGGER USER")

    assert used(rich) == {("day", None): 0}
    rich.hold(10)
    rich.void(hold)
    assert used(rich) == {("day", None): 1}
    with pytest.raises(OverBudget):
        rich.hold(1)
    rich.prove()


def test_jobs_that_are_submitted_at_once_cannot_pass_together(rich: Book) -> None:
    set_budget(rich, "1")
    set_budget(rich, "0.7", "day", "ann")

    def submit(number: int) -> UUID | None:
        try:
            return rich.hold(1, api_key_id="ann" if number % 2 else None)
        except OverBudget:
            return None

    with ThreadPoolExecutor(16) as pool:
        held = [hold for hold in pool.map(submit, range(40)) if hold]
    assert len(held) == 10
    assert used(rich)["day", None] == 1
    assert used(rich)["day", "ann"] <= Decimal("0.7")
    rich.prove()


def test_a_budget_that_is_set_while_jobs_come_in_misses_none(rich: Book) -> None:
    with ThreadPoolExecutor(8) as pool:
        holding = [pool.submit(rich.hold, 1) for _ in range(20)]
        setting = pool.submit(set_budget, rich, "50")
        holding += [pool.submit(rich.hold, 1) for _ in range(20)]
        setting.result()
        for one in holding:
            one.result()
    assert used(rich) == {("day", None): 4}
    rich.prove()


def test_a_budget_is_removed_while_jobs_come_in(rich: Book) -> None:
    def toggle() -> None:
        for _ in range(10):
            set_budget(rich, "50")
            with rich.sessions.begin() as session:
                assert budgets.remove_budget(session, rich.party.gateway_id, "day")

    with ThreadPoolExecutor(5) as pool:
        toggling = pool.submit(toggle)
        holding = [pool.submit(rich.hold, 1) for _ in range(60)]
        toggling.result()
        for one in holding:
            one.result()
    rich.prove()


@pytest.mark.parametrize(
    ("period", "amount", "key", "error"),
    [
        ("week", "1", None, InvalidName),
        ("day", "-1", None, InvalidAmount),
        ("day", "NaN", None, InvalidAmount),
        ("day", "0.0000000000000000001", None, InvalidAmount),
        ("day", "1", "", InvalidName),
    ],
)
def test_what_cannot_be_a_budget_is_refused(
    book: Book, period: str, amount: str, key: str | None, error: type[LedgerError]
) -> None:
    with book.sessions.begin() as session, pytest.raises(error, match=r"period|amount|api_key_id"):
        budgets.set_budget(session, book.party.gateway_id, period, amount, key)


def test_a_budget_of_nobody(book: Book) -> None:
    with book.sessions.begin() as session, pytest.raises(UnknownGateway):
        budgets.set_budget(session, UUID(int=0), "day", "1")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE budgets SET period = 'month'",
        "UPDATE budgets SET api_key_id = 'ann'",
        "UPDATE budget_usage SET used = -1",
        "UPDATE budgets SET amount = 'NaN'",
        "INSERT INTO budgets (gateway_id, period, amount) SELECT gateway_id, 'day', 2 FROM budgets",
    ],
)
def test_the_database_refuses_what_is_no_budget(rich: Book, statement: str) -> None:
    set_budget(rich, "1")
    rich.hold(1)
    with rich.sessions.begin() as session, pytest.raises(DBAPIError):
        session.execute(text(statement))
