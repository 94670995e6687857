"""The rows of the books.

What may be written, and what may never change, is enforced by the database (the migrations). All
rows are in one file, long as it is, because the books are read as a whole.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from ledger.db import Base
from ledger.money import StatedPrice, UnitPrice

AMOUNT = Numeric(38, 18)
# What people set: a type of so many digits would round what has more, where it has to be refused.
_PRICE = Numeric()
_NOW = func.now()


def _uuid_key() -> Mapped[UUID]:
    return mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))


def _big_key() -> Mapped[int]:
    return mapped_column(BigInteger, Identity(always=True), primary_key=True)


def _created() -> Mapped[datetime]:
    return mapped_column(DateTime(timezone=True), server_default=_NOW)


# Reports are by UTC's days and months. Computed by the database, so that they can be indexed.
_DAY = "(created_at AT TIME ZONE 'UTC')::date"
_MONTH = f"{_DAY} - (extract(day FROM (created_at AT TIME ZONE 'UTC'))::integer - 1)"


def _day() -> Mapped[date]:
    return mapped_column(Date, Computed(_DAY, persisted=True), nullable=True)


def _month() -> Mapped[date]:
    return mapped_column(Date, Computed(_MONTH, persisted=True), nullable=True)


class Gateway(Base):
    """The paying caller."""

    __tablename__ = "gateways"

    id: Mapped[UUID] = _uuid_key()
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = _created()


class Orchestrator(Base):
    """Who runs GPUs and sets prices. `fee_rate` is the platform's share of each charge, 0 to 1."""

    __tablename__ = "orchestrators"
    __table_args__ = (CheckConstraint("fee_rate BETWEEN 0 AND 1", name="fee_rate"),)

    id: Mapped[UUID] = _uuid_key()
    name: Mapped[str] = mapped_column(unique=True)
    fee_rate: Mapped[Decimal] = mapped_column(Numeric(7, 6), server_default=text("0"))
    created_at: Mapped[datetime] = _created()


def _unique_account(*columns: str, of: str) -> Index:
    # Of some accounts each, so that none is looked up by an index that does not know its owner.
    name = f"uq_accounts_{'_'.join(columns)}"
    return Index(name, *columns, unique=True, postgresql_where=text(of))


class Account(Base):
    """One account. Only `available` carries a `balance`; the others are sums of postings."""

    __tablename__ = "accounts"
    __table_args__ = (
        _unique_account("gateway_id", "kind", of="gateway_id IS NOT NULL"),
        _unique_account("orchestrator_id", "kind", of="orchestrator_id IS NOT NULL"),
        _unique_account("kind", "currency", of="gateway_id IS NULL AND orchestrator_id IS NULL"),
        CheckConstraint("balance >= 0", name="balance_not_negative"),
    )

    id: Mapped[int] = _big_key()
    kind: Mapped[str]
    gateway_id: Mapped[UUID | None] = mapped_column(ForeignKey("gateways.id"))
    orchestrator_id: Mapped[UUID | None] = mapped_column(ForeignKey("orchestrators.id"))
    currency: Mapped[str]
    balance: Mapped[Decimal | None] = mapped_column(AMOUNT)
    created_at: Mapped[datetime] = _created()


class ExchangeRate(Base):
    """What one of the base currency is worth in the quote currency, who says so, and as of when.

    Never edited: a later row supersedes it.
    """

    __tablename__ = "exchange_rates"
    __table_args__ = (
        Index(
            "ix_exchange_rates_newest",
            "base_currency",
            "quote_currency",
            text("observed_at DESC"),
            text("id DESC"),
        ),
    )

    id: Mapped[int] = _big_key()
    base_currency: Mapped[str]
    quote_currency: Mapped[str]
    rate: Mapped[Decimal] = mapped_column(AMOUNT)
    source: Mapped[str]
    observed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = _created()


class _Stated:
    """The words that a price was stated in, where they were not those of the books."""

    stated_price_per_unit: Mapped[Decimal | None] = mapped_column(Numeric)
    stated_pixels_per_unit: Mapped[int | None] = mapped_column(BigInteger)
    stated_currency: Mapped[str | None]

    @property
    def stated(self) -> StatedPrice | None:
        """The operator's own words, or None where they are those of the books."""
        if (
            self.stated_price_per_unit is None
            or self.stated_pixels_per_unit is None
            or self.stated_currency is None
        ):
            return None
        return StatedPrice(
            self.stated_price_per_unit, self.stated_pixels_per_unit, self.stated_currency
        )


class Offer(_Stated, Base):
    """An orchestrator's price for a capability from a time on.

    Never edited: a later row supersedes it.
    """

    __tablename__ = "offers"
    __table_args__ = (
        CheckConstraint("price_per_unit > 0 AND price_per_unit < 'NaN'", name="price_above_zero"),
        CheckConstraint("pixels_per_unit > 0", name="pixels_above_zero"),
        CheckConstraint("capacity > 0", name="capacity_above_zero"),
        CheckConstraint("withdraws IS NULL OR withdrawn", name="withdraws_is_withdrawn"),
        Index(
            "uq_offers_withdraws",
            "withdraws",
            unique=True,
            postgresql_where=text("withdraws IS NOT NULL"),
        ),
        Index(
            "ix_offers_capability",
            "pipeline",
            "model_id",
            "orchestrator_id",
            text("valid_from DESC"),
            text("id DESC"),
        ),
    )

    id: Mapped[int] = _big_key()
    orchestrator_id: Mapped[UUID] = mapped_column(ForeignKey("orchestrators.id"))
    pipeline: Mapped[str]
    model_id: Mapped[str]
    price_per_unit: Mapped[Decimal] = mapped_column(_PRICE)
    pixels_per_unit: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str]
    withdrawn: Mapped[bool] = mapped_column(server_default=text("false"))
    # An offer that is withdrawn before it begins: as if it, and nothing else, had not been.
    withdraws: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("offers.id"))
    # Promises: the model is kept in memory, and so many workers at once serve the offer.
    warm: Mapped[bool] = mapped_column(server_default=text("false"))
    capacity: Mapped[int] = mapped_column(server_default=text("1"))
    valid_from: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=_NOW)
    created_at: Mapped[datetime] = _created()

    @property
    def price(self) -> UnitPrice:
        """The exact unit price."""
        return UnitPrice(self.price_per_unit, self.pixels_per_unit, self.currency, self.stated)


class PriceLimit(_Stated, Base):
    """The most a gateway pays per unit: for a model, else a pipeline, else everything (nulls).

    A null price is the explicit row that says "any price".
    """

    __tablename__ = "price_limits"
    __table_args__ = (
        UniqueConstraint("gateway_id", "pipeline", "model_id", postgresql_nulls_not_distinct=True),
    )

    id: Mapped[int] = _big_key()
    gateway_id: Mapped[UUID] = mapped_column(ForeignKey("gateways.id"))
    pipeline: Mapped[str | None]
    model_id: Mapped[str | None]
    price_per_unit: Mapped[Decimal | None] = mapped_column(_PRICE)
    pixels_per_unit: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None]
    created_at: Mapped[datetime] = _created()

    @property
    def price(self) -> UnitPrice | None:
        """The exact unit price, or None for any price."""
        if self.price_per_unit is None or self.pixels_per_unit is None or self.currency is None:
            return None
        return UnitPrice(self.price_per_unit, self.pixels_per_unit, self.currency, self.stated)


class Hold(Base):
    """Funds reserved for one job: what was quoted, the limit that allowed it, the platform's share.

    `state` follows the entry that resolves the hold; only the database writes it.
    """

    __tablename__ = "holds"
    __table_args__ = (
        Index("ix_holds_open", "gateway_id", postgresql_where=text("state = 'open'")),
        Index("ix_holds_open_expiry", "expires_at", postgresql_where=text("state = 'open'")),
        # A reference has one first hold, and a hold at most one that takes its place.
        Index(
            "uq_holds_reference",
            "reference",
            unique=True,
            postgresql_where=text("supersedes IS NULL"),
        ),
        Index(
            "uq_holds_supersedes",
            "supersedes",
            unique=True,
            postgresql_where=text("supersedes IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = _uuid_key()
    reference: Mapped[str]
    gateway_id: Mapped[UUID] = mapped_column(ForeignKey("gateways.id"))
    orchestrator_id: Mapped[UUID] = mapped_column(ForeignKey("orchestrators.id"))
    offer_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("offers.id"))
    pipeline: Mapped[str]
    model_id: Mapped[str]
    units: Mapped[int] = mapped_column(BigInteger)
    price_per_unit: Mapped[Decimal] = mapped_column(AMOUNT)
    pixels_per_unit: Mapped[int] = mapped_column(BigInteger)
    limit_price_per_unit: Mapped[Decimal | None] = mapped_column(AMOUNT)
    limit_pixels_per_unit: Mapped[int | None] = mapped_column(BigInteger)
    fee_rate: Mapped[Decimal] = mapped_column(Numeric(7, 6))
    currency: Mapped[str]
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    state: Mapped[str] = mapped_column(server_default=text("'open'"))
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = _created()
    resolved_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # Null where price or limit are in the currency of the amount.
    price_currency: Mapped[str | None]
    limit_currency: Mapped[str | None]
    rate: Mapped[Decimal | None] = mapped_column(AMOUNT)
    rate_divisor: Mapped[Decimal | None] = mapped_column(AMOUNT)
    rate_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("exchange_rates.id"))
    # Who spent, where a budget may be for one API key.
    api_key_id: Mapped[str | None]
    # The hold whose place this one took, when the job moved to another orchestrator.
    supersedes: Mapped[UUID | None] = mapped_column(ForeignKey("holds.id"))

    @property
    def price(self) -> UnitPrice:
        """The exact unit price that was quoted, in the offer's own currency."""
        currency = self.price_currency or self.currency
        return UnitPrice(self.price_per_unit, self.pixels_per_unit, currency)

    @property
    def limit_price(self) -> UnitPrice | None:
        """The limit that allowed the price, or None for any price."""
        if self.limit_price_per_unit is None or self.limit_pixels_per_unit is None:
            return None
        currency = self.limit_currency or self.currency
        return UnitPrice(self.limit_price_per_unit, self.limit_pixels_per_unit, currency)

    @property
    def exchange(self) -> Fraction:
        """What one of the price's currency is worth in the amount's."""
        if self.price_currency is None or self.rate is None or self.rate_divisor is None:
            return Fraction(1)
        return Fraction(self.rate) / Fraction(self.rate_divisor)


class Budget(Base):
    """What a gateway, or one of its API keys, may spend in each day or month."""

    __tablename__ = "budgets"
    __table_args__ = (
        UniqueConstraint("gateway_id", "api_key_id", "period", postgresql_nulls_not_distinct=True),
    )

    id: Mapped[int] = _big_key()
    gateway_id: Mapped[UUID] = mapped_column(ForeignKey("gateways.id"))
    api_key_id: Mapped[str | None]
    period: Mapped[str]
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    created_at: Mapped[datetime] = _created()


class BudgetUsage(Base):
    """What is used of a budget in the period that starts then; only the database writes it."""

    __tablename__ = "budget_usage"

    budget_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("budgets.id", ondelete="CASCADE"), primary_key=True
    )
    starts: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    used: Mapped[Decimal] = mapped_column(AMOUNT)


class PayoutBatch(Base):
    """A payout to orchestrators, by a reference that is used once."""

    __tablename__ = "payout_batches"

    id: Mapped[int] = _big_key()
    reference: Mapped[str] = mapped_column(unique=True)
    currency: Mapped[str]
    created_at: Mapped[datetime] = _created()


class Payout(Base):
    """One orchestrator's line of a batch.

    `state` follows its entries; only the database writes it.
    """

    __tablename__ = "payouts"
    __table_args__ = (UniqueConstraint("batch_id", "orchestrator_id"),)

    id: Mapped[int] = _big_key()
    batch_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("payout_batches.id"))
    orchestrator_id: Mapped[UUID] = mapped_column(ForeignKey("orchestrators.id"), index=True)
    currency: Mapped[str]
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    state: Mapped[str] = mapped_column(server_default=text("'created'"))
    created_at: Mapped[datetime] = _created()
    paid_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    reversed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Entry(Base):
    """One balanced, immutable event in one currency."""

    __tablename__ = "entries"
    __table_args__ = (
        Index(
            "uq_entries_hold_resolution",
            "hold_id",
            unique=True,
            postgresql_where=text("kind IN ('capture', 'void', 'expire')"),
        ),
        Index(
            "uq_entries_hold_authorization",
            "hold_id",
            unique=True,
            postgresql_where=text("kind = 'hold'"),
        ),
        Index(
            "uq_entries_payout_id_kind",
            "payout_id",
            "kind",
            unique=True,
            postgresql_where=text("payout_id IS NOT NULL"),
        ),
    )

    id: Mapped[int] = _big_key()
    kind: Mapped[str]
    reference: Mapped[str | None] = mapped_column(unique=True)
    currency: Mapped[str]
    hold_id: Mapped[UUID | None]
    payout_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("payouts.id"))
    created_at: Mapped[datetime] = _created()


class Posting(Base):
    """One signed line of an entry: above zero credits the account, below zero debits it."""

    __tablename__ = "postings"
    __table_args__ = (
        UniqueConstraint("entry_id", "account_id"),
        CheckConstraint("amount <> 0", name="amount_not_zero"),
        Index("ix_postings_account_id_xid_id", "account_id", "xid", "id"),
    )

    id: Mapped[int] = _big_key()
    entry_id: Mapped[int] = mapped_column(BigInteger)
    account_id: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    # The transaction that wrote it, for snapshots of balances.
    xid: Mapped[int] = mapped_column(
        BigInteger, server_default=text("(pg_current_xact_id()::text::bigint)")
    )


class BalanceSnapshot(Base):
    """What transactions below the horizon posted to an account; only the database writes it."""

    __tablename__ = "balance_snapshots"

    account_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("accounts.id"), primary_key=True, autoincrement=False
    )
    horizon: Mapped[int] = mapped_column(BigInteger)
    debit: Mapped[Decimal] = mapped_column(Numeric)
    credit: Mapped[Decimal] = mapped_column(Numeric)
    postings: Mapped[int] = mapped_column(BigInteger)
    taken_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=_NOW)


class Charge(Base):
    """What one job cost: the captured part of its hold, and how it was split.

    `refunded` follows the charge's refunds; only the database writes it.
    """

    __tablename__ = "charges"
    __table_args__ = (
        Index("ix_charges_gateway_id_day", "gateway_id", "day"),
        Index("ix_charges_gateway_id_month", "gateway_id", "month"),
        Index("ix_charges_orchestrator_id_day", "orchestrator_id", "day"),
        Index("ix_charges_day", "day", postgresql_using="brin"),
    )

    hold_id: Mapped[UUID] = mapped_column(primary_key=True)
    entry_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    reference: Mapped[str] = mapped_column(unique=True)
    gateway_id: Mapped[UUID]
    orchestrator_id: Mapped[UUID]
    pipeline: Mapped[str]
    model_id: Mapped[str]
    units: Mapped[int] = mapped_column(BigInteger)
    price_per_unit: Mapped[Decimal] = mapped_column(AMOUNT)
    pixels_per_unit: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str]
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    platform_fee: Mapped[Decimal] = mapped_column(AMOUNT)
    orchestrator_payment: Mapped[Decimal] = mapped_column(AMOUNT)
    refunded: Mapped[Decimal] = mapped_column(AMOUNT, server_default=text("0"))
    price_currency: Mapped[str | None]
    rate: Mapped[Decimal | None] = mapped_column(AMOUNT)
    rate_divisor: Mapped[Decimal | None] = mapped_column(AMOUNT)
    created_at: Mapped[datetime] = _created()
    day: Mapped[date] = _day()
    month: Mapped[date] = _month()


class Refund(Base):
    """A part of a charge that was given back, split as the charge was.

    Whose it is follows the charge; only the database writes it.
    """

    __tablename__ = "refunds"
    __table_args__ = (
        Index("ix_refunds_gateway_id_day", "gateway_id", "day"),
        Index("ix_refunds_orchestrator_id_day", "orchestrator_id", "day"),
        Index("ix_refunds_day", "day"),
    )

    entry_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("entries.id"), primary_key=True)
    hold_id: Mapped[UUID] = mapped_column(ForeignKey("charges.hold_id"), index=True)
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    platform_fee: Mapped[Decimal] = mapped_column(AMOUNT)
    orchestrator_payment: Mapped[Decimal] = mapped_column(AMOUNT)
    created_at: Mapped[datetime] = _created()
    gateway_id: Mapped[UUID] = mapped_column(ForeignKey("gateways.id"))
    orchestrator_id: Mapped[UUID] = mapped_column(ForeignKey("orchestrators.id"))
    day: Mapped[date] = _day()
    month: Mapped[date] = _month()


class Refusal(Base):
    """A job that was not sold, and why. Not a part of the books."""

    __tablename__ = "refusals"
    __table_args__ = (Index("ix_refusals_gateway_id_id", "gateway_id", "id"),)

    id: Mapped[int] = _big_key()
    gateway_id: Mapped[UUID] = mapped_column(ForeignKey("gateways.id"))
    api_key_id: Mapped[str | None]
    reason: Mapped[str]
    pipeline: Mapped[str]
    model_id: Mapped[str]
    units: Mapped[int] = mapped_column(BigInteger)
    needed: Mapped[Decimal | None] = mapped_column(AMOUNT)
    available: Mapped[Decimal | None] = mapped_column(AMOUNT)
    currency: Mapped[str | None]
    price_per_unit: Mapped[Decimal | None] = mapped_column(AMOUNT)
    pixels_per_unit: Mapped[int | None] = mapped_column(BigInteger)
    price_currency: Mapped[str | None]
    limit_price_per_unit: Mapped[Decimal | None] = mapped_column(AMOUNT)
    limit_pixels_per_unit: Mapped[int | None] = mapped_column(BigInteger)
    limit_currency: Mapped[str | None]
    message: Mapped[str]
    created_at: Mapped[datetime] = _created()


class LimitWarning(Base):
    """A limit that was set for what nobody offered then. Not a part of the books."""

    __tablename__ = "limit_warnings"
    __table_args__ = (Index("ix_limit_warnings_gateway_id_id", "gateway_id", "id"),)

    id: Mapped[int] = _big_key()
    gateway_id: Mapped[UUID] = mapped_column(ForeignKey("gateways.id"))
    pipeline: Mapped[str]
    model_id: Mapped[str | None]
    message: Mapped[str]
    created_at: Mapped[datetime] = _created()
