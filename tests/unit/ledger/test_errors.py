"""Pins that every refusal has a code of its own, says what to do, and carries exact facts."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from uuid import UUID

import pytest

from ledger import errors
from ledger.errors import InsufficientFunds, LedgerError, NoPriceLimit, OverPriceLimit
from ledger.money import unit_price

ONE = UUID(int=1)


def family(parent: type[LedgerError]) -> Iterator[type[LedgerError]]:
    yield parent
    for child in parent.__subclasses__():
        yield from family(child)


def test_codes_are_unique() -> None:
    codes = [error.code for error in family(LedgerError)]
    assert len(codes) == len(set(codes))


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    drawn = {line.split("-- ")[1].split()[0] for line in _drawing() if "-- " in line}
    assert drawn == {error.__name__ for error in family(LedgerError)} - {"LedgerError"}


def _drawing() -> list[str]:
    return (errors.__doc__ or "").splitlines()


def test_missing_funds_are_exact_beyond_the_default_precision() -> None:
    error = InsufficientFunds(
        Decimal("99999999999999999999.999999999999999999"), Decimal("0.000000000000000001"), "USD"
    )
    assert error.missing == Decimal("99999999999999999999.999999999999999998")
    assert "top up at least 99999999999999999999.999999999999999998 USD" in str(error)


@pytest.mark.parametrize("orchestrator", ["north", None])
def test_no_price_limit_names_the_best_price_if_there_is_one(orchestrator: str | None) -> None:
    best = unit_price("0.02") if orchestrator else None
    message = str(NoPriceLimit("text-to-image", "acme/turbo", best, orchestrator))
    assert ("0.02 USD per pixel, from north" in message) is bool(orchestrator)
    assert "limit set" in message


def test_over_price_limit_names_limit_price_and_whose_it_is() -> None:
    message = str(OverPriceLimit(unit_price("1"), unit_price("2"), "north"))
    assert "2 USD per pixel, from north" in message
    assert "the limit is 1 USD per pixel" in message


@pytest.mark.parametrize(
    "error",
    [
        errors.NameTaken("a gateway", "acme"),
        errors.UnknownGateway("acme"),
        errors.UnknownOrchestrator(ONE),
        errors.CurrencyMismatch("ETH", "USD"),
        errors.ReferenceReused("order 7"),
        errors.UnknownHold(ONE),
        errors.UnknownCharge(ONE),
        errors.HoldAlreadyResolved(ONE, "voided"),
    ],
)
def test_messages_name_their_facts(error: LedgerError) -> None:
    assert vars(error)
    for fact in vars(error).values():
        assert str(fact) in str(error)
