"""Making a hold, and what a caller may have made in the same statement.

Part of `ledger.holds`, through which it is called. The database is asked once: it locks and
compares the balance, and only then do hold, entry and postings come to be, together with the
caller's own row. A statement is whole or not at all, so where it is all that there is to do it
needs no transaction around it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, column, select, text, true
from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from ledger import budgets
from ledger.accounts import balance
from ledger.db import known
from ledger.direct import Direct
from ledger.errors import CurrencyMismatch, InsufficientFunds, ReferenceReused
from ledger.limits import Limit
from ledger.offers import Quote
from ledger.tables import AMOUNT, Hold, Orchestrator
from ledger.terms import Terms, checked


@dataclass(frozen=True)
class Companion:
    """A row of a caller's own that comes to be with a hold, or not at all.

    `insert` takes the new row of `holds`, which is none when the hold is refused, and returns an
    INSERT that selects from it. `beside` is one row that the caller wants to see, before anything
    is locked.
    """

    insert: Callable[[CTE], Insert]
    beside: CTE


@dataclass(frozen=True)
class Held:
    """A hold that was made and its orchestrator, as rows of no session, and what was seen beside.

    They are made of what was written: to read all of it back takes longer than to write it.
    """

    hold: Hold
    orchestrator: Orchestrator
    beside: tuple[Any, ...]


def authorize(
    session: Session,
    gateway_id: UUID,
    reference: str,
    quote: Quote,
    limit: Limit,
    expires_at: datetime,
    *,
    api_key_id: str | None = None,
) -> UUID:
    """Reserve a quote's amount for the job that `reference` names; returns the hold's id.

    Raises:
        The same as `authorize_with`.
    """
    terms = Terms(gateway_id, reference, quote, limit, expires_at, api_key_id)
    available, hold_id = _execute(session, _alone(), terms, checked(terms))
    if hold_id is None:
        raise _refusal(terms, available)
    made: UUID = hold_id
    return made


def authorize_with(
    session: Session, terms: Terms, companion: Companion, values: Mapping[str, object]
) -> Held:
    """Reserve an amount and insert the caller's own row in the same statement, or do neither.

    The companion's row is made of `values`, which are as the driver takes them.

    Raises:
        InvalidName: The reference is empty, too long or has unprintable characters.
        InvalidAmount: The quote is for no units.
        OverPriceLimit: The quote's price is above the limit.
        InsufficientFunds: Less than the amount is available. Nothing is written.
        OverBudget: A budget of the gateway, or of the API key, does not cover the amount. A
            transaction around it cannot go on.
        ReferenceReused: The reference has a hold already. Nothing is written.
        UnknownGateway: There is no such gateway.
        CurrencyMismatch: The gateway's balance is in another currency than the quote.
        NoRate, StaleRate: The limit cannot be compared with the price.
        sqlalchemy.exc.IntegrityError: The companion may not be. Nothing is written, and a
            transaction around it cannot go on.
    """
    columns = checked(terms)
    row = _execute(session, _together(companion), terms, {**values, **columns})
    balance, hold_id, created_at, fee_rate, since, *beside = row
    if hold_id is None:
        raise _refusal(terms, balance)
    offer = terms.quote.offer
    hold = known(
        Hold,
        **columns,
        id=hold_id,
        fee_rate=fee_rate,
        state="open",
        created_at=created_at,
        resolved_at=None,
        supersedes=None,
    )
    orchestrator = known(
        Orchestrator,
        id=offer.orchestrator_id,
        name=offer.orchestrator,
        fee_rate=fee_rate,
        created_at=since,
    )
    return Held(hold, orchestrator, tuple(beside))


def _execute(
    session: Session,
    statement: Direct,
    terms: Terms,
    values: Mapping[str, object],
) -> tuple[Any, ...]:
    """Return the one row of the answer."""
    quote = terms.quote
    try:
        # In the order of time, so that new holds lie together in all indexes that have their ids.
        rows = statement.rows(session, {**values, "hold_id": uuid7()})
    except IntegrityError as error:
        over = budgets.refusal(error, quote.currency)
        if over is None:
            raise
        raise over from error
    if not rows:
        raise CurrencyMismatch(quote.currency, balance(session, terms.gateway_id).currency)
    [row] = rows
    return row


def _refusal(terms: Terms, available: Decimal) -> InsufficientFunds | ReferenceReused:
    quote = terms.quote
    if available < quote.amount:
        return InsufficientFunds(quote.amount, available, quote.currency)
    return ReferenceReused(terms.reference)


def _cte(name: str, sql: str, *columns: ColumnElement[Any]) -> CTE:
    # On one line, because psycopg keeps what it has parsed of a statement up to 4096 bytes only.
    return text(" ".join(sql.split())).columns(*columns).cte(name)


def _funds(*seen: CTE) -> CTE:
    """Return what locks the balance. What is `seen` is seen before, so that nobody waits for it."""
    return _cte(
        "funds",
        f"""
        SELECT {"".join(f"{one.name}.*, " for one in seen)}
               available.id AS available_id, available.balance, held.id AS held_id
          FROM {"".join(f"{one.name}, " for one in seen)} accounts available
          JOIN accounts held ON held.gateway_id = available.gateway_id AND held.kind = 'held'
         WHERE available.gateway_id = :gateway_id AND available.kind = 'available'
           AND available.currency = :currency
           FOR NO KEY UPDATE OF available
        """,  # noqa: S608  names
        column("balance", AMOUNT),
        *(column(each.name) for one in seen for each in one.c),
    )


_FUNDS = _funds()

_HOLD = _cte(
    "hold",
    """
    INSERT INTO holds (id, reference, gateway_id, orchestrator_id, offer_id, pipeline, model_id,
                       units, price_per_unit, pixels_per_unit, limit_price_per_unit,
                       limit_pixels_per_unit, fee_rate, currency, amount, expires_at,
                       price_currency, limit_currency, rate, rate_divisor, rate_id, api_key_id)
    SELECT :hold_id, :reference, :gateway_id, :orchestrator_id, :offer_id, :pipeline, :model_id,
           :units, :price_per_unit, :pixels_per_unit, :limit_price_per_unit, :limit_pixels_per_unit,
           (SELECT fee_rate FROM orchestrators WHERE id = :orchestrator_id),
           :currency, :amount, :expires_at, :price_currency, :limit_currency,
           CAST(:rate AS numeric), CAST(:rate_divisor AS numeric), CAST(:rate_id AS bigint),
           :api_key_id
      FROM funds WHERE funds.balance >= :amount
    ON CONFLICT (reference) WHERE supersedes IS NULL DO NOTHING
    RETURNING *
    """,
    *Hold.__table__.columns,
)

_ENTRY = _cte(
    "entry",
    """
    INSERT INTO entries (kind, currency, hold_id)
    SELECT 'hold', :currency, hold.id FROM hold
    RETURNING id
    """,
    column("id"),
)

_POSTING = _cte(
    "posting",
    """
    INSERT INTO postings (entry_id, account_id, amount)
    SELECT entry.id, line.account_id, line.amount FROM entry, funds,
           LATERAL (VALUES (funds.available_id, -CAST(:amount AS numeric)),
                           (funds.held_id, :amount)) AS line (account_id, amount)
    RETURNING id
    """,
    column("id"),
)


@functools.cache  # building a statement costs more than running it
def _alone() -> Direct:
    """Return what makes a hold: answers with the balance before, and the hold's id or none.

    No row at all: the gateway has no balance in the currency.
    """
    return Direct(
        select(_FUNDS.c.balance, _HOLD.c.id)
        .join_from(_FUNDS, _HOLD, true(), isouter=True)
        .add_cte(_FUNDS, _HOLD, _ENTRY, _POSTING)
    )


# The parts of a statement make their columns when it is first written, and that is not for many
# threads at the same time.
_BUILDING = threading.Lock()


def _together(companion: Companion) -> Direct:
    with _BUILDING:
        return _built_together(companion)


@functools.cache
def _built_together(companion: Companion) -> Direct:
    """Return the same with a companion: answers with what the rows lack, and what is seen beside.

    That is the balance, and what the database adds to a hold and its orchestrator: none of it when
    the hold is refused.
    """
    made = companion.insert(_HOLD).cte("made")
    funds = _funds(companion.beside)
    paid = Orchestrator.__table__
    return Direct(
        select(
            funds.c.balance,
            _HOLD.c.id,
            _HOLD.c.created_at,
            _HOLD.c.fee_rate,
            paid.c.created_at,
            *(funds.c[each.name] for each in companion.beside.c),
        )
        .join_from(funds, _HOLD, true(), isouter=True)
        .outerjoin(paid, paid.c.id == _HOLD.c.orchestrator_id)
        .add_cte(companion.beside, funds, _HOLD, _ENTRY, _POSTING, made)
    )
