"""Pins that orchestrators are paid what they are owed: once, all of it, and back if it fails."""

from __future__ import annotations

import csv
import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ledger import payouts
from ledger.errors import (
    InvalidAmount,
    InvalidName,
    LedgerError,
    NothingOwed,
    PayoutReversed,
    ReferenceReused,
    UnknownPayout,
)
from tests.integration.ledger.helpers import Book, Party

IMAGE = 1024 * 1024
EARNED = Decimal("0.0179999978029056")  # what nine tenths of an image's price are


@pytest.fixture
def south(book: Book) -> Party:
    """Books in which two orchestrators have earned: north two images, south one."""
    south = book.open_party("south")
    for party, images in ((book.party, 2), (south, 1)):
        book.top_up("1", party)
        for _ in range(images):
            book.capture({book.hold(IMAGE, party): IMAGE})
    return south


def decide(book: Book, reference: str, what: str, orchestrator: str | None = None) -> payouts.Batch:
    with book.sessions.begin() as session:
        if what == "pay":
            return payouts.mark_paid(session, reference)
        return payouts.reverse(session, reference, orchestrator)


def amounts(batch: payouts.Batch) -> dict[str, tuple[Decimal, str]]:
    return {line.orchestrator: (line.amount, line.state) for line in batch.lines}


def test_all_who_are_owed_are_paid(book: Book, south: Party) -> None:
    """All that is owed leaves the orchestrators' accounts; when it is paid, it has left us."""
    batch = book.pay_out("november")
    assert amounts(batch) == {
        "north": (2 * EARNED, "created"),
        "north-south": (EARNED, "created"),
    }
    assert (book.owed(), book.owed(south)) == (Decimal(0), Decimal(0))
    assert book.trial_balance()["payouts"] == 3 * EARNED

    paid = decide(book, "november", "pay")
    assert {line.state for line in paid.lines} == {"paid"}
    assert book.trial_balance()["payouts"] == 0
    assert book.trial_balance()["funding"] == 3 * EARNED - 2
    assert sum(book.trial_balance().values()) == 0
    rows = book.rows("SELECT * FROM billing_payouts ORDER BY payout_id")
    assert [(row.batch, row.orchestrator, row.state) for row in rows] == [
        ("november", "north", "paid"),
        ("november", "north-south", "paid"),
    ]
    book.prove()


@pytest.mark.parametrize("paid", [False, True])
def test_a_line_that_comes_back_is_owed_again(book: Book, south: Party, paid: bool) -> None:
    book.pay_out("november")
    if paid:
        decide(book, "november", "pay")
    batch = decide(book, "november", "reverse", "north-south")
    assert amounts(batch)["north-south"] == (EARNED, "reversed")
    assert (book.owed(), book.owed(south)) == (Decimal(0), EARNED)
    assert sum(book.trial_balance().values()) == 0
    assert amounts(book.pay_out("again")) == {"north-south": (EARNED, "created")}
    book.prove()


def test_the_same_reference_is_the_same_payout(book: Book, south: Party) -> None:
    first = book.pay_out("november")
    book.capture({book.hold(IMAGE, south): IMAGE})
    assert book.pay_out("november") == first
    assert book.owed(south) == EARNED
    with pytest.raises(ReferenceReused):
        book.pay_out("november", "ETH")
    for what in ("pay", "pay", "reverse", "reverse"):
        last = decide(book, "november", what)
    assert {line.state for line in last.lines} == {"reversed"}
    assert last.total == 0
    with pytest.raises(PayoutReversed, match="november"):
        decide(book, "november", "pay")
    assert len(book.rows("SELECT 1 FROM entries WHERE payout_id IS NOT NULL")) == 6
    book.prove()


def test_what_is_left_of_a_payout_is_paid(book: Book, south: Party) -> None:
    book.pay_out("november")
    decide(book, "november", "reverse", "north-south")
    paid = decide(book, "november", "pay")
    assert [line.state for line in paid.lines] == ["paid", "reversed"]
    assert paid.total == 2 * EARNED
    assert book.owed(south) == EARNED


def test_a_reference_is_for_the_same_orchestrators(book: Book, south: Party) -> None:
    idle = book.open_party("idle").orchestrator_id
    north, other = book.party.orchestrator_id, south.orchestrator_id

    def pay(*only: UUID) -> payouts.Batch:
        with book.sessions.begin() as session:
            return payouts.create(session, "november", "USD", only)

    first = pay(north, idle)
    assert amounts(first) == {"north": (2 * EARNED, "created")}
    assert pay(idle, north) == first, "idle is owed nothing, as before"
    for others in ([other], [idle], [north, other]):
        with pytest.raises(ReferenceReused):
            pay(*others)
    assert book.owed(south) == EARNED
    book.prove()


def test_a_reference_at_once_for_others_pays_the_first(book: Book, south: Party) -> None:
    """Neither waits for the other's accounts: they meet where the reference is taken."""

    def pay(session: Session, party: Party) -> payouts.Batch:
        return payouts.create(session, "november", "USD", [party.orchestrator_id])

    def pay_later() -> payouts.Batch:
        with book.sessions.begin() as session:
            return pay(session, south)

    with ThreadPoolExecutor(1) as pool:
        with book.sessions.begin() as session:
            first = pay(session, book.party)
            second = pool.submit(pay_later)
            while not (second.done() or book.rows("SELECT 1 FROM pg_locks WHERE NOT granted")):
                time.sleep(0.01)
        assert isinstance(second.exception(), ReferenceReused)
    assert amounts(first) == {"north": (2 * EARNED, "created")}
    assert book.owed(south) == EARNED
    book.prove()


def test_some_are_paid(book: Book, south: Party) -> None:
    with book.sessions.begin() as session:
        due = payouts.owed(session)
        batch = payouts.create(session, "south", "USD", [south.orchestrator_id])
    assert [(one.orchestrator, one.amount) for one in due] == [
        ("north", 2 * EARNED),
        ("north-south", EARNED),
    ]
    assert amounts(batch) == {"north-south": (EARNED, "created")}
    with book.sessions.begin() as session:
        assert payouts.list_batches(session) == [batch]
    assert replace(batch, lines=()).total == 0


def test_a_payout_of_nothing_is_refused(book: Book) -> None:
    with pytest.raises(NothingOwed, match="USD"):
        book.pay_out("november")
    assert book.rows("SELECT 1 FROM payout_batches") == []


def test_a_refund_after_a_payout_lowers_the_next(book: Book) -> None:
    book.top_up("1")
    first = book.hold(IMAGE)
    book.capture({first: IMAGE})
    book.pay_out("november")
    book.refund(first, "0.01")
    assert book.owed() == Decimal("-0.009")
    with pytest.raises(NothingOwed):
        book.pay_out("december")
    book.capture({book.hold(IMAGE): IMAGE})
    assert amounts(book.pay_out("december")) == {"north": (EARNED - Decimal("0.009"), "created")}
    book.prove()


@pytest.mark.parametrize(
    ("reference", "currency", "error"),
    [
        ("", "USD", InvalidName),
        ("a\nb", "USD", InvalidName),
        ("a", "wei", InvalidAmount),
    ],
)
def test_what_cannot_be_a_payout(
    book: Book, reference: str, currency: str, error: type[LedgerError]
) -> None:
    with pytest.raises(error):
        book.pay_out(reference, currency)


def test_unknown_payouts(book: Book, south: Party) -> None:
    assert book.owed(south) == EARNED
    for what in ("pay", "reverse"):
        with pytest.raises(UnknownPayout):
            decide(book, "nothing", what)
    book.pay_out("november")
    with pytest.raises(UnknownPayout, match="november to nobody"):
        decide(book, "november", "reverse", "nobody")
    with book.sessions.begin() as session, pytest.raises(UnknownPayout):
        payouts.find(session, "a\x00b")


def test_a_payout_as_csv(book: Book, south: Party) -> None:
    assert book.owed(south) == EARNED
    sheet = payouts.to_csv(book.pay_out("=november"))
    rows = list(csv.DictReader(io.StringIO(sheet)))
    assert [(row["batch"], row["orchestrator"], row["amount"]) for row in rows] == [
        ("'=november", "north", str(2 * EARNED)),
        ("'=november", "north-south", str(EARNED)),
    ]
    assert rows[0]["state"] == "created"
    assert rows[0]["paid_at"] == ""
    paid = list(csv.DictReader(io.StringIO(payouts.to_csv(decide(book, "=november", "pay")))))
    assert paid[0]["paid_at"]


def test_two_payouts_at_once_do_not_pay_twice(book: Book, south: Party) -> None:
    def pay(number: int) -> payouts.Batch | None:
        try:
            return book.pay_out(f"payout {number % 4}")
        except NothingOwed:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = {batch.reference for batch in pool.map(pay, range(16)) if batch}
    assert len(made) == 1
    assert (book.owed(), book.owed(south)) == (Decimal(0), Decimal(0))
    book.prove()


def test_a_payment_and_a_reversal_at_once_are_one_after_the_other(book: Book, south: Party) -> None:
    assert book.owed(south) == EARNED
    for number in range(5):
        name = f"payout {number}"
        book.pay_out(name)
        with ThreadPoolExecutor(2) as pool:
            paying = pool.submit(decide, book, name, "pay")
            pool.submit(decide, book, name, "reverse").result()
        assert isinstance(paying.exception(), PayoutReversed | None)
        assert sum(book.trial_balance().values()) == 0
    assert book.owed() == 2 * EARNED
    book.prove()


RAW = """
    WITH batch AS (
        INSERT INTO payout_batches (reference, currency) VALUES ('raw', '{batch}') RETURNING id
    ), payout AS (
        INSERT INTO payouts (batch_id, orchestrator_id, currency, amount)
        SELECT id, :payee, 'USD', {amount} FROM batch RETURNING id, amount
    ), entry AS (
        INSERT INTO entries (kind, currency, payout_id)
        SELECT '{kind}', 'USD', id FROM payout {where} RETURNING id
    )
    INSERT INTO postings (entry_id, account_id, amount)
    SELECT entry.id, a.id, CASE a.kind WHEN '{taken}' THEN -payout.amount ELSE payout.amount END
      FROM entry, payout, accounts a
     WHERE a.currency = 'USD' AND (a.kind = '{given}' OR (a.kind = '{taken}'
           AND coalesce(a.orchestrator_id, :payee) = :payee))"""
DEFAULTS = {
    "batch": "USD",
    "amount": "0.001",
    "kind": "payout",
    "where": "",
    "taken": "payable",
    "given": "payouts",
}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"amount": "0"}, "ck_payouts_amount"),
        ({"amount": "-1"}, "ck_payouts_amount"),
        ({"amount": "'NaN'"}, "ck_payouts_amount"),
        ({"amount": "1"}, "payouts_owed"),
        ({"batch": "ETH"}, "payouts_own_currency"),
        ({"batch": "wei"}, "ck_payout_batches_currency"),
        ({"where": "WHERE false"}, "payouts_entered"),
        ({"given": "revenue"}, "postings_as_due"),
        ({"given": "funding"}, "postings_as_due"),
        ({"taken": "revenue", "given": "payouts"}, "postings_as_due"),
        ({"kind": "payout_paid"}, "payouts_entered"),
        ({"kind": "top_up"}, "ck_entries_about_a_payout"),
    ],
    ids=str,
)
def test_the_database_refuses_false_payouts(
    book: Book, south: Party, change: dict[str, str], name: str
) -> None:
    book.pay_out("november")  # so that there is a `payouts` account
    book.capture({book.hold(IMAGE, south): IMAGE})
    values = {"payee": south.orchestrator_id}
    assert _refused(book, RAW.format(**DEFAULTS | change), values) == name
    book.prove()
    book.execute(RAW.format(**DEFAULTS), **values)
    book.prove()


@pytest.mark.parametrize(
    ("reference", "name"),
    [("'empty'", "payout_batches_pay"), ("'a' || chr(10)", "ck_payout_batches_reference_prints")],
)
def test_the_database_refuses_false_batches(book: Book, reference: str, name: str) -> None:
    batch = f"INSERT INTO payout_batches (reference, currency) VALUES ({reference}, 'USD')"
    assert _refused(book, batch, {}) == name


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE payouts SET state = 'paid', paid_at = now()",
        "UPDATE payouts SET amount = 1",
        "UPDATE payout_batches SET reference = 'x'",
        "DELETE FROM payouts",
        "TRUNCATE payout_batches CASCADE",
    ],
)
def test_a_payout_is_not_edited(book: Book, south: Party, statement: str) -> None:
    assert book.owed(south) == EARNED
    book.pay_out("november")
    assert _refused(book, statement, {}) == "42501"


def _refused(book: Book, statement: str, values: dict[str, UUID]) -> str:
    with book.sessions.begin() as session, pytest.raises(DBAPIError) as refused:
        session.execute(text(statement), values)
    diag = getattr(refused.value.orig, "diag", None)
    return str(getattr(diag, "constraint_name", None) or getattr(refused.value.orig, "sqlstate", 0))
