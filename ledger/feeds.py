"""Where exchange rates come from without anybody typing them: a port, and a file behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import rates
from ledger.errors import FeedError, LedgerError
from ledger.tables import ExchangeRate


@dataclass(frozen=True)
class Observation:
    """What a source says that one of the base currency is worth in the other, and as of when."""

    base_currency: str
    quote_currency: str
    rate: Decimal | str
    source: str
    observed_at: datetime


class RateFeed(Protocol):
    """A source of exchange rates."""

    def observe(self) -> Sequence[Observation]:
        """Return the newest rates that the source has.

        Raises:
            FeedError: It has none that can be read.
        """
        ...


class FileFeed:
    """Rates from a JSON file that somebody else keeps up to date.

    It is a list of objects with `base`, `quote` and `rate` (a number or a string, read exactly),
    and maybe `source` and `observed_at` (ISO 8601). The file's own name and time of change stand in
    for those two.
    """

    def __init__(self, path: Path) -> None:
        """Take the file's path. It is read at each observation."""
        self._path = path

    def observe(self) -> Sequence[Observation]:
        """Return what the file says now.

        Raises:
            FeedError: It is missing, or is not such a file; says where.
        """
        try:
            changed = datetime.fromtimestamp(self._path.stat().st_mtime, UTC)
            # Not as floats, which would change the digits.
            found = json.loads(self._path.read_bytes(), parse_float=Decimal)
        except (OSError, ValueError) as error:
            raise FeedError(f"{self._path}: {error}") from error
        if not isinstance(found, list):
            raise FeedError(f"{self._path}: must be a list of rates")
        return [self._observation(number, item, changed) for number, item in enumerate(found)]

    def _observation(self, number: int, item: dict[str, Any], changed: datetime) -> Observation:
        where = f"{self._path}: rate {number + 1}"
        try:
            seen = item.get("observed_at")
            observed_at = datetime.fromisoformat(seen) if seen else changed
            if observed_at.tzinfo is None:
                raise FeedError(f"{where}: observed_at must say its time zone")
            observed_at = observed_at.astimezone(UTC)
            rate = item["rate"]
            if isinstance(rate, bool) or not isinstance(rate, str | int | Decimal):
                raise FeedError(f"{where}: rate must be a number, or a text")
            exact = Decimal(rate) if isinstance(rate, int) else rate
            source = item.get("source")
            named = {**item, "source": self._path.name if source in (None, "") else source}
            texts = [named[name] for name in ("base", "quote", "source")]
            if not all(isinstance(text, str) for text in texts):
                raise FeedError(f"{where}: base, quote and source must be texts")
            base, quote, source = texts
            return Observation(base, quote, exact, source, observed_at)
        except KeyError as error:
            raise FeedError(f"{where}: {error.args[0]} is missing") from error
        except (AttributeError, TypeError, ValueError, ArithmeticError) as error:
            raise FeedError(f"{where}: {error}") from error


def refresh(session: Session, feed: RateFeed) -> list[ExchangeRate]:
    """Record what a feed has that is not recorded yet, all or nothing.

    Where it says two rates of one source and time, the last one is its word.

    Raises:
        FeedError: The feed cannot be read, or says what cannot be a rate.
    """
    try:
        newest = {_moment(seen): seen for seen in feed.observe()}
        return [
            rates.set_rate(
                session,
                seen.base_currency,
                seen.quote_currency,
                seen.rate,
                seen.source,
                seen.observed_at,
            )
            for seen in newest.values()
            if not _is_known(session, seen)
        ]
    except FeedError:
        raise
    except LedgerError as error:
        raise FeedError(str(error)) from error


def _moment(seen: Observation) -> tuple[str, str, str, datetime]:
    return seen.base_currency, seen.quote_currency, seen.source, seen.observed_at


def _is_known(session: Session, seen: Observation) -> bool:
    """Tell whether the source's last word of this time is recorded: a feed repeats itself.

    Raises:
        InvalidAmount, InvalidName: It cannot be recorded, nor looked for.
    """
    base, quote, rate = rates.checked(
        seen.base_currency, seen.quote_currency, seen.rate, seen.source
    )
    query = select(ExchangeRate.rate).where(
        ExchangeRate.base_currency == base,
        ExchangeRate.quote_currency == quote,
        ExchangeRate.observed_at == seen.observed_at,
        ExchangeRate.source == seen.source,
    )
    return session.scalar(query.order_by(ExchangeRate.id.desc()).limit(1)) == rate
