"""Pins what each service of the ledger answers, refuses by name, and leaves untouched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import reduce
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts, budgets, holds, journal, limits, money, offers, refunds, reports
from ledger.errors import (
    CurrencyMismatch,
    HoldAlreadyResolved,
    InsufficientFunds,
    InvalidAmount,
    InvalidName,
    LedgerError,
    NameTaken,
    NoRate,
    OverPriceLimit,
    ReferenceReused,
    UnknownCharge,
    UnknownGateway,
    UnknownHold,
    UnknownOrchestrator,
)
from ledger.limits import Limit
from ledger.money import EXACT, unit_price
from ledger.offers import Capability
from ledger.tables import Hold
from tests.integration.ledger.helpers import ANY_PRICE, LATER, Book

NOBODY = UUID(int=0)
# More digits than the default decimal context keeps.
MANY_DIGITS = Decimal("12345678901234567890.123456789012345678")

Sessions = sessionmaker[Session]


@pytest.fixture
def book(shared_book: Book) -> Book:
    return shared_book


# --- gateways, orchestrators, balances -----------------------------------------------------------


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a\n", "\x00", "ä", "a" * 64])
@pytest.mark.parametrize("create", [accounts.create_gateway, accounts.create_orchestrator])
def test_odd_names_are_refused(
    shared_sessions: Sessions, create: Callable[[Session, str, str], object], name: str
) -> None:
    with shared_sessions.begin() as session, pytest.raises(InvalidName):
        create(session, name, "USD")


@pytest.mark.parametrize("create", [accounts.create_gateway, accounts.create_orchestrator])
def test_a_name_is_taken_once(book: Book, create: Callable[[Session, str, str], object]) -> None:
    with book.sessions.begin() as session, pytest.raises(NameTaken, match=book.name):
        create(session, book.name, "USD")


@pytest.mark.parametrize("create", [accounts.create_gateway, accounts.create_orchestrator])
def test_an_unknown_currency_is_refused_by_field(
    shared_sessions: Sessions, create: Callable[[Session, str, str], object]
) -> None:
    with shared_sessions.begin() as session, pytest.raises(InvalidAmount) as refused:
        create(session, "acme", "EUR")
    assert refused.value.field == "currency"


@pytest.mark.parametrize("rate", ["-0.1", "1.000001", "0.0000001", "NaN", "Infinity", "1e30"])
def test_a_fee_rate_is_a_share_of_at_most_six_decimals(
    shared_sessions: Sessions, rate: str
) -> None:
    with shared_sessions.begin() as session, pytest.raises(InvalidAmount) as refused:
        accounts.create_orchestrator(session, "acme", "USD", Decimal(rate))
    assert refused.value.field == "fee_rate"


@pytest.mark.parametrize("rate", ["0", "0.333333", "1", "1.000000000"])
def test_fee_rates_that_are_kept(book: Book, rate: str) -> None:
    name = f"{book.name}-acme"
    with book.sessions.begin() as session:
        accounts.create_orchestrator(session, name, "USD", Decimal(rate))
    with book.sessions.begin() as session:
        assert accounts.find_orchestrator(session, name).fee_rate == Decimal(rate)


def test_parties_are_found_by_name_and_by_id(book: Book) -> None:
    with book.sessions.begin() as session:
        gateway = accounts.find_gateway(session, book.name)
        assert accounts.find_gateway(session, gateway.id) is gateway
        orchestrator = accounts.find_orchestrator(session, book.name)
        assert accounts.find_orchestrator(session, orchestrator.id) is orchestrator


@pytest.mark.parametrize("who", [NOBODY, "nobody", "No Body", "\x00", ""])
def test_unknown_parties_are_named(shared_sessions: Sessions, who: UUID | str) -> None:
    with shared_sessions.begin() as session:
        with pytest.raises(UnknownGateway):
            accounts.find_gateway(session, who)
        with pytest.raises(UnknownOrchestrator):
            accounts.find_orchestrator(session, who)


def test_balances_of_nobody(shared_sessions: Sessions) -> None:
    with shared_sessions.begin() as session:
        with pytest.raises(UnknownGateway):
            accounts.balance(session, NOBODY)
        with pytest.raises(UnknownGateway):
            accounts.top_up(session, NOBODY, Decimal(1), "one")
        with pytest.raises(UnknownOrchestrator):
            accounts.owed(session, NOBODY)


# --- top-ups -------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", ["0", "-1", "NaN", "1e-19", "1e20"])
def test_a_top_up_is_an_amount_above_zero(book: Book, amount: str) -> None:
    with pytest.raises(InvalidAmount) as refused:
        book.top_up(amount)
    assert refused.value.field == "amount"


def test_a_top_up_keeps_every_digit(book: Book) -> None:
    book.top_up(str(MANY_DIGITS))
    assert book.balance().available == MANY_DIGITS
    book.prove()


@pytest.mark.parametrize("reference", ["", "a" * 201, "a\x00", "line\nbreak", "\ud800"])
def test_a_reference_can_be_kept(book: Book, reference: str) -> None:
    with book.sessions.begin() as session, pytest.raises(InvalidName, match="reference"):
        accounts.top_up(session, book.party.gateway_id, Decimal(1), reference)


def test_the_same_top_up_twice_is_one_entry(book: Book) -> None:
    gateway, order = book.party.gateway_id, book.fresh("order")
    entries = []
    for amount in ("10", "10.000"):
        with book.sessions.begin() as session:
            entries.append(accounts.top_up(session, gateway, Decimal(amount), order).id)
    assert entries[0] == entries[1]
    assert book.balance().available == 10
    book.prove()


def test_a_reference_belongs_to_one_top_up(book: Book) -> None:
    south, order = book.open_party("south"), book.fresh("order")
    with book.sessions.begin() as session:
        accounts.top_up(session, book.party.gateway_id, Decimal(10), order)
        with pytest.raises(ReferenceReused, match=f"^Reference '{order}' belongs"):
            accounts.top_up(session, book.party.gateway_id, Decimal(11), order)
        with pytest.raises(ReferenceReused):
            accounts.top_up(session, south.gateway_id, Decimal(10), order)
    assert book.balance().available == 10
    assert book.balance(south).available == 0


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param({1: Decimal(1)}, id="of one side"),
        pytest.param({1: Decimal(1), 2: Decimal(-1)}, id="not what its kind posts"),
        pytest.param({}, id="without lines"),
    ],
)
def test_the_journal_writes_no_false_entry(book: Book, lines: dict[int, Decimal]) -> None:
    with pytest.raises(IntegrityError), book.sessions.begin() as session:
        journal.post(session, "top_up", "false", "USD", lines)
    assert book.rows("SELECT 1 FROM entries WHERE reference LIKE '%false'") == []


# --- limits --------------------------------------------------------------------------------------

OTHER = Capability("text-to-image", "acme/other")
CHEAP = Limit("text-to-image", None, unit_price("1e-08"))
DEAR = Limit("text-to-image", "acme/north", unit_price("2e-08"))


def _limits(book: Book) -> list[Limit]:
    with book.sessions.begin() as session:
        return limits.list_limits(session, book.party.gateway_id)


def _replace(book: Book, *new: Limit) -> None:
    with book.sessions.begin() as session:
        limits.replace_limits(session, book.party.gateway_id, new, "USD")


def test_limits_are_listed_most_exact_first(book: Book) -> None:
    _replace(book, ANY_PRICE, CHEAP, DEAR)
    assert _limits(book) == [DEAR, CHEAP, ANY_PRICE]


def test_a_limit_takes_the_place_of_the_earlier_one(book: Book) -> None:
    for price in (CHEAP.price, None, DEAR.price):
        with book.sessions.begin() as session:
            limits.set_limit(session, book.party.gateway_id, replace(CHEAP, price=price), "USD")
        assert _limits(book) == [replace(CHEAP, price=price)]


def test_replaced_limits_are_gone(book: Book) -> None:
    _replace(book, CHEAP, DEAR)
    _replace(book, ANY_PRICE)
    assert _limits(book) == [ANY_PRICE]
    _replace(book)
    assert _limits(book) == []


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ([Limit(None, "acme/north", None)], InvalidName),
        ([CHEAP, replace(CHEAP, price=None)], InvalidName),
    ],
    ids=["a model without a pipeline", "two of one scope"],
)
def test_bad_limits_leave_the_old_ones(
    book: Book, bad: list[Limit], error: type[LedgerError]
) -> None:
    _replace(book, CHEAP)
    with pytest.raises(error):
        _replace(book, *bad)
    assert _limits(book) == [CHEAP]


def test_limits_of_nobody(shared_sessions: Sessions) -> None:
    with shared_sessions.begin() as session:
        with pytest.raises(UnknownGateway):
            limits.replace_limits(session, NOBODY, [], "USD")
        with pytest.raises(UnknownGateway):
            limits.set_limit(session, NOBODY, ANY_PRICE, "USD")


def test_limits_are_of_a_gateway_that_pays_in_the_settlements_currency(book: Book) -> None:
    with book.sessions.begin() as session, pytest.raises(CurrencyMismatch):
        limits.set_limit(session, book.party.gateway_id, ANY_PRICE, "ETH")


# --- holds ---------------------------------------------------------------------------------------


def test_a_hold_keeps_what_was_agreed(book: Book) -> None:
    book.top_up("1")
    hold_id = book.hold(100, limit=DEAR)
    with book.sessions.begin() as session:
        hold = session.get_one(Hold, hold_id)
        assert hold.price == book.party.offer.price
        assert hold.amount == Decimal("0.0000019073484")
        assert hold.fee_rate == Decimal("0.1")
        assert (hold.limit_price_per_unit, hold.limit_pixels_per_unit) == (Decimal("2e-08"), 1)
        assert hold.state == "open"


def _holds(book: Book) -> list[object]:
    query = "SELECT id FROM holds WHERE gateway_id = :gateway"
    return book.rows(query, gateway=book.party.gateway_id)


def test_missing_funds_are_told_and_nothing_is_written(book: Book) -> None:
    book.top_up("0.001")
    with pytest.raises(InsufficientFunds) as refused:
        book.hold(131072)
    assert refused.value.missing == Decimal("0.001499999694848")
    assert refused.value.available == Decimal("0.001")
    assert _holds(book) == []
    assert book.balance().available == Decimal("0.001")


def test_the_last_quantum_can_be_spent(book: Book) -> None:
    book.top_up("0.002499999694848")
    book.hold(131072)
    assert book.balance().available == 0
    with pytest.raises(InsufficientFunds):
        book.hold(1)


def test_a_price_above_the_limit_is_refused(book: Book) -> None:
    book.top_up("1")
    with pytest.raises(OverPriceLimit, match=f"from {book.name}"):
        book.hold(1, limit=CHEAP)
    with pytest.raises(NoRate):
        book.hold(1, limit=Limit(None, None, unit_price("1", 1, "ETH")))


def test_a_job_has_one_hold(book: Book) -> None:
    book.top_up("1")
    quote, job = offers.quote(book.party.offer, 100), book.fresh("job")
    with book.sessions.begin() as session:
        holds.authorize(session, book.party.gateway_id, job, quote, ANY_PRICE, LATER)
    with book.sessions.begin() as session, pytest.raises(ReferenceReused, match=job):
        holds.authorize(session, book.party.gateway_id, job, quote, ANY_PRICE, LATER)
    assert book.balance().held == quote.amount


def test_who_and_what_cannot_be_held(book: Book) -> None:
    ether = book.open_party("ether", currency="ETH")
    quote = offers.quote(book.party.offer, 100)
    nothing = offers.quote(book.party.offer, 0)
    with book.sessions.begin() as session:
        with pytest.raises(UnknownGateway):
            holds.authorize(session, NOBODY, "job", quote, ANY_PRICE, LATER)
        with pytest.raises(CurrencyMismatch):
            holds.authorize(session, ether.gateway_id, "job", quote, ANY_PRICE, LATER)
        with pytest.raises(InvalidName):
            holds.authorize(session, book.party.gateway_id, "", quote, ANY_PRICE, LATER)
        with pytest.raises(InvalidAmount) as refused:
            holds.authorize(session, book.party.gateway_id, "job", nothing, ANY_PRICE, LATER)
    assert refused.value.field == "units"


def test_a_quote_that_was_made_up_is_refused_by_the_database(book: Book) -> None:
    book.top_up("1")
    quote = replace(offers.quote(book.party.offer, 100), amount=Decimal("0.000000000000000001"))
    with (
        pytest.raises(IntegrityError, match="ck_holds_amount_exact"),
        book.sessions.begin() as session,
    ):
        holds.authorize(session, book.party.gateway_id, "job", quote, ANY_PRICE, LATER)


Resolve = Callable[[Session, UUID], object]
RESOLUTIONS: dict[str, Resolve] = {
    "captured": lambda session, hold_id: holds.capture(session, {hold_id: 1}),
    "voided": lambda session, hold_id: holds.void(session, [hold_id]),
    "expired": lambda session, hold_id: holds.expire(session, [hold_id]),
}


@pytest.mark.parametrize("first", RESOLUTIONS)
@pytest.mark.parametrize("second", RESOLUTIONS)
def test_a_hold_is_resolved_once(book: Book, first: str, second: str) -> None:
    book.top_up("1")
    hold_id, other = book.hold(100), book.hold(100)
    with book.sessions.begin() as session:
        RESOLUTIONS[first](session, hold_id)
    before = book.balance()
    with book.sessions.begin() as session:
        with pytest.raises(HoldAlreadyResolved, match=f"already {first}"):
            RESOLUTIONS[second](session, hold_id)
        with pytest.raises(HoldAlreadyResolved):
            holds.capture(session, {other: 100, hold_id: 100})
        with pytest.raises(HoldAlreadyResolved):
            holds.void(session, [other, hold_id])
    assert book.balance() == before
    book.prove()


@pytest.mark.parametrize("state", RESOLUTIONS)
def test_a_session_sees_the_state_that_it_made(book: Book, state: str) -> None:
    book.top_up("1")
    hold_id = book.hold(100)
    with book.sessions() as session:
        hold = session.get_one(Hold, hold_id)
        RESOLUTIONS[state](session, hold_id)
        seen = (hold.state, hold.resolved_at)
        session.commit()
        session.refresh(hold)
        assert seen == (hold.state, hold.resolved_at)
        assert hold.state == state


@pytest.mark.parametrize("units", [0, -1, 101])
def test_captured_units_are_among_those_held(book: Book, units: int) -> None:
    book.top_up("1")
    hold_id = book.hold(100)
    with pytest.raises(InvalidAmount) as refused:
        book.capture({hold_id: units})
    assert refused.value.field == "units"
    assert "from 1 to the 100 that are held" in str(refused.value)


def test_unknown_holds_are_named(book: Book) -> None:
    book.top_up("1")
    hold_id, unknown = book.hold(100), uuid4()
    with book.sessions.begin() as session:
        with pytest.raises(UnknownHold, match=str(unknown)):
            holds.capture(session, {hold_id: 1, unknown: 1})
        with pytest.raises(UnknownHold):
            holds.void(session, [unknown])
        with pytest.raises(UnknownHold):
            holds.expire(session, [hold_id, unknown])
    assert book.balance().held > 0


Do = Callable[[Session, Book, UUID], object]
DEEDS: dict[str, Do] = {
    "hold": lambda session, book, _: holds.authorize(
        session,
        book.party.gateway_id,
        book.fresh("job"),
        offers.quote(book.party.offer, 2),
        ANY_PRICE,
        LATER,
    ),
    "capture": lambda session, _, hold_id: holds.capture(session, {hold_id: 2}),
    "capture a part": lambda session, _, hold_id: holds.capture(session, {hold_id: 1}),
    "void": lambda session, _, hold_id: holds.void(session, [hold_id]),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_what_is_done_reads_its_own_rows_only(book: Book, deed: str) -> None:
    """Of books that have grown, whether the rules were planned before or after that.

    What is known of the books, by ANALYZE, is from before.
    """
    with book.sessions.begin() as session:
        budgets.set_budget(session, book.party.gateway_id, "day", "1")
    book.top_up("1")
    book.execute("ANALYZE accounts, budgets, budget_usage, charges, entries, holds, postings")
    with book.sessions() as early, book.sessions() as late:
        _rows_read(early, book, deed)
        _grow(book)
        for session in (early, late):
            _rows_read(session, book, deed)
            read = _rows_read(session, book, deed)
            # A table of 40 rows is not gone through, and none is looked up more than a few times.
            assert max(read.values()) <= 20, read


def _grow(book: Book) -> None:
    holders = []
    for n in range(20):
        party = book.open_party(f"later-{n}")
        book.top_up("1", party)
        with book.sessions.begin() as session:
            for period in ("day", "month"):
                budgets.set_budget(session, party.gateway_id, period, "1")
        holders += [book.hold(2, party) for _ in range(2)]
    book.capture(dict.fromkeys(holders, 1))


def _rows_read(session: Session, book: Book, deed: str) -> dict[str, int]:
    """Do it, and return how many rows of each table it has read."""
    hold_id = book.hold(2)
    # What asks the rules is planned anew while tables are so small that reading them whole is
    # best. The rules are not.
    session.execute(text("SET enable_seqscan = off"))
    before = session.execute(_READ).all()
    DEEDS[deed](session, book, hold_id)
    after = session.execute(_READ).all()
    session.commit()
    return {now.relname: now.rows - then.rows for then, now in zip(before, after, strict=True)}


_READ = text("""
SELECT relname, seq_tup_read + idx_tup_fetch AS rows FROM pg_stat_xact_user_tables
 WHERE idx_tup_fetch IS NOT NULL ORDER BY relid
""")


def test_resolving_nothing_does_nothing(shared_sessions: Sessions) -> None:
    with shared_sessions.begin() as session:
        holds.capture(session, {})
        holds.void(session, [])
        holds.expire(session, [])


def test_a_batch_over_many_parties_is_one_settlement(book: Book) -> None:
    parties = [book.open_party(f"party-{n}", fee_rate=f"0.{n}") for n in range(1, 5)]
    for party in parties:
        book.top_up("1", party)
    batch = {book.hold(1000 * n, party): 500 * n for n in (1, 2, 3) for party in parties}

    charges = book.capture(batch)

    assert {charge.hold_id: charge.units for charge in charges} == batch
    assert all(book.balance(party).held == 0 for party in parties)
    book.prove()


@pytest.mark.parametrize(
    ("price", "per", "fee_rate", "units", "amount", "fee"),
    [
        pytest.param("1.9073484e-08", 1, "0.1", 131072, "0.002499999694848", "0.0002499999694848"),
        pytest.param("1e-18", 3, "0", 4, "2e-18", "0", id="the amount is rounded up"),
        pytest.param("1e-18", 1, "0.999999", 1, "1e-18", "0", id="the fee is rounded down"),
        pytest.param("1e-18", 1, "1", 7, "7e-18", "7e-18", id="all of it is the platform's"),
        pytest.param("7e-18", 10**18, "0.5", 10**18, "7e-18", "3e-18", id="large pixels_per_unit"),
    ],
)
def test_what_a_capture_takes_is_exact_to_the_last_digit(
    book: Book, price: str, per: int, fee_rate: str, units: int, amount: str, fee: str
) -> None:
    name = book.fresh("exact").split()[1]
    party = book.open_party(name, price=price, per=per, fee_rate=fee_rate)
    book.top_up("1", party)
    hold_id = book.hold(units, party)

    [charge] = book.capture({hold_id: units})

    assert (charge.amount, charge.platform_fee) == (Decimal(amount), Decimal(fee))
    assert charge.orchestrator_payment == charge.amount - charge.platform_fee
    assert charge.amount == money.charge(units, party.offer.price)


def test_a_hold_named_twice_is_given_back_once(book: Book) -> None:
    book.top_up("1")
    hold_id = book.hold(100)
    book.void(hold_id, hold_id)
    assert book.balance().available == 1


def test_what_the_caller_rolls_back_did_not_happen(book: Book) -> None:
    book.top_up("1")
    with book.sessions() as session:
        quote = offers.quote(book.party.offer, 100)
        holds.authorize(session, book.party.gateway_id, "job", quote, ANY_PRICE, LATER)
        session.rollback()
    assert book.balance().available == 1
    assert _holds(book) == []


# --- refunds -------------------------------------------------------------------------------------


@pytest.fixture
def charged(book: Book) -> UUID:
    """A hold of which 0.0002 USD were charged."""
    party = book.open_party("refunded", price="0.0000002")
    book.top_up("1", party)
    hold_id = book.hold(1000, party)
    book.capture({hold_id: 1000})
    return hold_id


@pytest.mark.parametrize("amount", ["0", "-0.0001", "NaN", "1e-19", "0.000200000000000001"])
def test_a_refund_is_an_amount_within_the_charge(book: Book, charged: UUID, amount: str) -> None:
    with pytest.raises(InvalidAmount) as refused:
        book.refund(charged, amount)
    assert refused.value.field == "amount"


def test_a_refund_says_what_is_left(book: Book, charged: UUID) -> None:
    book.refund(charged, "0.00015")
    with pytest.raises(InvalidAmount, match=r"at most the 0\.00005 left"):
        book.refund(charged, "0.0001")
    book.refund(charged, "0.00005")
    with pytest.raises(InvalidAmount, match="at most the 0 left"):
        book.refund(charged, "0.000000000000000001")
    book.prove()


def test_the_same_refund_twice_is_one_entry(book: Book, charged: UUID) -> None:
    ticket = book.fresh("ticket")
    first = book.refund(charged, "0.0002", ticket)
    assert book.refund(charged, "0.00020", ticket).id == first.id
    [charge] = book.rows("SELECT refunded FROM charges WHERE hold_id = :hold", hold=charged)
    assert charge.refunded == Decimal("0.0002")
    book.prove()


def test_a_reference_belongs_to_one_refund(book: Book, charged: UUID) -> None:
    book.top_up("1")
    other = book.hold(10000)
    book.capture({other: 10000})
    ticket = book.fresh("ticket")
    book.refund(charged, "0.0001", ticket)
    with pytest.raises(ReferenceReused, match=f"^Reference '{ticket}' belongs"):
        book.refund(charged, "0.00005", ticket)
    with pytest.raises(ReferenceReused):
        book.refund(other, "0.0001", ticket)


def test_only_what_was_charged_is_refunded(book: Book) -> None:
    book.top_up("1")
    voided = book.hold(100)
    book.void(voided)
    for hold_id in (book.hold(100), voided, NOBODY):
        with pytest.raises(UnknownCharge, match=str(hold_id)):
            book.refund(hold_id, "0.000001")


def test_a_session_sees_what_it_refunded(book: Book, charged: UUID) -> None:
    with book.sessions.begin() as session:
        refunds.refund(session, charged, Decimal("0.0001"), "one")
        refunds.refund(session, charged, Decimal("0.0001"), "two")
        with pytest.raises(InvalidAmount):
            refunds.refund(session, charged, Decimal("0.0001"), "three")
    book.prove()


@pytest.mark.parametrize("rate", ["0", "1"])
def test_a_refund_that_only_one_side_pays(book: Book, rate: str) -> None:
    party = book.open_party("one-sided", fee_rate=rate)
    book.top_up("1", party)
    hold_id = book.hold(1000, party)
    book.capture({hold_id: 1000})
    entry = book.refund(hold_id, "0.000001")
    lines = book.rows("SELECT amount FROM postings WHERE entry_id = :entry", entry=entry.id)
    assert sorted(line.amount for line in lines) == [Decimal("-0.000001"), Decimal("0.000001")]
    book.prove()


# --- reports -------------------------------------------------------------------------------------


def test_reports_are_the_views(book: Book) -> None:
    book.top_up("1")
    hold_id = book.hold(1000)
    book.capture({hold_id: 1000})
    with book.sessions.begin() as session:
        found = {name: reports.rows(session, name) for name in reports.REPORTS}
    owned = [row["account"] for row in found["balances"] if row["owner"] == book.name]
    assert owned == ["available", "held", "payable"]
    usd = [row for row in found["trial-balance"] if row["currency"] == "USD"]
    # Not sum(), which would round these many digits.
    assert reduce(EXACT.add, (row["balance"] for row in usd)) == 0
    debit, credit = (reduce(EXACT.add, (row[side] for row in usd)) for side in ("debit", "credit"))
    assert debit == credit > 0
    assert found["charges"][0]["hold_id"] == hold_id


def test_an_unknown_report(shared_sessions: Sessions) -> None:
    with shared_sessions.begin() as session, pytest.raises(KeyError):
        reports.rows(session, "astrology")
