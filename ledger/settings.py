"""The only reader of the environment on this floor."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class LedgerSettings(BaseSettings):
    """Where the books are, and what they are kept in."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    database_url: str = Field(
        "postgresql://127.0.0.1/pixeltoll", description="PostgreSQL database of all floors."
    )
    settlement_currency: str = Field(
        "USD",
        validation_alias="PIXELTOLL_SETTLEMENT_CURRENCY",
        pattern="^(USD|ETH)$",
        description="The one currency of all balances. Chosen once, before the first job.",
    )
    max_rate_age_s: float = Field(
        86_400.0,
        validation_alias="PIXELTOLL_MAX_RATE_AGE_S",
        gt=0,
        description="An exchange rate older than this is an error, and no price is made with it.",
    )
    rates_file: Path | None = Field(
        None,
        validation_alias="PIXELTOLL_RATES_FILE",
        description="A JSON file of exchange rates that the scheduler reads every minute.",
    )
    audit_interval_s: float = Field(
        86_400.0,
        validation_alias="PIXELTOLL_AUDIT_INTERVAL_S",
        gt=0,
        description="How often the scheduler audits the books. It reads all of them: minutes, for "
        "ten million postings.",
    )
