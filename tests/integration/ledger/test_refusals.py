"""Pins that each reason for a refusal is recorded with its facts, and warnings of idle limits."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ledger import budgets, limits, refusals
from ledger.errors import InsufficientFunds, NoPriceLimit, OverPriceLimit, Refused
from ledger.limits import Limit
from ledger.money import unit_price
from tests.integration.ledger.helpers import CAPABILITY, Book

LOW = Limit(None, None, unit_price("1e-9"))


def record(book: Book, error: Refused) -> None:
    with book.sessions.begin() as session:
        refusals.record(session, book.party.gateway_id, CAPABILITY, 1000, error, "ann")


def test_every_reason_is_recorded_with_its_facts(book: Book) -> None:
    book.top_up("0.00001")
    with pytest.raises(InsufficientFunds) as funds:
        book.hold(1000)
    with pytest.raises(OverPriceLimit) as price:
        book.hold(1, limit=LOW)
    with book.sessions.begin() as session:
        budgets.set_budget(session, book.party.gateway_id, "day", "0")
    with pytest.raises(Refused) as budget:
        book.hold(1)
    silent = NoPriceLimit("text-to-image", "acme/turbo", book.party.offer.price, "north")
    for error in (funds.value, price.value, budget.value, silent):
        record(book, error)

    rows = {row.reason: row for row in book.rows("SELECT * FROM billing_refusals")}
    assert rows.keys() == set(refusals.REASONS.values())
    assert (rows["funds"].needed, rows["funds"].available) == (
        Decimal("0.000019073484"),
        Decimal("0.00001"),
    )
    assert rows["budget"].available == 0
    assert (rows["price"].price_per_unit, rows["price"].limit_price_per_unit) == (
        Decimal("1.9073484e-08"),
        Decimal("1e-9"),
    )
    assert rows["no_limit"].price_currency == "USD"
    for row in rows.values():
        assert (row.gateway, row.api_key_id, row.model_id) == ("north", "ann", CAPABILITY.model_id)
        assert row.message


def test_every_refusal_has_a_reason() -> None:
    assert set(refusals.REASONS) == set(Refused.__subclasses__())


def test_a_limit_for_what_nobody_offers_is_set_with_a_warning(book: Book) -> None:
    gateway = book.party.gateway_id
    known = Limit("text-to-image", "acme/north", None)
    odd = Limit("text-to-image", "acme/nobody", unit_price("1"))
    with book.sessions.begin() as session:
        assert limits.set_limit(session, gateway, known, "USD") is None
        warned = limits.replace_limits(
            session, gateway, [known, odd, LOW, Limit("image-to-image", None, None)], "USD"
        )
    assert [(one.pipeline, one.model_id) for one in warned] == [
        ("text-to-image", "acme/nobody"),
        ("image-to-image", None),
    ]
    assert "'acme/nobody'" in warned[0].message
    with book.sessions.begin() as session:
        assert odd in limits.list_limits(session, gateway)
        kept = limits.list_warnings(session, gateway)
    assert [one.id for one in kept] == [warned[1].id, warned[0].id]
