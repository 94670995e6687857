"""The only reader of the environment on this floor."""

from __future__ import annotations

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
