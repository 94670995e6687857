"""What the commands about the books share: their options, their database, how they read a price.

What they write is `pixeltoll.console`'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.orm import Session

from ledger import db, money
from ledger.money import UnitPrice
from ledger.settings import LedgerSettings
from pixeltoll.console import Format
from pixeltoll.errors import BadArgument
from pixeltoll.settings import UpSettings
from pixeltoll.state import Connection

GatewayName = Annotated[str, typer.Argument(metavar="GATEWAY", help="The gateway's name.")]
OrchestratorName = Annotated[
    str, typer.Argument(metavar="ORCHESTRATOR", help="The orchestrator's name.")
]
Amount = Annotated[str, typer.Argument(metavar="AMOUNT", help="How much, as a decimal.")]
PricePerUnit = Annotated[
    str, typer.Argument(metavar="PRICE", help="Price as a decimal, such as 0.000000019073484.")
]
PixelsPerUnit = Annotated[int, typer.Option(help="For how many pixels the price is.")]
PriceCurrency = Annotated[
    str, typer.Option(help="USD, ETH or wei; the settlement currency if not given.")
]
Pipeline = Annotated[str | None, typer.Option(help="For this pipeline only.")]
Model = Annotated[str | None, typer.Option(help="For this model only; needs --pipeline.")]
How = Annotated[Format, typer.Option("--format", help="How to write it.")]
Output = Annotated[Path, typer.Option(help="Write it to this file; - for standard output.")]
# So that -1 is a number, which is refused by its field's name, and not an option that nobody knows.
SIGNED = {"ignore_unknown_options": True}
# No books are older, and a calendar goes on after the last one.
_FIRST_DAY, _LAST_DAY = date(1970, 1, 1), date(9998, 12, 31)
PRICE_COLUMNS = ("price_per_unit", "pixels_per_unit", "currency")


def database_url(data_dir: Path) -> str:
    """Return the database to work on: the environment's, else the data folder's stack's.

    Raises:
        NotRunning: Neither is there.
    """
    return UpSettings().database_url or Connection.read(data_dir).database_url


@contextlib.contextmanager
def books(data_dir: Path) -> Iterator[Session]:
    """Open one transaction on the books; it is committed where nothing is raised.

    Raises:
        NotRunning: There is no database.
    """
    engine = db.make_engine(database_url(data_dir), pool_size=2)
    try:
        with db.session_factory(engine).begin() as session:
            yield session
    finally:
        engine.dispose()


def settlement_currency() -> str:
    """Return the currency that all balances are in."""
    return LedgerSettings().settlement_currency


def price(per_unit: str, pixels: int, currency: str = "") -> UnitPrice:
    """Read a price, in the settlement currency if in no other.

    Raises:
        InvalidAmount: It cannot be one; names the field.
    """
    return money.unit_price(per_unit, pixels, currency or settlement_currency())


def price_facts(price: UnitPrice | None) -> dict[str, object]:
    """Return a price as it was stated, by column; nothing in each where there is none."""
    stated = price and price.as_stated
    return {name: stated and getattr(stated, name) for name in PRICE_COLUMNS}


def moment(text: str, field: str) -> datetime:
    """Read a time.

    Raises:
        BadArgument: It is none, or does not say its time zone; names the field.
    """
    with contextlib.suppress(ValueError, OverflowError):  # year 1 east of Greenwich
        read = datetime.fromisoformat(text)
        if read.tzinfo is not None:
            return read.astimezone(UTC)
    message = f"{field}: {text!r} must be a time with its zone, such as 2026-11-30T12:00:00Z."
    raise BadArgument(message)


def day(text: str, field: str) -> date:
    """Read a day.

    Raises:
        BadArgument: It is none, or one of another age; names the field.
    """
    with contextlib.suppress(ValueError):
        read = date.fromisoformat(text)
        if _FIRST_DAY <= read <= _LAST_DAY:
            return read
    message = (
        f"{field}: {text!r} must be a day, such as 2026-11-30, from {_FIRST_DAY} to {_LAST_DAY}."
    )
    raise BadArgument(message)
