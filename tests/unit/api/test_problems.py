"""Every error of every floor has a status, a code and a title."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal

import pytest
from flask import Flask
from werkzeug.exceptions import ImATeapot, RequestEntityTooLarge

from api import problems
from api.errors import ApiError, OfferNotEditable
from api.problems import HTTP_PROBLEMS, PROBLEMS, problem_of, respond
from ledger.errors import (
    InsufficientFunds,
    InvalidMonth,
    LedgerError,
    NoPriceLimit,
    NothingOwed,
    OverBudget,
    OverPriceLimit,
)
from ledger.money import unit_price
from tasks.errors import StorageError, TasksError, UnknownModel


def leaves(root: type[Exception]) -> Iterator[type[Exception]]:
    for child in root.__subclasses__():
        if child.__subclasses__():
            yield from leaves(child)
        else:
            yield child


@pytest.mark.parametrize("root", [LedgerError, TasksError, ApiError])
def test_every_error_is_mapped(root: type[Exception]) -> None:
    unmapped = [leaf for leaf in leaves(root) if leaf not in PROBLEMS]
    assert not unmapped


def test_a_code_means_one_thing() -> None:
    for problem in PROBLEMS.values():
        same = [other for other in PROBLEMS.values() if other.code == problem.code]
        assert {(other.status, other.title) for other in same} == {(problem.status, problem.title)}


def test_a_refusal_keeps_the_code_of_its_class() -> None:
    for kind, problem in PROBLEMS.items():
        if problem.status < 500:
            assert problem.code == kind.code  # type: ignore[attr-defined]
            assert re.fullmatch(r"[a-z_]+", problem.code)


def test_what_is_our_fault_never_speaks_for_itself() -> None:
    assert all(problem.detail for problem in PROBLEMS.values() if problem.status >= 500)


def test_an_error_without_a_row_takes_its_parents() -> None:
    class Slow(StorageError):
        """A store that is slow."""

    assert problem_of(Slow) is PROBLEMS[StorageError]
    assert problem_of(ZeroDivisionError).status == 500
    assert problem_of(ImATeapot).code == "i_m_a_teapot"
    assert problem_of(RequestEntityTooLarge) is HTTP_PROBLEMS[413]


def said(error: Exception) -> tuple[int, dict[str, object]]:
    with Flask("api").test_request_context("/v1/jobs"):
        response = respond(error)
    assert response.mimetype == "application/problem+json"
    return response.status_code, json.loads(response.data)


def test_an_over_priced_job_names_limit_price_and_seller() -> None:
    error = OverPriceLimit(unit_price("0.1", 1000), unit_price("0.2"), "north")
    assert said(error) == (
        402,
        {
            "type": "urn:pixeltoll:error:over_price_limit",
            "title": "Every price is too high",
            "status": 402,
            "detail": str(error),
            "instance": "/v1/jobs",
            "code": "over_price_limit",
            "limit": {"price_per_unit": "0.1", "pixels_per_unit": 1000, "currency": "USD"},
            "best_price": {"price_per_unit": "0.2", "pixels_per_unit": 1, "currency": "USD"},
            "orchestrator": "north",
        },
    )


def test_no_limit_without_any_offer_names_no_price() -> None:
    _, body = said(NoPriceLimit("text-to-image", "a/b", None, None))
    assert "best_price" not in body


def test_missing_funds_are_plain_decimals() -> None:
    _, body = said(InsufficientFunds(Decimal("1.50"), Decimal("0E-18"), "USD"))
    assert (body["needed"], body["available"], body["missing"]) == ("1.5", "0", "1.5")


@pytest.mark.parametrize("key", [None, "k1"])
def test_an_overdrawn_budget_names_whose_it_is_and_what_is_used(key: str | None) -> None:
    error = OverBudget("day", key, Decimal("2.50"), Decimal(2), Decimal(1), "USD")
    _, body = said(error)
    facts = ("period", "api_key_id", "budget", "used", "needed", "available", "currency")
    assert [body[name] for name in facts] == ["day", key, "2.5", "2", "1", "0.5", "USD"]


def test_an_offer_to_be_edited_names_the_fields_and_what_to_do() -> None:
    status, body = said(OfferNotEditable(7, ["currency", "price_per_unit"]))
    assert (status, body["code"]) == (409, "offer_not_editable")
    assert "Publish a new one with POST" in str(body["detail"])
    assert body["errors"] == [
        {"field": field, "message": "cannot be changed"} for field in ("currency", "price_per_unit")
    ]


@pytest.mark.parametrize(
    ("error", "status", "field"),
    [
        (InvalidMonth("2026-13", "is not a month such as 2026-11"), 422, "month"),
        (NothingOwed("USD"), 409, "amount"),
    ],
)
def test_a_message_that_names_its_field_is_told_of_that_field(
    error: Exception, status: int, field: str
) -> None:
    got, body = said(error)
    assert got == status
    assert [one["field"] for one in body["errors"]] == [field]  # type: ignore[attr-defined]


def test_an_unknown_model_names_the_known_ones() -> None:
    assert said(UnknownModel("x", ["a", "b"]))[1]["models"] == ["a", "b"]


def test_facts_belong_to_errors_that_exist() -> None:
    assert set(problems._FACTS) <= set(PROBLEMS)
