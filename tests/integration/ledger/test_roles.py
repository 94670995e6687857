"""Pins what the two roles may do: the application no more than it needs, reports only the views."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors, sql
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from ledger.db import make_engine
from tests.integration.ledger.helpers import Book, new_book

BOOKS = (
    *("accounts", "holds", "entries", "postings", "charges", "refunds", "offers"),
    *("exchange_rates", "payouts", "payout_batches", "refusals", "limit_warnings"),
    *("budget_usage", "balance_snapshots", "alembic_version"),
)


@pytest.fixture(scope="module")
def book(shared_sessions: sessionmaker[Session]) -> Book:
    return new_book(shared_sessions)


@pytest.fixture(scope="module")
def as_role(book: Book) -> Iterator[dict[str, Engine]]:
    """An engine for a user of each role."""
    engines = {}
    for role in ("pixeltoll_app", "pixeltoll_reports"):
        user = f"user_of_{role}"
        book.execute(f"DROP ROLE IF EXISTS {user}")
        book.execute(f"CREATE ROLE {user} LOGIN IN ROLE {role}")
        engines[role] = create_engine(book.sessions.kw["bind"].url.set(username=user))
    yield engines
    for engine in engines.values():
        engine.dispose()


def relations(book: Book, kind: str) -> set[str]:
    rows = book.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relkind = :kind",
        kind=kind,
    )
    return {row.relname for row in rows}


def rights(book: Book, role: str, relation: str) -> set[str]:
    kinds = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
    return {
        kind
        for kind in kinds
        for row in book.rows(
            "SELECT has_table_privilege(:role, CAST(:relation AS regclass), :kind) AS yes",
            role=role,
            relation=relation,
            kind=kind,
        )
        if row.yes
    }


def test_reports_may_select_the_views_and_nothing_else(book: Book) -> None:
    for view in relations(book, "v"):
        assert rights(book, "pixeltoll_reports", view) == {"SELECT"}, view
    for table in relations(book, "r"):
        assert rights(book, "pixeltoll_reports", table) == set(), table


def test_reports_reads_every_view(book: Book, as_role: dict[str, Engine]) -> None:
    with as_role["pixeltoll_reports"].connect() as connection:
        for view in relations(book, "v"):
            connection.execute(text(f"SELECT * FROM {view}"))


def test_the_application_adds_to_the_books_and_changes_nothing(book: Book) -> None:
    for table in BOOKS:
        assert rights(book, "pixeltoll_app", table) <= {"SELECT", "INSERT"}, table
    for table in relations(book, "r"):
        assert not rights(book, "pixeltoll_app", table) & {"TRUNCATE", "TRIGGER"}, table
    for view in relations(book, "v"):
        assert rights(book, "pixeltoll_app", view) == {"SELECT"}, view


def test_of_the_books_the_application_may_lock_rows_and_update_no_column(book: Book) -> None:
    columns = book.rows(
        """SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
            WHERE relname = ANY(:books) AND attnum > 0 AND NOT attisdropped
              AND has_column_privilege('pixeltoll_app', pg_class.oid, attnum, 'UPDATE')""",
        books=list(BOOKS),
    )
    assert {column for _, column in columns} == {"created_at"}, "which a trigger keeps as it is"


def test_nobody_calls_the_functions_of_the_books(book: Book) -> None:
    query = """SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
                  AND has_function_privilege(:role, oid, 'EXECUTE')"""
    assert book.rows(query, role="pixeltoll_reports") == []
    may = {row.proname for row in book.rows(query, role="pixeltoll_app")}
    assert may == {"ledger_take_snapshots", "ledger_capture"}, "which need no more than its rights"


@pytest.mark.parametrize("role", ["pixeltoll_app", "pixeltoll_reports"])
def test_no_balance_is_moved_by_postings_to_a_table_of_ones_own(
    book: Book, as_role: dict[str, Engine], role: str
) -> None:
    before = book.balance()
    with as_role[role].connect() as connection:
        connection.execute(text("CREATE TEMP TABLE forged (account_id bigint, amount numeric)"))
        with pytest.raises(DBAPIError, match="permission denied for function"):
            connection.execute(
                text(
                    """CREATE TRIGGER move AFTER INSERT ON forged REFERENCING NEW TABLE
                       AS new_postings EXECUTE FUNCTION ledger_move_balances()"""
                )
            )
    assert book.balance() == before


def test_the_application_does_its_work_with_its_role(
    book: Book, as_role: dict[str, Engine]
) -> None:
    engine = make_engine(as_role["pixeltoll_app"].url.render_as_string(hide_password=False))
    try:
        working = new_book(sessionmaker(engine, expire_on_commit=False), "working")
        working.top_up("10")
        captured, voided, expired = (working.hold(1000) for _ in range(3))
        working.capture({captured: 600})
        working.refund(captured, "0.000001")
        working.void(voided)
        working.expire(expired)
        working.prove()
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE postings DISABLE TRIGGER ALL"],
        ["DROP TRIGGER check_postings ON postings"],
        ["SET session_replication_role = replica"],
        ["ALTER TABLE accounts DROP CONSTRAINT ck_accounts_balance_not_negative"],
        ["CREATE OR REPLACE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE sql AS 'SELECT 1'"],
        ["CREATE TRIGGER mine BEFORE INSERT ON postings EXECUTE FUNCTION ledger_refuse()"],
        ["SET ROLE pixeltoll"],
        [
            # A trigger of one's own is where the books' triggers do not mind an update.
            "CREATE TEMP TABLE door (id int)",
            """CREATE FUNCTION pg_temp.enter() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN UPDATE accounts SET balance = 10 WHERE balance IS NOT NULL; RETURN NULL; END
               $$""",
            """CREATE TRIGGER enter AFTER INSERT ON door
               FOR EACH ROW EXECUTE FUNCTION pg_temp.enter()""",
            "INSERT INTO door VALUES (1)",
        ],
        [
            "CREATE TEMP TABLE door (id int)",
            """CREATE FUNCTION pg_temp.enter() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN UPDATE accounts SET created_at = now(); RETURN NULL; END $$""",
            """CREATE TRIGGER enter AFTER INSERT ON door
               FOR EACH ROW EXECUTE FUNCTION pg_temp.enter()""",
            "INSERT INTO door VALUES (1)",
        ],
    ],
)
def test_the_application_cannot_switch_the_rules_off(
    as_role: dict[str, Engine], statements: list[str]
) -> None:
    url = as_role["pixeltoll_app"].url.set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        for statement in statements[:-1]:
            connection.execute(sql.SQL(statement))
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(sql.SQL(statements[-1]))
