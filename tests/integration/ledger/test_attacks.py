"""Pins that the database refuses every false entry: raw SQL, with real commits.

The attacks come from a user with the application's role, and share one set of books. After each,
every row of it is what it was before.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from ledger.limits import Limit
from ledger.money import unit_price
from tests.integration.ledger.helpers import Book, new_book

UNITS = 131072
LIMIT = Limit(None, None, unit_price("2e-08"))
TABLES = [
    "gateways",
    "orchestrators",
    "accounts",
    "offers",
    "holds",
    "entries",
    "postings",
    "charges",
    "refunds",
]
# What a trigger that refuses a statement answers with, instead of a constraint's name.
REFUSED = errors.InsufficientPrivilege.sqlstate

AVAILABLE = "(SELECT id FROM accounts WHERE gateway_id = :north AND kind = 'available')"
HELD = "(SELECT id FROM accounts WHERE gateway_id = :north AND kind = 'held')"
SOUTH = "(SELECT id FROM accounts WHERE gateway_id = :south AND kind = 'available')"
ETHER = "(SELECT id FROM accounts WHERE gateway_id = :ether AND kind = 'available')"
FUNDING = "(SELECT id FROM accounts WHERE kind = 'funding' AND currency = 'USD')"
REVENUE = "(SELECT id FROM accounts WHERE kind = 'revenue' AND currency = 'USD')"
PAYABLE = "(SELECT id FROM accounts WHERE orchestrator_id = :payee AND kind = 'payable')"
OTHER_PAYABLE = "(SELECT id FROM accounts WHERE orchestrator_id = :other AND kind = 'payable')"


@pytest.fixture(scope="module")
def book(shared_sessions: sessionmaker[Session]) -> Book:
    return new_book(shared_sessions)


@pytest.fixture(scope="module")
def facts(book: Book) -> dict[str, object]:
    """Books with a hold of each kind, a charge that is refunded in part, and two more parties."""
    south = book.open_party("south")
    ether = book.open_party("ether", currency="ETH", price="0.000000000005")
    book.top_up("10")
    book.top_up("5", south)
    book.top_up("5", ether)
    open_hold = book.hold(UNITS, limit=LIMIT)
    captured, voided, expired = (book.hold(UNITS) for _ in range(3))
    book.capture({captured: UNITS})
    book.refund(captured, "0.001")
    book.void(voided)
    book.expire(expired)
    return {
        "north": book.party.gateway_id,
        "payee": book.party.orchestrator_id,
        "offer": book.party.offer.id,
        "south": south.gateway_id,
        "other": south.orchestrator_id,
        "ether": ether.gateway_id,
        "open": open_hold,
        "captured": captured,
        "voided": voided,
        "expired": expired,
    }


@pytest.fixture(scope="module")
def engine(book: Book) -> Iterator[Engine]:
    """Connections of a user with the application's role, without our driver's settings."""
    engine = create_engine(book.sessions.kw["bind"].url.set(username="attacker"))
    book.execute("DROP ROLE IF EXISTS attacker")
    book.execute("CREATE ROLE attacker LOGIN IN ROLE pixeltoll_app")
    yield engine
    engine.dispose()


def everything(book: Book) -> list[object]:
    """Every row of the books, as text."""
    rows = (f"SELECT '{table}' AS home, {table}::text AS row FROM {table}" for table in TABLES)
    return book.rows(" UNION ALL ".join(rows) + " ORDER BY home, row")


def attack(engine: Engine, facts: dict[str, object], *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement), facts)


def refused(engine: Engine, book: Book, facts: dict[str, object], *statements: str) -> str:
    """Commit an attack, and return the name of what refused it; nothing may have changed."""
    before = everything(book)
    with pytest.raises(DBAPIError) as error:
        attack(engine, facts, *statements)
    assert everything(book) == before
    assert isinstance(error.value.orig, psycopg.Error)
    return error.value.orig.diag.constraint_name or error.value.orig.sqlstate or ""


# --- what is written stays as it is --------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET kind = 'void' WHERE kind = 'capture'",
        "UPDATE entries SET created_at = created_at - interval '1 month'",
        "UPDATE postings SET amount = amount * 2",
        "UPDATE postings SET account_id = account_id + 1 WHERE id = 1",
        "UPDATE charges SET model_id = 'acme/other'",
        "UPDATE charges SET refunded = 0",
        "UPDATE refunds SET amount = amount / 2",
        "UPDATE offers SET price_per_unit = price_per_unit * 2",
        "UPDATE offers SET warm = true, capacity = 100",
        "UPDATE accounts SET balance = balance + 1 WHERE gateway_id = :north",
        "UPDATE accounts SET gateway_id = :south WHERE gateway_id = :north AND kind = 'held'",
        "UPDATE holds SET state = 'open', resolved_at = NULL WHERE id = :captured",
        "UPDATE holds SET state = 'voided', resolved_at = now() WHERE id = :open",
        "UPDATE holds SET amount = amount / 2 WHERE id = :open",
        "UPDATE holds SET limit_price_per_unit = NULL, limit_pixels_per_unit = NULL",
        """INSERT INTO entries (kind, reference, currency)
           VALUES ('top_up', 'top-up:top-up 1 of north', 'USD')
           ON CONFLICT (reference) DO UPDATE SET currency = 'ETH'""",
        """MERGE INTO postings USING entries ON entries.id = postings.entry_id
           WHEN MATCHED THEN UPDATE SET amount = -postings.amount""",
    ],
)
def test_nothing_is_edited(
    engine: Engine, book: Book, facts: dict[str, object], statement: str
) -> None:
    assert refused(engine, book, facts, statement) == REFUSED


@pytest.mark.parametrize("table", TABLES)
def test_nothing_is_deleted(
    engine: Engine, book: Book, facts: dict[str, object], table: str
) -> None:
    assert refused(engine, book, facts, f"DELETE FROM {table}") == REFUSED


@pytest.mark.parametrize("table", TABLES)
def test_nothing_is_emptied(
    engine: Engine, book: Book, facts: dict[str, object], table: str
) -> None:
    assert refused(engine, book, facts, f"TRUNCATE {table} CASCADE") == REFUSED


@pytest.mark.parametrize(
    "statement",
    [
        """INSERT INTO accounts (kind, gateway_id, currency, balance)
           SELECT 'available', id, 'USD', 1000000 FROM fresh""",
        """INSERT INTO holds (reference, gateway_id, orchestrator_id, offer_id, pipeline, model_id,
                              units, price_per_unit, pixels_per_unit, fee_rate, currency, amount,
                              expires_at, state, resolved_at)
           SELECT 'new', gateway_id, orchestrator_id, offer_id, pipeline, model_id,
                  units, price_per_unit, pixels_per_unit, fee_rate, currency, amount,
                  expires_at, 'captured', now() FROM holds WHERE id = :open""",
    ],
    ids=["a balance", "a state"],
)
def test_nothing_is_born_with_what_only_the_database_writes(
    engine: Engine, book: Book, facts: dict[str, object], statement: str
) -> None:
    fresh = "WITH fresh AS (INSERT INTO gateways (name) VALUES ('fresh') RETURNING id) "
    assert refused(engine, book, facts, fresh + statement) == REFUSED


# --- entries and their lines ---------------------------------------------------------------------


def entry(kind: str, *lines: tuple[str, str], currency: str = "USD") -> str:
    """One statement that writes an entry and its lines, as the journal does."""
    values = ", ".join(f"({account}, CAST({amount} AS numeric))" for account, amount in lines)
    return f"""
        WITH entry AS (
            INSERT INTO entries (kind, reference, currency) VALUES ('{kind}', 'new', '{currency}')
            RETURNING id
        )
        INSERT INTO postings (entry_id, account_id, amount)
        SELECT entry.id, line.* FROM entry, (VALUES {values}) AS line"""


TOP_UP = entry("top_up", (FUNDING, "-1"), (AVAILABLE, "1"))
NEWEST = "(SELECT max(id) FROM entries)"
A_LINE = "INSERT INTO postings (entry_id, account_id, amount) VALUES "


@pytest.mark.parametrize(
    ("statements", "name"),
    [
        pytest.param(
            [entry("top_up", (AVAILABLE, "100"))], "postings_balance", id="an entry of one side"
        ),
        pytest.param(
            [entry("top_up", (FUNDING, "-1"), (AVAILABLE, "1.000000000000000001"))],
            "postings_balance",
            id="an entry that is off by one quantum",
        ),
        pytest.param(
            [entry("top_up", (FUNDING, "'NaN'"), (AVAILABLE, "'NaN'"))],
            "postings_balance",
            id="an entry of no numbers",
        ),
        pytest.param(
            [entry("top_up", (FUNDING, "0"), (AVAILABLE, "0"))],
            "ck_postings_amount_not_zero",
            id="an entry of nothing",
        ),
        pytest.param(
            ["INSERT INTO entries (kind, reference, currency) VALUES ('top_up', 'new', 'USD')"],
            "entries_posted",
            id="an entry with no postings",
        ),
        pytest.param(
            ["SET CONSTRAINTS ALL DEFERRED", entry("top_up", (AVAILABLE, "100"))],
            "postings_balance",
            id="an entry of one side, for later",
        ),
        pytest.param(
            [
                "INSERT INTO entries (kind, reference, currency) VALUES ('top_up', 'new', 'USD')",
                f"{A_LINE} ({NEWEST}, {FUNDING}, -1), ({NEWEST}, {AVAILABLE}, 1)",
            ],
            "entries_posted",
            id="an entry whose postings come in a second statement",
        ),
        pytest.param(
            [f"{A_LINE} (1, {FUNDING}, -1), (1, {SOUTH}, 1)"],
            "uq_postings_entry_id_account_id",
            id="another line for an account of an old entry",
        ),
        pytest.param(
            [f"{A_LINE} (2, {AVAILABLE}, -1), (2, {HELD}, 1)"],
            "postings_at_once",
            id="balanced postings added to an old entry",
        ),
        pytest.param(
            [TOP_UP, f"{A_LINE} ({NEWEST}, {SOUTH}, 1)"],
            "postings_at_once",
            id="a posting added to an entry of the same transaction",
        ),
        pytest.param(
            [f"{A_LINE} (999999, {FUNDING}, -1), (999999, {AVAILABLE}, 1)"],
            "postings_at_once",
            id="postings of no entry",
        ),
        pytest.param(
            [entry("top_up", (FUNDING, "-1"), ("999999", "1"))],
            "postings_own_currency",
            id="postings to no account",
        ),
        pytest.param(
            [entry("top_up", (FUNDING, "-1"), (ETHER, "1"))],
            "postings_own_currency",
            id="two currencies in one entry",
        ),
        pytest.param(
            [entry("top_up", (FUNDING, "-1"), (AVAILABLE, "1"), currency="ETH")],
            "postings_own_currency",
            id="an entry in a currency that is not its accounts'",
        ),
        pytest.param(
            [entry("top_up", (FUNDING, "1"), (AVAILABLE, "-1"))],
            "postings_as_due",
            id="a top-up that takes",
        ),
        pytest.param(
            [entry("top_up", (AVAILABLE, "-1"), (SOUTH, "1"))],
            "postings_as_due",
            id="a top-up from another gateway",
        ),
        pytest.param(
            [entry("top_up", (FUNDING, "-1"), (HELD, "1"))],
            "postings_as_due",
            id="a top-up of held funds",
        ),
        pytest.param(
            [entry("refund", (PAYABLE, "-0.0001"), (AVAILABLE, "0.0001"))],
            "postings_as_due",
            id="a refund of no charge",
        ),
        pytest.param(
            [entry("gift", (PAYABLE, "-1"), (REVENUE, "1"))],
            "ck_entries_kind",
            id="an unknown kind of entry",
        ),
        pytest.param(
            [entry("capture", (HELD, "-0.001"), (PAYABLE, "0.001"))],
            "ck_entries_about_a_hold",
            id="a capture of no hold",
        ),
        pytest.param(
            [TOP_UP.replace("'new'", "'top-up:top-up 1 of north'")],
            "uq_entries_reference",
            id="a reference used before",
        ),
        pytest.param(
            [
                TOP_UP.replace("currency)", "currency, created_at)").replace(
                    "'USD')", "'USD', now() - interval '1 month')", 1
                )
            ],
            REFUSED,
            id="an entry dated back",
        ),
        pytest.param(
            [
                TOP_UP.replace(
                    ")\n        INSERT INTO postings",
                    f"""), hidden AS (
                        INSERT INTO postings (entry_id, account_id, amount)
                        SELECT entry.id, {SOUTH}, 7 FROM entry
                    )
                    INSERT INTO postings""",
                )
            ],
            "postings_balance",
            id="a false line hidden in the same statement",
        ),
        pytest.param(
            [
                f"""MERGE INTO postings USING (VALUES (1)) AS one (n) ON false
                     WHEN NOT MATCHED THEN INSERT (entry_id, account_id, amount)
                                           VALUES (1, {SOUTH}, 1)"""
            ],
            "postings_at_once",
            id="a posting merged in",
        ),
        pytest.param(
            [
                """CREATE TEMP TABLE entries AS SELECT 999999::bigint AS id, 'top_up' AS kind,
                                                       'USD' AS currency, NULL::uuid AS hold_id""",
                f"{A_LINE} (999999, {FUNDING}, -7), (999999, {AVAILABLE}, 7)",
            ],
            "postings_at_once",
            id="a temporary table in the name of a real one",
        ),
    ],
)
def test_an_entry_is_whole_or_refused(
    engine: Engine, book: Book, facts: dict[str, object], statements: list[str], name: str
) -> None:
    assert refused(engine, book, facts, *statements) == name


def test_a_posting_cannot_be_copied_in(
    engine: Engine, book: Book, facts: dict[str, object]
) -> None:
    before = everything(book)
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with (
        psycopg.connect(url) as connection,
        pytest.raises(errors.CheckViolation, match="cannot be added later"),
        connection.cursor().copy("COPY postings (entry_id, account_id, amount) FROM STDIN") as copy,
    ):
        copy.write_row((1, 2, 100))
    assert everything(book) == before


# --- holds, and what resolves them ---------------------------------------------------------------

HOLD_COLUMNS = {
    "reference": "'new'",
    "supersedes": "NULL",
    "gateway_id": "gateway_id",
    "orchestrator_id": "orchestrator_id",
    "offer_id": "offer_id",
    "pipeline": "pipeline",
    "model_id": "model_id",
    "units": "units",
    "price_per_unit": "price_per_unit",
    "pixels_per_unit": "pixels_per_unit",
    "limit_price_per_unit": "limit_price_per_unit",
    "limit_pixels_per_unit": "limit_pixels_per_unit",
    "fee_rate": "fee_rate",
    "currency": "currency",
    "amount": "amount",
    "expires_at": "expires_at",
}


def hold(reserved: str = "amount", **changes: str) -> str:
    """One statement that holds funds as the open hold did, but for the changes."""
    columns = HOLD_COLUMNS | changes
    return f"""
        WITH hold AS (
            INSERT INTO holds ({", ".join(columns)})
            SELECT {", ".join(columns.values())} FROM holds WHERE id = :open RETURNING *
        ), entry AS (
            INSERT INTO entries (kind, currency, hold_id) SELECT 'hold', currency, id FROM hold
            RETURNING id
        )
        INSERT INTO postings (entry_id, account_id, amount)
        SELECT entry.id, line.* FROM hold, entry,
               LATERAL (VALUES ({AVAILABLE}, -({reserved})), ({HELD}, {reserved})) AS line"""


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        pytest.param(hold("amount / 2"), "postings_as_due", id="less reserved than held"),
        pytest.param(hold("amount * 2"), "postings_as_due", id="more reserved than held"),
        pytest.param(
            hold(amount="amount + 0.000000000000000001"),
            "ck_holds_amount_exact",
            id="a sum too high",
        ),
        pytest.param(
            hold(amount="amount - 0.000000000000000001"),
            "ck_holds_amount_exact",
            id="a sum too low",
        ),
        pytest.param(hold(amount="'NaN'"), "ck_holds_amount_exact", id="a sum that is no number"),
        pytest.param(hold(units="0", amount="0"), "ck_holds_units", id="no units"),
        pytest.param(
            hold(price_per_unit="price_per_unit / 2", amount="amount / 2"),
            "holds_as_offered",
            id="a price that nobody offers",
        ),
        pytest.param(
            hold(orchestrator_id=":other"), "holds_as_offered", id="another orchestrator's offer"
        ),
        pytest.param(hold(model_id="'acme/other'"), "holds_as_offered", id="another model's offer"),
        pytest.param(hold(currency="'ETH'"), "holds_as_offered", id="another currency"),
        pytest.param(
            hold(limit_price_per_unit="price_per_unit / 2"),
            "ck_holds_within_limit",
            id="a price above the limit",
        ),
        pytest.param(
            hold(limit_price_per_unit="'NaN'"),
            "ck_holds_limit_is_a_number",
            id="a limit that is no number",
        ),
        pytest.param(
            hold(limit_pixels_per_unit="NULL"), "ck_holds_limit_whole", id="half of a limit"
        ),
        pytest.param(hold(fee_rate="1.1"), "ck_holds_fee_rate", id="a fee above the charge"),
        pytest.param(hold(gateway_id=":south"), "postings_as_due", id="funds of another gateway"),
        pytest.param(
            hold(units="units * 10000", amount="amount * 10000"),
            "ck_accounts_balance_not_negative",
            id="a gateway below zero",
        ),
        pytest.param(
            hold(reference="reference"), "uq_holds_reference", id="a second hold for a job"
        ),
        pytest.param(
            f"INSERT INTO holds ({', '.join(HOLD_COLUMNS)})"
            f" SELECT {', '.join(HOLD_COLUMNS.values())} FROM holds WHERE id = :open",
            "holds_entered",
            id="a hold that reserves nothing",
        ),
    ],
)
def test_a_hold_is_funded_and_as_offered(
    engine: Engine, book: Book, facts: dict[str, object], statement: str, name: str
) -> None:
    assert refused(engine, book, facts, statement) == name


def instead(old: str = ":open", resolution: str = "void", **changes: str) -> str:
    """One statement that puts another hold in the place of one, which it resolves."""
    columns = HOLD_COLUMNS | {"reference": "reference", "supersedes": "id"} | changes
    resolved = f"SELECT '{resolution}', currency, id FROM old UNION ALL " if resolution else ""
    return f"""
        WITH old AS (
            SELECT * FROM holds WHERE id = {old}
        ), hold AS (
            INSERT INTO holds ({", ".join(columns)})
            SELECT {", ".join(columns.values())} FROM old RETURNING *
        ), entry AS (
            INSERT INTO entries (kind, currency, hold_id)
            {resolved}SELECT 'hold', currency, id FROM hold
            RETURNING id, kind
        )
        INSERT INTO postings (entry_id, account_id, amount)
        SELECT entry.id, line.* FROM old, hold, entry,
               LATERAL (VALUES (CASE kind WHEN 'hold' THEN hold.amount ELSE -old.amount END))
                       AS x (y),
               LATERAL (VALUES ({AVAILABLE}, -y), ({HELD}, y)) AS line"""


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        (instead(reference="'new'"), "holds_superseded_alike"),
        (instead(units="units * 2", amount="amount * 2"), "holds_superseded_alike"),
        (
            instead(limit_price_per_unit="NULL", limit_pixels_per_unit="NULL"),
            "holds_superseded_alike",
        ),
        (instead(expires_at="expires_at + interval '1 day'"), "holds_superseded_alike"),
        (instead(gateway_id=":south"), "holds_superseded_alike"),
        (instead(resolution=""), "holds_superseded_voided"),
        (instead(resolution="expire"), "holds_superseded_voided"),
        (instead(old=":captured", resolution=""), "holds_superseded_voided"),
        (instead(old=":captured"), "uq_entries_hold_resolution"),
        (instead(supersedes="gen_random_uuid()"), "fk_holds_supersedes_holds"),
        (instead(supersedes="NULL"), "uq_holds_reference"),
    ],
    ids=[
        "another job",
        "more units",
        "without the limit",
        "for longer",
        "of another gateway",
        "not voided",
        "expired",
        "captured",
        "captured, and then voided",
        "of no hold",
        "without saying so",
    ],
)
def test_a_hold_takes_the_place_of_one_that_is_given_back(
    engine: Engine, book: Book, facts: dict[str, object], statement: str, name: str
) -> None:
    assert refused(engine, book, facts, statement) == name


def test_a_hold_is_superseded_once(engine: Engine, book: Book, facts: dict[str, object]) -> None:
    again = instead(old="(SELECT id FROM holds WHERE id = :open)", resolution="")
    assert refused(engine, book, facts, instead(), again) == "uq_holds_supersedes"


CHARGE_COLUMNS = {
    "hold_id": "hold.id",
    "entry_id": "entry.id",
    "reference": "hold.reference",
    "gateway_id": "hold.gateway_id",
    "orchestrator_id": "hold.orchestrator_id",
    "pipeline": "hold.pipeline",
    "model_id": "hold.model_id",
    "units": "hold.units",
    "price_per_unit": "hold.price_per_unit",
    "pixels_per_unit": "hold.pixels_per_unit",
    "currency": "hold.currency",
    "amount": "hold.amount",
    "platform_fee": "trunc(hold.amount * hold.fee_rate, 18)",
    "orchestrator_payment": "hold.amount - trunc(hold.amount * hold.fee_rate, 18)",
}
FEE, PAYMENT = CHARGE_COLUMNS["platform_fee"], CHARGE_COLUMNS["orchestrator_payment"]
ALL_OF_IT = ((HELD, "-hold.amount"), (PAYABLE, PAYMENT), (REVENUE, FEE))


Lines = tuple[tuple[str, str], ...]


def capture(
    which: str = "open", lines: Lines = ALL_OF_IT, charge: dict[str, str] | None = None
) -> str:
    """One statement that captures a hold as the ledger does, but for the changes."""
    columns = CHARGE_COLUMNS | (charge or {})
    values = ", ".join(f"({account}, {amount})" for account, amount in lines)
    return f"""
        WITH hold AS (SELECT * FROM holds WHERE id = :{which}), entry AS (
            INSERT INTO entries (kind, currency, hold_id) SELECT 'capture', currency, id FROM hold
            RETURNING id
        ), charge AS (
            INSERT INTO charges ({", ".join(columns)})
            SELECT {", ".join(columns.values())} FROM hold, entry
        )
        INSERT INTO postings (entry_id, account_id, amount)
        SELECT entry.id, line.* FROM hold, entry, LATERAL (VALUES {values}) AS line"""


def false_charge(amount: str, fee: str | None = None, **changes: str) -> str:
    """A capture that posts what its charge says: only the charge is not what was held."""
    fee = fee or f"trunc({amount} * hold.fee_rate, 18)"
    payment = f"{amount} - {fee}"
    return (
        capture(
            lines=(
                (HELD, "-hold.amount"),
                (PAYABLE, payment),
                (REVENUE, fee),
                (AVAILABLE, f"hold.amount - {amount}"),
            ),
            charge={
                "amount": amount,
                "platform_fee": fee,
                "orchestrator_payment": payment,
                **changes,
            },
        )
        + " WHERE column2 <> 0"
    )


def charge_alone(hold: str, entry: str) -> str:
    """A charge beside an entry that is there already."""
    return f"""
        INSERT INTO charges ({", ".join(CHARGE_COLUMNS)})
        SELECT {", ".join(CHARGE_COLUMNS.values())} FROM holds AS hold, entries AS entry
         WHERE hold.id = :{hold} AND entry.id = {entry}"""


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        pytest.param(capture("captured"), "uq_entries_hold_resolution", id="a second capture"),
        pytest.param(capture("voided"), "uq_entries_hold_resolution", id="a capture after a void"),
        pytest.param(
            capture("expired"), "uq_entries_hold_resolution", id="a capture after the expiry"
        ),
        pytest.param(
            false_charge("(hold.units * 0.00000003)", price_per_unit="0.00000003"),
            "charges_within_limit",
            id="a price above the limit",
        ),
        pytest.param(
            false_charge("(hold.units * 0.0000000195)", price_per_unit="0.0000000195"),
            "charges_as_held",
            id="a price above the hold's, within the limit",
        ),
        pytest.param(
            false_charge("(hold.units * 0.00000001)", price_per_unit="0.00000001"),
            "charges_as_held",
            id="a price below the hold's",
        ),
        pytest.param(
            false_charge("(hold.amount * 2)", units="hold.units * 2"),
            "charges_as_held",
            id="more units than held",
        ),
        pytest.param(
            false_charge("hold.amount", fee="0"),
            "charges_as_held",
            id="a fee below the agreed rate",
        ),
        pytest.param(
            false_charge("hold.amount", fee="hold.amount / 2"),
            "charges_as_held",
            id="a fee above the agreed rate",
        ),
        pytest.param(
            false_charge("hold.amount / 2"),
            "ck_charges_amount_exact",
            id="an amount that is not units x price",
        ),
        pytest.param(
            false_charge("hold.amount", units="hold.units - 1"),
            "ck_charges_amount_exact",
            id="fewer units",
        ),
        pytest.param(
            capture(charge={"orchestrator_payment": "0"}),
            "ck_charges_split",
            id="a split with a remainder",
        ),
        pytest.param(
            false_charge("hold.amount", fee="(-1.0)"),
            "ck_charges_platform_fee",
            id="a fee below zero",
        ),
        pytest.param(
            charge_alone("open", "1"), "charges_captured", id="an entry that is no capture"
        ),
        pytest.param(
            charge_alone("open", "(SELECT id FROM entries WHERE kind = 'void')"),
            "charges_captured",
            id="an entry of another hold",
        ),
        pytest.param(
            charge_alone("captured", "(SELECT id FROM entries WHERE kind = 'capture')"),
            "pk_charges",
            id="a second charge",
        ),
        pytest.param(
            capture(charge={"created_at": "now() - interval '1 month'"}), REFUSED, id="dated back"
        ),
        pytest.param(capture(charge={"refunded": "hold.amount"}), REFUSED, id="born refunded"),
        pytest.param(
            capture(lines=((HELD, "-hold.amount"), (AVAILABLE, "hold.amount"))),
            "postings_as_due",
            id="charged, and given back",
        ),
        pytest.param(
            capture(lines=((HELD, "-hold.amount"), (OTHER_PAYABLE, PAYMENT), (REVENUE, FEE))),
            "postings_as_due",
            id="paid to another orchestrator",
        ),
        pytest.param(
            capture(lines=((HELD, "-hold.amount"), (PAYABLE, "hold.amount"))),
            "postings_as_due",
            id="paid without the fee",
        ),
        pytest.param(
            capture(lines=((SOUTH, "-hold.amount"), (PAYABLE, PAYMENT), (REVENUE, FEE))),
            "postings_as_due",
            id="paid by another gateway",
        ),
        pytest.param(
            capture(lines=((AVAILABLE, "-hold.amount"), (PAYABLE, PAYMENT), (REVENUE, FEE))),
            "postings_as_due",
            id="paid from available funds",
        ),
    ],
)
def test_a_capture_is_what_was_held(
    engine: Engine, book: Book, facts: dict[str, object], statement: str, name: str
) -> None:
    assert refused(engine, book, facts, statement) == name


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("gateway_id", ":south"),
        ("orchestrator_id", ":other"),
        ("pipeline", "'image-to-image'"),
        ("model_id", "'acme/other'"),
        ("currency", "'ETH'"),
        ("reference", "'another job'"),
    ],
)
def test_a_charge_says_what_its_hold_says(
    engine: Engine, book: Book, facts: dict[str, object], column: str, value: str
) -> None:
    statement = capture(charge={column: value})
    assert refused(engine, book, facts, statement) == "charges_as_held"


def resolution(kind: str, which: str, *lines: tuple[str, str]) -> str:
    """One statement that resolves a hold with an entry alone."""
    values = ", ".join(f"({account}, {amount})" for account, amount in lines)
    return f"""
        WITH hold AS (SELECT * FROM holds WHERE id = :{which}), entry AS (
            INSERT INTO entries (kind, currency, hold_id) SELECT '{kind}', currency, id FROM hold
            RETURNING id
        )
        INSERT INTO postings (entry_id, account_id, amount)
        SELECT entry.id, line.* FROM hold, entry, LATERAL (VALUES {values}) AS line"""


BACK = ((HELD, "-hold.amount"), (AVAILABLE, "hold.amount"))


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        pytest.param(
            resolution("void", "captured", *BACK),
            "uq_entries_hold_resolution",
            id="after a capture",
        ),
        pytest.param(
            resolution("expire", "voided", *BACK), "uq_entries_hold_resolution", id="after a void"
        ),
        pytest.param(
            resolution("void", "open", (HELD, "-hold.amount / 2"), (AVAILABLE, "hold.amount / 2")),
            "postings_as_due",
            id="half of it",
        ),
        pytest.param(
            resolution("void", "open", (HELD, "-hold.amount"), (SOUTH, "hold.amount")),
            "postings_as_due",
            id="to another gateway",
        ),
        pytest.param(
            resolution("expire", "open", (HELD, "-hold.amount"), (PAYABLE, "hold.amount")),
            "postings_as_due",
            id="to the orchestrator",
        ),
        pytest.param(
            resolution("capture", "open", (HELD, "-hold.amount"), (PAYABLE, "hold.amount")),
            "postings_as_due",
            id="a capture without a charge",
        ),
        pytest.param(
            resolution("hold", "open", (AVAILABLE, "-hold.amount"), (HELD, "hold.amount")),
            "uq_entries_hold_authorization",
            id="held twice",
        ),
    ],
)
def test_a_hold_is_given_back_whole_and_once(
    engine: Engine, book: Book, facts: dict[str, object], statement: str, name: str
) -> None:
    assert refused(engine, book, facts, statement) == name


# --- refunds -------------------------------------------------------------------------------------

TENTH = ("0.0001", "0.00001", "0.00009")


def refund(
    amount: str = TENTH[0],
    fee: str = TENTH[1],
    payment: str = TENTH[2],
    kind: str = "refund",
    which: str = "captured",
    back_to: str = AVAILABLE,
) -> str:
    return f"""
        WITH entry AS (
            INSERT INTO entries (kind, reference, currency) VALUES ('{kind}', 'new', 'USD')
            RETURNING id
        ), refund AS (
            INSERT INTO refunds (entry_id, hold_id, amount, platform_fee, orchestrator_payment)
            SELECT entry.id, CAST(:{which} AS uuid), {amount}, {fee}, {payment} FROM entry
        )
        INSERT INTO postings (entry_id, account_id, amount)
        SELECT entry.id, line.*
          FROM entry, (VALUES ({back_to}, CAST({amount} AS numeric)), ({PAYABLE}, -{payment}),
                              ({REVENUE}, -{fee})) AS line
         WHERE column2 <> 0"""


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        pytest.param(refund("1", "0.1", "0.9"), "ck_charges_refunded", id="above the charge"),
        pytest.param(
            refund("0.0015", "0.00015", "0.00135"), "ck_charges_refunded", id="above what is left"
        ),
        pytest.param(refund("0", "0", "0"), "ck_refunds_amount", id="of nothing"),
        pytest.param(
            refund("0.0001", "0.0001", "0.0"), "refunds_split_as_charged", id="split another way"
        ),
        pytest.param(
            refund("0.0001", "0.00001", "0.0001"), "ck_refunds_split", id="split too high"
        ),
        pytest.param(refund(kind="top_up"), "postings_as_due", id="as a top-up"),
        pytest.param(
            f"""INSERT INTO refunds (entry_id, hold_id, amount, platform_fee, orchestrator_payment)
                VALUES (1, :captured, {", ".join(TENTH)})""",
            "refunds_entered",
            id="beside a top-up",
        ),
        pytest.param(refund(which="open"), "fk_refunds_hold_id_charges", id="of an open hold"),
        pytest.param(refund(back_to=SOUTH), "postings_as_due", id="to another gateway"),
        pytest.param(refund(back_to=HELD), "postings_as_due", id="to held funds"),
        pytest.param(
            f"""INSERT INTO refunds (entry_id, hold_id, amount, platform_fee, orchestrator_payment)
                SELECT entry_id, hold_id, {", ".join(TENTH)} FROM refunds""",
            "pk_refunds",
            id="again with an old entry",
        ),
    ],
)
def test_a_refund_is_a_part_of_its_charge(
    engine: Engine, book: Book, facts: dict[str, object], statement: str, name: str
) -> None:
    assert refused(engine, book, facts, statement) == name


# --- prices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "values", "name"),
    [
        ("price_per_unit, pixels_per_unit, currency", "0, 1, 'USD'", "price_above_zero"),
        ("price_per_unit, pixels_per_unit, currency", "-1, 1, 'USD'", "price_above_zero"),
        ("price_per_unit, pixels_per_unit, currency", "'NaN', 1, 'USD'", "price_above_zero"),
        ("price_per_unit, pixels_per_unit, currency", "1, 0, 'USD'", "pixels_above_zero"),
        ("price_per_unit, pixels_per_unit, currency", "1, 1, 'EUR'", "currency"),
        (
            "price_per_unit, pixels_per_unit, currency, capacity",
            "1, 1, 'USD', 0",
            "capacity_above_zero",
        ),
        (
            "price_per_unit, pixels_per_unit, currency",
            "1.0000000000000000015, 1, 'USD'",
            "price_exact",
        ),
        ("price_per_unit, pixels_per_unit, currency", "1e20, 1, 'USD'", "price_exact"),
        (
            "price_per_unit, pixels_per_unit, currency, valid_from",
            "1, 1, 'USD', 'infinity'",
            "valid_from",
        ),
    ],
)
def test_an_offer_has_a_price_and_a_capacity(
    engine: Engine, book: Book, facts: dict[str, object], columns: str, values: str, name: str
) -> None:
    statement = (
        f"INSERT INTO offers (orchestrator_id, pipeline, model_id, {columns})"
        f" VALUES (:payee, 'text-to-image', 'm', {values})"
    )
    assert refused(engine, book, facts, statement) == f"ck_offers_{name}"


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ("'t2i', 'm', 0, 1, 'USD'", "price_whole_or_any"),
        ("'t2i', 'm', 'NaN', 1, 'USD'", "price_exact"),
        ("'t2i', 'm', 0.0000000000000000019, 1, 'USD'", "price_exact"),
        ("'t2i', 'm', 1, NULL, 'USD'", "price_whole_or_any"),
        ("'t2i', 'm', NULL, 1, NULL", "price_whole_or_any"),
        ("NULL, 'm', 1, 1, 'USD'", "model_needs_pipeline"),
    ],
)
def test_a_limit_has_a_whole_price_or_none(
    engine: Engine, book: Book, facts: dict[str, object], values: str, name: str
) -> None:
    statement = (
        "INSERT INTO price_limits (gateway_id, pipeline, model_id, price_per_unit,"
        f" pixels_per_unit, currency) VALUES (:north, {values})"
    )
    assert refused(engine, book, facts, statement) == f"ck_price_limits_{name}"


# --- the other way round -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(TOP_UP, id="top-up"),
        pytest.param(hold(), id="hold"),
        pytest.param(capture(), id="capture"),
        pytest.param(false_charge("hold.amount"), id="capture, said another way"),
        pytest.param(resolution("void", "open", *BACK), id="void"),
        pytest.param(refund(), id="refund"),
    ],
)
def test_the_same_statements_are_accepted_when_they_are_true(
    engine: Engine, book: Book, facts: dict[str, object], statement: str
) -> None:
    """So each attack above was refused for what is false in it."""
    with engine.connect() as connection:
        connection.execute(text(statement), facts)
        connection.rollback()


def test_a_gateway_has_one_currency(engine: Engine, book: Book, facts: dict[str, object]) -> None:
    statement = (
        "INSERT INTO accounts (kind, gateway_id, currency, balance)"
        " VALUES ('available', :north, 'ETH', 0)"
    )
    assert refused(engine, book, facts, statement) == "uq_accounts_gateway_id_kind"


def test_facts_are_what_the_attacks_take_them_for(book: Book, facts: dict[str, object]) -> None:
    states = dict(book.rows("SELECT id, state FROM holds"))
    for state in ("open", "captured", "voided", "expired"):
        key = facts[state]
        assert isinstance(key, UUID)
        assert states[key] == state
    book.prove()
