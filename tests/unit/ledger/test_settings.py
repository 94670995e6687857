"""Pins the ledger's two settings: their variables, their defaults, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ledger.db import make_engine
from ledger.settings import LedgerSettings


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("PIXELTOLL_SETTLEMENT_CURRENCY", raising=False)
    settings = LedgerSettings()
    assert settings.settlement_currency == "USD"
    assert settings.database_url.startswith("postgresql://")


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://books/pixeltoll")
    monkeypatch.setenv("PIXELTOLL_SETTLEMENT_CURRENCY", "ETH")
    settings = LedgerSettings()
    assert settings.database_url == "postgresql://books/pixeltoll"
    assert settings.settlement_currency == "ETH"


def test_an_unknown_currency_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELTOLL_SETTLEMENT_CURRENCY", "EUR")
    with pytest.raises(ValidationError, match="PIXELTOLL_SETTLEMENT_CURRENCY"):
        LedgerSettings()


def test_a_plain_url_gets_our_driver_and_connects_to_nothing() -> None:
    engine = make_engine("postgresql://nobody@203.0.113.1:1/nothing?connect_timeout=1")
    assert engine.url.drivername == "postgresql+psycopg"
    assert engine.url.database == "nothing"
