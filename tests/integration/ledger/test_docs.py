"""Pins that docs/reference/ledger.md is true: its views, column by column, and its checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from tests.integration.ledger.helpers import DEFENCELESS, Book, new_book

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "ledger.md").read_text()
VIEWS = re.findall(r"### `(\w+)`\n(.*?)(?=\n##)", PAGE, re.DOTALL)
CHECKS = re.findall(r"([^\n]+\?)\n\n```sql\n(.*?)```", PAGE, re.DOTALL)
ACCOUNTS = re.findall(r"^\| `(\w+)` \|", PAGE.split("## ")[2], re.MULTILINE)
ENTRIES = re.findall(r"^\| `(\w+)` \|", PAGE.split("## ")[3], re.MULTILINE)


@pytest.fixture(scope="module")
def busy(shared_sessions: sessionmaker[Session]) -> Book:
    """Books with one of everything."""
    book = new_book(shared_sessions)
    book.do_one_of_everything()
    return book


def test_views_are_documented_column_by_column(busy: Book) -> None:
    rows = busy.rows("""
        SELECT c.table_name AS view,
               array_agg(c.column_name::text ORDER BY c.ordinal_position) AS columns
          FROM information_schema.columns c JOIN information_schema.views v USING (table_name)
         WHERE v.table_schema = 'public' GROUP BY c.table_name""")
    documented = {name: re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE) for name, body in VIEWS}
    assert {row.view: row.columns for row in rows} == documented


def test_accounts_and_entries_are_documented(busy: Book) -> None:
    posted = {row.kind for row in busy.rows("SELECT DISTINCT kind FROM accounts")}
    assert posted == set(ACCOUNTS)
    [check] = busy.rows(
        "SELECT pg_get_constraintdef(oid) AS body FROM pg_constraint WHERE conname = :name",
        name="ck_entries_kind",
    )
    kinds = re.findall(r"'(\w+)'", check.body)
    assert kinds == ENTRIES


def test_the_checks_find_nothing_on_sound_books(busy: Book) -> None:
    assert len(CHECKS) == 14
    for question, query in CHECKS:
        assert busy.rows(query.replace(":", r"\:")) == [], question


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (
            "UPDATE postings SET amount = amount * 2 WHERE id = 2",
            ["every entry add up", "every currency add up", "kept balance"],
        ),
        ("DELETE FROM postings WHERE entry_id = 1", ["its lines", "kept balance"]),
        ("UPDATE entries SET currency = 'ETH' WHERE id = 1", ["its lines"]),
        ("UPDATE accounts SET balance = balance + 1 WHERE kind = 'available'", ["kept balance"]),
        (
            """UPDATE postings SET amount = amount + 1 FROM accounts a
                WHERE a.id = account_id AND a.kind = 'held'""",
            ["every entry add up", "on hold"],
        ),
        (
            "UPDATE holds SET state = 'voided', resolved_at = now() WHERE state = 'open'",
            ["on hold", "in the state"],
        ),
        (
            "UPDATE holds SET state = 'open', resolved_at = NULL WHERE state = 'voided'",
            ["on hold", "in the state"],
        ),
        (
            """UPDATE holds SET supersedes = (SELECT id FROM holds WHERE state = 'open' LIMIT 1)
                WHERE state = 'voided'""",
            ["took the place of another"],
        ),
        ("UPDATE holds SET reference = 'one', supersedes = id", ["one hold at most"]),
        ("DELETE FROM charges", ["in the state", "owed"]),
        ("UPDATE charges SET units = units + 1", ["its units cost"]),
        (
            "UPDATE holds SET limit_price_per_unit = 1e-9, limit_pixels_per_unit = 1",
            ["its units cost"],
        ),
        ("UPDATE charges SET platform_fee = 0", ["its units cost"]),
        ("UPDATE balance_snapshots SET credit = 7", ["every snapshot"]),
        ("UPDATE charges SET refunded = 0", ["sum of the refunds"]),
        ("DELETE FROM refunds", ["sum of the refunds", "owed"]),
        (
            """UPDATE charges SET orchestrator_payment = orchestrator_payment - 1e-9,
                                  platform_fee = platform_fee + 1e-9""",
            ["owed"],
        ),
        ("UPDATE charges SET model_id = 'acme/other'", ["hold agreed to"]),
        (
            "UPDATE payouts SET amount = amount * 2 WHERE state = 'reversed'",
            ["every entry post what"],
        ),
    ],
)
def test_the_checks_find_what_the_owner_of_the_tables_did(
    busy: Book, fault: str, found: list[str]
) -> None:
    with busy.sessions() as session:
        # The owner can: no trigger and no constraint is in the way now.
        session.execute(text(DEFENCELESS))
        session.execute(text(fault))
        faulty = [
            question
            for question, query in CHECKS
            if session.execute(text(query.replace(":", r"\:"))).all()
        ]
        session.rollback()
    for words in found:
        assert any(words in question for question in faulty), (words, faulty)
    assert len(faulty) >= len(found)


def test_a_fault_is_refused_while_the_defences_stand(busy: Book) -> None:
    with busy.sessions() as session, pytest.raises(DBAPIError):
        session.execute(text("DELETE FROM refunds"))
