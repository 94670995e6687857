"""Pins how prices in other currencies are converted: exactly, by a rate that is there and is fresh.

They settle in USD and price in wei, at four thousand USD for an ETH and later five.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from ledger import feeds, holds, limits, offers, rates
from ledger.errors import FeedError, InvalidAmount, InvalidName, NoRate, OverPriceLimit, StaleRate
from ledger.limits import Limit
from ledger.money import UnitPrice, unit_price
from ledger.offers import Capability, LiveOffer
from ledger.tables import Charge, ExchangeRate
from tests.integration.ledger.helpers import ANY_PRICE, LATER, Book

DAY = timedelta(days=1)
MODEL = Capability("text-to-image", "acme/priced-in-wei")
WEI = unit_price("4768371", 1, "wei")
IMAGE = 1024 * 1024


def set_rate(book: Book, rate: str, base: str = "ETH", quote: str = "USD", **age: float) -> int:
    with book.sessions.begin() as session:
        seen = datetime.now(UTC) - timedelta(**age) if age else None
        return rates.set_rate(session, base, quote, rate, "the test", seen).id


def known(book: Book, settlement: str = "USD", max_age: timedelta = DAY) -> rates.Rates:
    with book.sessions.begin() as session:
        return rates.load(session, settlement, max_age)


def offer(book: Book, price: UnitPrice = WEI) -> LiveOffer:
    with book.sessions.begin() as session:
        offers.publish(session, book.party.orchestrator_id, MODEL, price, "USD")
        return offers.live_for(session, MODEL)[0]


def work(
    book: Book, offered: LiveOffer, limit: Limit = ANY_PRICE, then: Callable[[], object] = int
) -> Charge:
    """Hold an image by the rates that are known, let something happen, and capture it."""
    quote = offers.quote(offered, IMAGE, known(book))
    with book.sessions.begin() as session:
        job = book.fresh("job")
        hold = holds.authorize(session, book.party.gateway_id, job, quote, limit, LATER)
    then()
    [charge] = book.capture({hold: IMAGE})
    assert charge.amount == quote.amount
    return charge


# --- prices and limits of two currencies ---------------------------------------------------------


def test_a_limit_in_dollars_over_a_price_in_wei(book: Book) -> None:
    """The limit lies between what the price is at one rate and at another."""
    book.top_up("10")
    offered = offer(book)
    limit = Limit(None, None, unit_price("0.00000002"))
    set_rate(book, "4000")
    assert work(book, offered, limit).amount == Decimal("0.019999997558784")

    set_rate(book, "5000")
    with pytest.raises(OverPriceLimit, match="4768371 wei per pixel"):
        work(book, offered, limit)
    book.prove()


def test_a_limit_in_wei_over_a_price_in_dollars(book: Book) -> None:
    book.top_up("10")
    offered = offer(book, unit_price("0.000000019"))
    limit = Limit(None, None, WEI)
    set_rate(book, "4000")
    charge = work(book, offered, limit)
    assert (charge.price_currency, charge.rate) == (None, None)
    [row] = book.rows("SELECT * FROM billing_charges")
    assert (row.price_currency, row.limit_currency, row.rate) == ("USD", "ETH", 4000)

    set_rate(book, "3900")
    with pytest.raises(OverPriceLimit):
        work(book, offered, limit)
    book.prove()


def test_a_rate_that_is_said_the_other_way_round_is_exact(book: Book) -> None:
    """An ETH is a third of ... nothing that has 18 decimals; the books divide, and round once."""
    book.top_up("10")
    offered = offer(book, unit_price("1", 1, "wei"))
    set_rate(book, "0.0003", "USD", "ETH")
    charge = work(book, offered)
    assert (charge.rate, charge.rate_divisor) == (Decimal(1), Decimal("0.0003"))
    assert charge.amount == Decimal("0.000000003495253334")  # 1048576 / 0.0003 / 10**18, up
    book.prove()


def test_offers_in_two_currencies_are_compared_by_the_rate(book: Book) -> None:
    set_rate(book, "4000")
    now = known(book)
    dollars, wei = unit_price("0.00000002"), WEI
    limit = Limit(None, None, dollars)
    assert now.settled(wei) < now.settled(dollars)
    assert limit.allows(wei, now)
    tight = limits.effective([limit], MODEL, wei, now)
    assert tight == Limit(MODEL.pipeline, MODEL.model_id, wei)


# --- which rate ----------------------------------------------------------------------------------


def test_no_rate_is_an_error(book: Book) -> None:
    with pytest.raises(NoRate, match="ETH to USD"):
        offers.quote(offer(book), IMAGE, known(book))
    with book.sessions.begin() as session, pytest.raises(NoRate):
        rates.current(session, "ETH", "USD", DAY)


def test_a_stale_rate_is_an_error_and_not_a_guess(book: Book) -> None:
    set_rate(book, "4000", hours=25)
    with pytest.raises(StaleRate, match="1 day"):
        offers.quote(offer(book), IMAGE, known(book))
    assert known(book, max_age=timedelta(hours=26)).of("ETH").numerator == 4000
    assert not known(book).can_settle(WEI)


def test_the_rate_that_was_observed_last_holds(book: Book) -> None:
    set_rate(book, "4000", hours=1)
    set_rate(book, "5000", hours=2)
    assert known(book).of("ETH").numerator == 4000
    newest = set_rate(book, "0.00025", "USD", "ETH")
    assert (known(book).of("ETH").id, known(book).of("ETH").fraction) == (newest, Fraction(4000))
    assert known(book, "ETH").of("USD").numerator == Decimal("0.00025")


def test_a_currency_is_worth_itself(book: Book) -> None:
    assert known(book).of("USD").fraction == 1


@pytest.mark.parametrize(
    ("said", "field"),
    [
        (("ETH", "USD", "0", "x"), "rate"),
        (("ETH", "USD", "-1", "x"), "rate"),
        (("ETH", "USD", "NaN", "x"), "rate"),
        (("ETH", "USD", "1e-19", "x"), "rate"),
        (("EUR", "USD", "1", "x"), "base_currency"),
        (("ETH", "wei", "1", "x"), "quote_currency"),
        (("ETH", "ETH", "1", "x"), "quote_currency"),
        (("ETH", "USD", "1", "x", datetime(2100, 1, 1, tzinfo=UTC)), "observed_at"),
    ],
)
def test_what_cannot_be_a_rate_is_refused_by_its_field(
    book: Book, said: tuple[str, ...], field: str
) -> None:
    with book.sessions.begin() as session:
        with pytest.raises(InvalidAmount) as refused:
            rates.set_rate(session, *said)  # type: ignore[arg-type]
        assert refused.value.field == field
        with pytest.raises(InvalidName, match="source"):
            rates.set_rate(session, "ETH", "USD", "1", "")
    assert book.rows("SELECT 1 FROM exchange_rates") == []


# --- what the database refuses -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("UPDATE exchange_rates SET rate = 1", "42501"),
        ("DELETE FROM exchange_rates", "42501"),
        ("TRUNCATE exchange_rates CASCADE", "42501"),
        ("rate = 0", "ck_exchange_rates_above_zero"),
        ("rate = 'NaN'", "ck_exchange_rates_above_zero"),
        ("base_currency = 'wei'", "ck_exchange_rates_base_currency"),
        ("base_currency = 'USD'", "ck_exchange_rates_two_currencies"),
        ("source = ''", "ck_exchange_rates_source"),
        ("observed_at = now() + interval '1 hour'", "ck_exchange_rates_observed"),
    ],
)
def test_rates_are_written_once_and_well(book: Book, statement: str, name: str) -> None:
    set_rate(book, "4000")
    if " = " in statement and not statement.startswith("UPDATE"):
        column, _, value = statement.partition(" = ")
        given = {
            "base_currency": "'ETH'",
            "quote_currency": "'USD'",
            "rate": "1",
            "source": "'x'",
            "observed_at": "now()",
        } | {column: value}
        statement = (
            f"INSERT INTO exchange_rates ({', '.join(given)}) VALUES ({', '.join(given.values())})"
        )
    with book.sessions.begin() as session, pytest.raises(DBAPIError) as refused:
        session.execute(text(statement))
    assert _name(refused.value) == name


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"numerator": Decimal(4001)}, "holds_as_rated"),
        ({"divisor": Decimal(2)}, "holds_as_rated"),
        ({"id": None}, "ck_holds_converted"),
        ({"id": 999}, "fk_holds_rate_id_exchange_rates"),
    ],
)
def test_a_hold_is_converted_by_the_rate_that_it_names(
    book: Book, change: dict[str, object], name: str
) -> None:
    book.top_up("10")
    offered = offer(book)
    set_rate(book, "4000")
    false = replace(known(book).of("ETH"), **change)  # type: ignore[arg-type]
    quote = offers.quote(offered, IMAGE, rates.Rates("USD", {"ETH": false}))
    with book.sessions.begin() as session, pytest.raises(DBAPIError) as refused:
        holds.authorize(session, book.party.gateway_id, "job", quote, ANY_PRICE, LATER)
    assert _name(refused.value) in (name, "holds_as_rated")
    assert book.balance().available == 10


def test_the_database_compares_price_and_limit_by_the_rate(book: Book) -> None:
    book.top_up("10")
    offered = offer(book)
    set_rate(book, "5000")
    quote = offers.quote(offered, IMAGE, known(book))

    class Lax(Limit):
        def allows(self, price: UnitPrice, rates: rates.Rates | None = None) -> bool:  # noqa: ARG002
            return True

    limit = Lax(None, None, unit_price("0.00000002"))
    with book.sessions.begin() as session, pytest.raises(DBAPIError) as refused:
        holds.authorize(session, book.party.gateway_id, "job", quote, limit, LATER)
    assert _name(refused.value) == "ck_holds_within_limit"


def _name(error: DBAPIError) -> str:
    diag = getattr(error.orig, "diag", None)
    return str(getattr(diag, "constraint_name", None) or getattr(error.orig, "sqlstate", ""))


# --- feeds ---------------------------------------------------------------------------------------


def _refresh(sessions: sessionmaker[Session], path: Path) -> list[ExchangeRate]:
    with sessions.begin() as session:
        return feeds.refresh(session, feeds.FileFeed(path))


def test_a_file_of_rates_is_recorded_once(book: Book, tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    said = {"base": "ETH", "quote": "USD", "rate": 4000.25, "observed_at": "2026-01-02T03:04:05Z"}
    path.write_text(json.dumps([said | {"source": "desk"}, said | {"rate": "4001"}]))
    first, second = _refresh(book.sessions, path)
    assert (first.rate, first.source) == (Decimal("4000.25"), "desk")
    assert first.observed_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (second.rate, second.source) == (Decimal(4001), "rates.json")
    assert _refresh(book.sessions, path) == []


def test_a_rate_that_is_corrected_is_recorded_and_holds(book: Book, tmp_path: Path) -> None:
    """A source that erred says so for the same moment: its last word is the one that counts."""
    path = tmp_path / "rates.json"
    said = {"base": "ETH", "quote": "USD", "observed_at": "2026-01-02T03:04:05Z"}
    for right in ("4000", "40", "4000.0"):
        path.write_text(json.dumps([said | {"rate": "7"}, said | {"rate": right}]))
        [row] = _refresh(book.sessions, path)
        with book.sessions.begin() as session:
            assert rates.current(session, "ETH", "USD", timedelta.max).id == row.id
        assert row.rate == Decimal(right)
        assert _refresh(book.sessions, path) == []


def test_a_file_without_times_is_as_old_as_the_file(book: Book, tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_text('[{"base": "ETH", "quote": "USD", "rate": 4000}]')
    os.utime(path, (1_700_000_000, 1_700_000_000))
    [row] = _refresh(book.sessions, path)
    assert row.observed_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert _refresh(book.sessions, path) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("{", "line 1"),
        ("{}", "must be a list"),
        ("[1]", "rate 1"),
        ('[{"base": "ETH", "quote": "USD"}]', "rate 1: rate is missing"),
        ('[{"base": "ETH", "quote": "USD", "rate": "many"}]', "'many' is not a decimal"),
        ('[{"base": "ETH", "quote": "USD", "rate": null}]', "rate 1"),
        ('[{"base": "ETH", "quote": "EUR", "rate": 1}]', "quote_currency"),
        ('[{"base": "ETH", "quote": "USD", "rate": true}]', "rate 1: rate must be a number"),
        ('[{"base": "ETH", "quote": "USD", "rate": [0, [1], 0]}]', "rate 1: rate must be"),
        ('[{"base": "ETH", "quote": "USD", "rate": NaN}]', "rate 1: rate must be"),
        ('[{"base": "ETH", "quote": "USD", "rate": 1, "source": 5}]', "source must be texts"),
        ('[{"base": ["ETH"], "quote": "USD", "rate": 1}]', "rate 1: base, quote"),
        (r'[{"base": "ETH", "quote": "USD", "rate": 1, "source": "a\u0000"}]', "source: must be"),
        (r'[{"base": "ETH", "quote": "\ud800", "rate": 1}]', "quote_currency"),
        (
            '[{"base": "ETH", "quote": "USD", "rate": 1, "observed_at": "2026-01-01T00:00:00"}]',
            "time zone",
        ),
    ],
)
def test_a_file_that_cannot_be_read_changes_nothing(
    book: Book, tmp_path: Path, content: str | None, says: str
) -> None:
    path = tmp_path / "rates.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FeedError, match=says):
        _refresh(book.sessions, path)
    assert book.rows("SELECT 1 FROM exchange_rates") == []
