"""Pins which offers hold and which are planned, whoever publishes or withdraws at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ledger import accounts, limits, offers
from ledger.errors import CurrencyMismatch, InvalidAmount, UnknownOffer, UnknownOrchestrator
from ledger.limits import Limit
from ledger.money import unit_price
from ledger.offers import Capability, LiveOffer
from ledger.tables import Offer
from tests.integration.ledger.helpers import Book

NOBODY = UUID(int=0)
DAY = timedelta(days=1)
OTHER = Capability("text-to-image", "acme/other")
CHEAP = Limit("text-to-image", None, unit_price("1e-08"))


@pytest.fixture
def book(shared_book: Book) -> Book:
    return shared_book


def publish(session: Session, book: Book, price: str, begins: datetime | None = None) -> LiveOffer:
    """Offer the party's own capability at another price."""
    payee, capability = book.party.orchestrator_id, book.party.offer.capability
    row = offers.publish(session, payee, capability, unit_price(price), "USD", begins)
    return offers.read(row, book.name)


def plan(book: Book, price: str, begins: timedelta = DAY) -> LiveOffer:
    with book.sessions.begin() as session:
        return publish(session, book, price, datetime.now(UTC) + begins)


def withdraw(book: Book, offer: LiveOffer) -> None:
    with book.sessions.begin() as session:
        offers.withdraw(session, offer)


def prices(found: Sequence[LiveOffer]) -> list[str]:
    return [str(offer.price.price_per_unit.normalize()) for offer in found]


def holding(book: Book) -> list[str]:
    with book.sessions.begin() as session:
        return prices(offers.live_for(session, book.party.offer.capability))


def planned(book: Book) -> list[str]:
    with book.sessions.begin() as session:
        return prices(offers.planned(session, Offer.orchestrator_id == book.party.orchestrator_id))


def let_days_pass(book: Book, days: int) -> None:
    with book.sessions.begin() as session:
        session.connection().exec_driver_sql("SET LOCAL session_replication_role = replica")
        mine = Offer.orchestrator_id == book.party.orchestrator_id
        session.execute(update(Offer).where(mine).values(valid_from=Offer.valid_from - days * DAY))


def test_a_later_offer_supersedes(book: Book) -> None:
    with book.sessions.begin() as session:
        payee = book.party.orchestrator_id
        offers.publish(session, payee, book.party.offer.capability, unit_price("3e-08"), "USD")
    with book.sessions.begin() as session:
        [offer] = offers.live_for(session, book.party.offer.capability)
        assert offer.price == unit_price("3e-08")
    history = "SELECT price_per_unit FROM offers WHERE orchestrator_id = :payee ORDER BY id"
    prices = [row.price_per_unit for row in book.rows(history, payee=payee)]
    assert prices == [book.party.offer.price.price_per_unit, Decimal("3e-08")]


def test_an_offer_begins_when_it_says(book: Book) -> None:
    with book.sessions.begin() as session:
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        payee = book.party.orchestrator_id
        offers.publish(
            session, payee, book.party.offer.capability, unit_price("3e-08"), "USD", tomorrow
        )
    with book.sessions.begin() as session:
        assert [offer.price for offer in offers.live_for(session, book.party.offer.capability)] == [
            book.party.offer.price
        ]


def test_a_withdrawn_offer_is_gone(book: Book) -> None:
    with book.sessions.begin() as session:
        offers.withdraw(session, book.party.offer)
    with book.sessions.begin() as session:
        assert offers.live(session, Offer.orchestrator_id == book.party.orchestrator_id) == []
        assert offers.live_for(session, book.party.offer.capability) == []


def test_offers_are_told_cheapest_first(book: Book) -> None:
    with book.sessions.begin() as session:
        for name, price, pixels in (("dear", "1", 1), ("cheap", "1", 3), ("middle", "1", 2)):
            payee = accounts.create_orchestrator(session, f"{book.name}-{name}", "USD")
            offers.publish(
                session, payee.id, book.party.offer.capability, unit_price(price, pixels), "USD"
            )
        names = [
            offer.orchestrator for offer in offers.live_for(session, book.party.offer.capability)
        ]
    assert [name.rpartition("-")[2] for name in names[1:]] == ["cheap", "middle", "dear"]
    assert names[0] == book.name


def test_prices_in_two_currencies_are_not_compared(book: Book) -> None:
    with book.sessions.begin() as session:
        for number, price in enumerate(("2 USD", "3 ETH", "5 wei", "1 USD")):
            payee = accounts.create_orchestrator(session, f"{book.name}-{number}", "USD")
            amount, currency = price.split()
            offers.publish(session, payee.id, OTHER, unit_price(amount, 1, currency), "USD")
        found = [str(offer.price) for offer in offers.live_for(session, OTHER)]
    assert found == [f"{price} per pixel" for price in ("5 wei", "3 ETH", "1 USD", "2 USD")]


def test_an_offer_is_in_any_currency_of_one_who_is_paid_in_the_settlements(book: Book) -> None:
    price = unit_price("1", 1, "ETH")
    with book.sessions.begin() as session:
        payee = book.party.orchestrator_id
        assert offers.publish(session, payee, OTHER, price, "USD").price == price
        with pytest.raises(CurrencyMismatch):
            offers.publish(session, payee, OTHER, price, "ETH")
        with pytest.raises(UnknownOrchestrator):
            offers.publish(session, NOBODY, OTHER, price, "USD")


def test_an_offer_keeps_its_promises_until_the_next(book: Book) -> None:
    owner, model = book.party.orchestrator_id, Capability("text-to-image", book.fresh("model"))
    price = unit_price("3e-08")
    with book.sessions.begin() as session:
        offers.publish(session, owner, model, price, "USD", warm=True, capacity=8)
        [first] = offers.live_for(session, model)
        assert (first.warm, first.capacity) == (True, 8)
        withdrawn = offers.withdraw(session, first)
        assert (withdrawn.warm, withdrawn.capacity) == (True, 8)
    with book.sessions.begin() as session:
        for capacity in (0, -1, offers.MAX_CAPACITY + 1):
            with pytest.raises(InvalidAmount, match="capacity"):
                offers.publish(session, owner, model, price, "USD", capacity=capacity)
        offers.publish(session, owner, model, price, "USD")
        [second] = offers.live_for(session, model)
        assert (second.warm, second.capacity) == (False, 1)
        assert second.valid_from >= first.valid_from


def test_the_words_of_an_offer_and_of_a_limit_are_kept(book: Book) -> None:
    price = unit_price("4768371.5", 3, "wei")
    assert (price.price_per_unit, price.pixels_per_unit) == (Decimal("0.000000000047683715"), 30)
    model = Capability("text-to-image", book.fresh("model"))
    with book.sessions.begin() as session:
        offers.publish(session, book.party.orchestrator_id, model, price, "USD")
        limits.set_limit(session, book.party.gateway_id, replace(CHEAP, price=price), "USD")
    with book.sessions.begin() as session:
        [offer] = offers.live_for(session, model)
        [limit] = limits.list_limits(session, book.party.gateway_id)
    assert str(offer.price) == str(limit.price) == "4768371.5 wei per 3 pixels"
    assert offer.price == limit.price == price


# --- planned offers ------------------------------------------------------------------------------


def test_a_planned_offer_holds_when_it_begins(book: Book) -> None:
    plan(book, "3E-8", 2 * DAY)
    plan(book, "2E-8", DAY)
    assert (holding(book), planned(book)) == (["1.9073484E-8"], ["2E-8", "3E-8"])
    let_days_pass(book, 1)
    assert (holding(book), planned(book)) == (["2E-8"], ["3E-8"])
    let_days_pass(book, 1)
    assert (holding(book), planned(book)) == (["3E-8"], [])


def test_a_planned_offer_that_is_withdrawn_is_as_if_it_had_not_been(book: Book) -> None:
    first, second = plan(book, "2E-8"), plan(book, "3E-8")
    withdraw(book, second)
    assert (holding(book), planned(book)) == (["1.9073484E-8"], ["2E-8"])
    withdraw(book, first)
    assert (holding(book), planned(book)) == (["1.9073484E-8"], [])
    let_days_pass(book, 2)
    assert holding(book) == ["1.9073484E-8"], "it goes on"
    with pytest.raises(UnknownOffer, match=f"no offer {first.id} that holds now or is planned"):
        withdraw(book, first)


def test_what_is_planned_begins_even_if_what_holds_is_withdrawn(book: Book) -> None:
    plan(book, "2E-8")
    withdraw(book, book.party.offer)
    assert (holding(book), planned(book)) == ([], ["2E-8"])
    let_days_pass(book, 1)
    assert holding(book) == ["2E-8"]


def test_what_is_published_meanwhile_leaves_plans_as_they_are(book: Book) -> None:
    plan(book, "2E-8")
    with book.sessions.begin() as session:
        publish(session, book, "5E-8")
    assert (holding(book), planned(book)) == (["5E-8"], ["2E-8"])


def test_an_offer_is_not_dated_back(book: Book) -> None:
    with pytest.raises(InvalidAmount, match="valid_from: must not be in the past"):
        plan(book, "2E-8", -timedelta(minutes=2))
    assert holding(book) == ["1.9073484E-8"]
    plan(book, "2E-8", -timedelta(seconds=30))
    assert holding(book) == ["2E-8"], "a clock that is a little late says now"


# --- at the same moment --------------------------------------------------------------------------


def test_a_withdrawal_does_not_withdraw_what_was_published_meanwhile(book: Book) -> None:
    with book.sessions.begin() as session:
        [seen] = offers.live_for(session, book.party.offer.capability)
        with book.sessions.begin() as other:
            publish(other, book, "2E-8")
        with pytest.raises(UnknownOffer):
            offers.withdraw(session, seen)
    assert holding(book) == ["2E-8"]


def test_what_is_published_last_holds_whoever_began_first(book: Book) -> None:
    with book.sessions.begin() as session:
        session.scalar(select(func.now()))
        with book.sessions.begin() as other:
            publish(other, book, "2E-8")
        publish(session, book, "3E-8")
    assert holding(book) == ["3E-8"]


def test_what_is_withdrawn_last_is_withdrawn_whoever_began_first(book: Book) -> None:
    with book.sessions.begin() as session:
        session.scalar(select(func.now()))
        with book.sessions.begin() as other:
            newer = publish(other, book, "2E-8")
        offers.withdraw(session, newer)
    assert (holding(book), planned(book)) == ([], [])


def test_publishers_of_one_orchestrator_take_turns(book: Book) -> None:
    with book.sessions.begin() as session:
        offers.withdraw(session, book.party.offer)
        with book.sessions() as other:
            other.connection().exec_driver_sql("SET LOCAL lock_timeout = '50ms'")
            with pytest.raises(DBAPIError, match="lock timeout"):
                publish(other, book, "2E-8")
    assert holding(book) == []


@pytest.mark.parametrize(
    ("columns", "values", "refusal"),
    [
        ("valid_from", "now() - interval '1 second'", "not dated back"),
        ("created_at", "now() - interval '1 second'", "not dated back"),
        ("withdraws", ":offer", "ck_offers_withdraws_is_withdrawn"),
        ("withdraws, withdrawn", "0, true", "fk_offers_withdraws_offers"),
    ],
)
def test_the_database_refuses_offers_that_cannot_be(
    book: Book, columns: str, values: str, refusal: str
) -> None:
    statement = f"""
        INSERT INTO offers (orchestrator_id, pipeline, model_id, price_per_unit, pixels_per_unit,
                            currency, {columns})
        SELECT orchestrator_id, pipeline, model_id, 1, 1, 'USD', {values}
          FROM offers WHERE id = CAST(:offer AS bigint)"""
    with pytest.raises(DBAPIError, match=refusal):
        book.execute(statement, offer=book.party.offer.id)
    assert holding(book) == ["1.9073484E-8"]
