"""Every way in which the ledger refuses, as one tree.

    LedgerError
    |-- InvalidAmount           no exact amount of 18 decimals, or a value out of its bounds
    |-- InvalidName             a name or reference that cannot be used
    |-- InvalidMonth            a month for which there can be no invoice
    |-- NameTaken               a gateway or orchestrator of that name exists
    |-- UnknownGateway
    |-- UnknownOrchestrator
    |-- UnknownOffer            an offer that neither holds nor is planned
    |-- CurrencyMismatch        amounts of two currencies that cannot be compared
    |-- FeedError               a source of exchange rates that cannot be read
    |-- InvalidFile             a file of prices or limits that says what cannot be; names the line
    |-- RateError               a price that cannot be converted
    |   |-- NoRate              nobody has said what a currency is worth
    |   `-- StaleRate           what was said last is too old
    |-- Refused                 a job that may not be paid for
    |   |-- NoPriceLimit        the gateway has not said what it would pay
    |   |-- OverPriceLimit      every offer is above the gateway's limit
    |   |-- OverBudget          a budget of the day or month does not cover the amount
    |   `-- InsufficientFunds   the balance does not cover the amount
    |-- ReferenceReused         a reference seen before, with other facts
    |-- UnknownHold
    |-- UnknownCharge           nothing was charged for the hold
    |-- UnknownPayout
    |-- NothingOwed             a payout of nothing
    |-- PayoutReversed          a payout is not paid after all of it was taken back
    `-- HoldAlreadyResolved     a hold is captured, voided or expired once

The classes carry facts. HTTP statuses belong to the floors above.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from ledger.money import UnitPrice


class LedgerError(Exception):
    """Base of every error that this floor raises on purpose."""

    code = "ledger_error"


class InvalidAmount(LedgerError):
    """Raised when an amount or what goes with it is not exact or not allowed; names the field."""

    code = "invalid_amount"

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class InvalidName(LedgerError):
    """Raised when a name, reference or scope is empty, too long or has odd characters."""

    code = "invalid_name"


class InvalidMonth(LedgerError):
    """Raised when an invoice is asked for a month that is none, before 1970, or in the future."""

    code = "invalid_month"

    def __init__(self, month: str, reason: str) -> None:
        self.month = month
        self.reason = reason
        super().__init__(f"month: {month[:40]!r} {reason}.")


class NameTaken(LedgerError):
    """Raised when a gateway or orchestrator of that name exists already."""

    code = "name_taken"

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"There is already {kind} {name!r}; choose another name.")


class UnknownGateway(LedgerError):
    """Raised when a gateway is not in the ledger."""

    code = "unknown_gateway"

    def __init__(self, gateway: UUID | str) -> None:
        self.gateway = gateway
        super().__init__(
            f"There is no gateway {gateway}; `pixeltoll gateway list` shows those that there are."
        )


class UnknownOrchestrator(LedgerError):
    """Raised when an orchestrator is not in the ledger."""

    code = "unknown_orchestrator"

    def __init__(self, orchestrator: UUID | str) -> None:
        self.orchestrator = orchestrator
        super().__init__(
            f"There is no orchestrator {orchestrator}; `pixeltoll orchestrator list` shows those "
            "that there are."
        )


class UnknownOffer(LedgerError):
    """Raised when an orchestrator has no such offer that holds now or begins later."""

    code = "unknown_offer"

    def __init__(self, orchestrator: str, offer_id: int) -> None:
        self.orchestrator = orchestrator
        self.offer_id = offer_id
        super().__init__(
            f"{orchestrator} has no offer {offer_id} that holds now or is planned; list its offers "
            "to see those that are."
        )


class CurrencyMismatch(LedgerError):
    """Raised when amounts of two currencies would be compared, or one settled as the other."""

    code = "currency_mismatch"

    def __init__(self, currency: str, settlement: str) -> None:
        self.currency = currency
        self.settlement = settlement
        super().__init__(
            f"This is in {currency}, but would be settled in {settlement}: state it in "
            f"{settlement}, or set PIXELTOLL_SETTLEMENT_CURRENCY to what the books are in."
        )


class FeedError(LedgerError):
    """Raised when a source of exchange rates cannot be read, or says what cannot be a rate."""

    code = "feed_error"


class InvalidFile(LedgerError):
    """Raised when a file that is to be taken over cannot be; names the line and the field."""

    code = "invalid_file"

    def __init__(self, file: str, line: int, reason: str) -> None:
        self.file = file
        self.line = line
        # Imported here, because names raise these errors.
        from ledger.names import shown

        self.reason = shown(reason)
        super().__init__(f"{file}, line {line}: {self.reason}. Nothing was changed.")


class RateError(LedgerError):
    """Base of the reasons why a price cannot be converted into the settlement currency."""

    code = "rate_error"


class NoRate(RateError):
    """Raised when there is no exchange rate."""

    code = "no_rate"

    def __init__(self, currency: str, settlement: str) -> None:
        self.currency = currency
        self.settlement = settlement
        super().__init__(
            f"There is no exchange rate from {currency} to {settlement}; "
            "set one with `pixeltoll rates set`."
        )


class StaleRate(RateError):
    """Raised when the newest exchange rate is older than allowed: it is not guessed with."""

    code = "stale_rate"

    def __init__(self, currency: str, settlement: str, age: timedelta, max_age: timedelta) -> None:
        self.currency = currency
        self.settlement = settlement
        self.age = age
        self.max_age = max_age
        super().__init__(
            f"The newest exchange rate from {currency} to {settlement} is {age} old, and at most "
            f"{max_age} is allowed; set one with `pixeltoll rates set`."
        )


class Refused(LedgerError):
    """Base of the reasons why a job may not be paid for."""

    code = "refused"


class NoPriceLimit(Refused):
    """Raised when no limit applies: silence is not consent to any price."""

    code = "no_price_limit"

    def __init__(
        self, pipeline: str, model_id: str, best: UnitPrice | None, orchestrator: str | None
    ) -> None:
        self.pipeline = pipeline
        self.model_id = model_id
        self.best = best
        self.orchestrator = orchestrator
        price = f" The best price now is {best}, from {orchestrator}." if best else ""
        super().__init__(
            f"This gateway has set no price limit for {pipeline} with {model_id!r}.{price} "
            "Set one with PUT /v1/limits, or with `pixeltoll limit set`."
        )


class OverPriceLimit(Refused):
    """Raised when the best offer is above the limit; says by whom and what the limit is."""

    code = "over_price_limit"

    def __init__(self, limit: UnitPrice, best: UnitPrice, orchestrator: str) -> None:
        self.limit = limit
        self.best = best
        self.orchestrator = orchestrator
        super().__init__(
            f"The best price is {best}, from {orchestrator}; the limit is {limit}. "
            "Raise the limit or the request's max_price, or wait for a cheaper offer."
        )


class OverBudget(Refused):
    """Raised when a spending budget does not cover the amount; says which, and what is left.

    The database raised it first, so the transaction cannot go on.
    """

    code = "over_budget"

    def __init__(
        self,
        period: str,
        api_key_id: str | None,
        budget: Decimal,
        used: Decimal,
        needed: Decimal,
        currency: str,
    ) -> None:
        # Imported here, because money raises these errors.
        from ledger.money import EXACT, plain

        self.period = period
        self.api_key_id = api_key_id
        self.budget = budget
        self.used = used
        self.needed = needed
        self.remaining = max(EXACT.subtract(budget, used), Decimal(0))
        self.currency = currency
        whose = f"API key {api_key_id}" if api_key_id else "this gateway"
        super().__init__(
            f"The amount is {plain(needed)} {currency}, and of the {plain(budget)} {currency} that "
            f"{whose} may spend in a {period}, {plain(self.remaining)} {currency} is left; "
            f"raise the budget, or wait for the next {period}."
        )


class InsufficientFunds(Refused):
    """Raised when the available balance is below the amount; says what is missing."""

    code = "insufficient_funds"

    def __init__(self, needed: Decimal, available: Decimal, currency: str) -> None:
        # Imported here, because money raises these errors.
        from ledger.money import EXACT, plain

        self.needed = needed
        self.available = available
        self.missing = EXACT.subtract(needed, available)
        self.currency = currency
        super().__init__(
            f"The amount is {plain(needed)} {currency} and {plain(available)} {currency} is "
            f"available; top up at least {plain(self.missing)} {currency}."
        )


class ReferenceReused(LedgerError):
    """Raised when an operation's reference was used before for something else."""

    code = "reference_reused"

    def __init__(self, reference: str) -> None:
        self.reference = reference
        super().__init__(
            f"Reference {reference!r} belongs to an earlier operation with other facts; "
            "use a new reference."
        )


class UnknownHold(LedgerError):
    """Raised when a hold is not in the ledger."""

    code = "unknown_hold"

    def __init__(self, hold_id: UUID) -> None:
        self.hold_id = hold_id
        super().__init__(f"There is no hold {hold_id}.")


class UnknownCharge(LedgerError):
    """Raised when a refund names a hold for which nothing was charged."""

    code = "unknown_charge"

    def __init__(self, hold_id: UUID) -> None:
        self.hold_id = hold_id
        super().__init__(
            f"Nothing was charged for hold {hold_id}, so there is nothing to give back."
        )


class UnknownPayout(LedgerError):
    """Raised when a payout is not in the ledger."""

    code = "unknown_payout"

    def __init__(self, reference: str) -> None:
        self.reference = reference
        super().__init__(
            f"There is no payout {reference}; `pixeltoll payout list` shows those that there are."
        )


class NothingOwed(LedgerError):
    """Raised when a payout would pay nobody anything."""

    code = "nothing_owed"

    def __init__(self, currency: str) -> None:
        self.currency = currency
        super().__init__(f"amount: nothing is owed in {currency}, so there is nothing to pay out.")


class PayoutReversed(LedgerError):
    """Raised when a payout is to be paid of which every line was reversed."""

    code = "payout_reversed"

    def __init__(self, reference: str) -> None:
        self.reference = reference
        super().__init__(
            f"All of payout {reference} was reversed, and is owed again; make a new payout of it."
        )


class HoldAlreadyResolved(LedgerError):
    """Raised when a hold that was captured, voided or expired is to be resolved again."""

    code = "hold_already_resolved"

    def __init__(self, hold_id: UUID, state: str) -> None:
        self.hold_id = hold_id
        self.state = state
        super().__init__(f"Hold {hold_id} is already {state}.")
