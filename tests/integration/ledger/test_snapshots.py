"""Pins that a balance read from a snapshot and its tail is the sum of all postings, always."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger import accounts, holds, reports, snapshots
from tests.integration.ledger.helpers import Book

PAYABLE = "SELECT * FROM balance_snapshots WHERE account_id = 3"


def earn(book: Book, *units: int) -> None:
    for one in units:
        book.capture({book.hold(one): one})


def test_what_is_owed_is_a_snapshot_and_the_tail(book: Book) -> None:
    book.top_up("1")
    earn(book, 100, 200)
    whole = book.owed()
    assert book.take_snapshots(2) > 0
    [taken] = book.rows(PAYABLE)
    assert (taken.credit, taken.debit, taken.postings) == (whole, 0, 2)
    assert book.owed() == whole

    earn(book, 300)
    assert book.owed() == 2 * whole
    [later] = book.rows(PAYABLE)
    assert later == taken
    assert book.take_snapshots(1) > 0
    [later] = book.rows(PAYABLE)
    assert (later.credit, later.postings) == (2 * whole, 3)
    assert sum(book.trial_balance().values()) == 0
    book.prove()


def test_accounts_with_a_short_tail_are_left_alone(book: Book) -> None:
    book.top_up("1")
    earn(book, 100)
    assert book.take_snapshots(1000) == 0
    assert book.take_snapshots(1) > 0
    assert book.take_snapshots(1) == 0


def test_a_transaction_that_commits_late_is_not_lost(book: Book) -> None:
    """It posted first, and commits when a snapshot has been taken of what came after it."""
    other = replace(book.party, gateway_id=book.open_party("other").gateway_id)
    book.top_up("1")
    book.top_up("1", other)
    earn(book, 1)
    early, late = book.hold(100), book.hold(50, other)
    with book.sessions() as session:
        holds.capture(session, {early: 100})
        book.capture({late: 50})
        book.take_snapshots()
        session.commit()
    earn(book, 1)
    assert book.owed() == Decimal(152) * Decimal("1.71661356e-08")
    book.take_snapshots()
    assert book.owed() == Decimal(152) * Decimal("1.71661356e-08")
    book.prove()


def test_readers_see_one_moment(book: Book) -> None:
    """A snapshot that is taken while a reader is at work does not count anything twice."""
    book.top_up("1")
    earn(book, 100)
    with book.sessions() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        before = accounts.owed(session, book.party.orchestrator_id)
        earn(book, 100)
        book.take_snapshots()
        assert accounts.owed(session, book.party.orchestrator_id) == before
    assert book.owed() == 2 * before


def test_snapshots_beside_captures_never_miss_or_double(book: Book) -> None:
    book.top_up("10")
    dice = random.Random(7)
    jobs = [book.hold(dice.randint(1, 1000)) for _ in range(60)]
    with ThreadPoolExecutor(8) as pool:
        capturing = [pool.submit(book.capture, {job: 1}) for job in jobs]
        taking = [pool.submit(book.take_snapshots) for _ in range(20)]
        assert [len(one.result()) for one in capturing] == [1] * 60
        for one in taking:
            one.result()
    assert book.owed() == 60 * Decimal("1.71661356e-08")
    book.prove()


def test_snapshots_of_another_server_are_passed_over(book: Book) -> None:
    """As after a dump was restored on a server with fewer transactions behind it."""
    book.top_up("1")
    earn(book, 100)
    book.take_snapshots()
    whole = book.owed()
    book.execute("UPDATE balance_snapshots SET horizon = 1000000000000, credit = 7")
    assert book.owed() == whole
    assert sum(book.trial_balance().values()) == 0
    book.prove()
    book.take_snapshots()
    [taken] = book.rows(PAYABLE)
    assert taken.credit == whole
    book.prove()


def test_only_snapshots_of_another_server_are_dropped(book: Book) -> None:
    book.top_up("1")
    earn(book, 100)
    book.take_snapshots()
    [mine, other, *_] = book.rows("SELECT account_id FROM balance_snapshots")
    book.execute(
        "UPDATE balance_snapshots SET horizon = 1000000000000 WHERE account_id = :id",
        id=other.account_id,
    )
    with book.sessions.begin() as session:
        snapshots.drop_unreached(session)
    kept = {row.account_id for row in book.rows("SELECT account_id FROM balance_snapshots")}
    assert mine.account_id in kept
    assert other.account_id not in kept


def test_a_posting_names_its_own_transaction(book: Book) -> None:
    book.top_up("1")
    with book.sessions.begin() as session, pytest.raises(DBAPIError, match="transaction"):
        session.execute(
            text("INSERT INTO postings (entry_id, account_id, amount, xid) VALUES (1, 1, 1, 1)")
        )


def test_a_statement_is_paged_newest_first(book: Book) -> None:
    for amount in range(1, 6):
        book.top_up(str(amount))
    seen: list[Decimal] = []
    before = None
    with book.sessions.begin() as session:
        gateway = book.party.gateway_id
        while page := reports.statement(session, gateway, before=before, limit=2):
            seen += [row["amount"] for row in page]
            before = page[-1]["posting_id"]
    assert seen == [5, 4, 3, 2, 1]


def test_no_movement_is_on_two_pages_or_on_none_while_others_are_written(book: Book) -> None:
    """A transaction that began before all of the first page writes to the account after it."""
    gateway, other = book.party.gateway_id, book.open_party("other").gateway_id
    for amount in (1, 2, 3):
        book.top_up(str(amount))
    with book.sessions() as late:
        accounts.top_up(late, other, Decimal(1), "another's")
        for amount in (5, 6):
            book.top_up(str(amount))
        with book.sessions() as reader:
            first = reports.statement(reader, gateway, limit=2)
        accounts.top_up(late, gateway, Decimal(4), "late")
        late.commit()
        book.top_up("7")
        with book.sessions() as reader:
            before = first[-1]["posting_id"]
            second = reports.statement(reader, gateway, before=before, limit=10)
    assert [row["amount"] for row in (*first, *second)] == [6, 5, 4, 3, 2, 1]


def test_taking_with_the_default_tail(book: Book) -> None:
    with book.sessions.begin() as session:
        assert snapshots.take(session) == 0
