"""Livepeer's own files, read: `aiModels.json` for offers, `capabilities_prices` for limits.

Prices are in wei unless a currency is given, beside the price or as the end of it (`"0.5e-2USD"`),
and are read exactly. What a file says that has no meaning here is returned as ignored, with its
line, and never dropped in silence; what cannot be is an error that names the line and the field.
This reads text only: `pixeltoll offer import` and `pixeltoll limit import` act on it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ledger import names
from ledger.errors import InvalidAmount, InvalidFile, InvalidName
from ledger.limits import Limit
from ledger.located import Located, Number, read
from ledger.money import UnitPrice, unit_price
from ledger.offers import MAX_CAPACITY, Capability

DEFAULT = "default"  # every model of a pipeline, or every gateway
_CURRENCIES = {"": "wei", "wei": "wei", "eth": "ETH", "usd": "USD"}  # in whatever case

_PRICE = re.compile(
    r"\s*(?P<number>[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?)\s*(?P<currency>[A-Za-z]*)\s*"
)
_PRICE_FORM = 'must be a number, or a text such as "0.5e-2USD"'
_PRICED = frozenset({"pipeline", "model_id", "price_per_unit", "pixels_per_unit", "currency"})
_OFFERED = _PRICED | {"gateway", "warm", "capacity"}
_RUNNERS = frozenset({"optimization_flags", "url", "token"})


@dataclass(frozen=True)
class Defaults:
    """What Livepeer's flags of these names say where an entry of a file says nothing.

    Raises:
        InvalidAmount: They cannot be a price.
    """

    price_per_unit: str | None = None
    pixels_per_unit: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be: no line of a file would be to blame."""
        unit_price(*(self.price or ("1", self.pixels_per_unit, "wei")))

    @property
    def price(self) -> tuple[str, int, str] | None:
        """The default price, as `unit_price` takes it."""
        if self.price_per_unit is None:
            return None
        stated = _split(self.price_per_unit)
        if stated is None:
            raise InvalidAmount("price_per_unit", _PRICE_FORM)
        number, currency = stated
        return number, self.pixels_per_unit, _currency_named(currency)


NO_DEFAULTS = Defaults()


@dataclass(frozen=True)
class Ignored:
    """Something in a file that changes nothing here, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class ModelPrice:
    """An entry of `aiModels.json`: what is served, at what price, and how."""

    line: int
    capability: Capability
    price: UnitPrice
    warm: bool = False
    capacity: int = 1


@dataclass(frozen=True)
class AiModels:
    """What an `aiModels.json` says."""

    models: tuple[ModelPrice, ...]
    ignored: tuple[Ignored, ...]


@dataclass(frozen=True)
class CapabilitiesPrices:
    """What a `capabilities_prices` file says."""

    limits: tuple[Limit, ...]
    ignored: tuple[Ignored, ...]


def read_ai_models(
    text: str, file: str, pipelines: Collection[str], defaults: Defaults = NO_DEFAULTS
) -> AiModels:
    """Return what an `aiModels.json` offers.

    Entries of other `pipelines` are ignored: Livepeer prices those by the frame, the second or the
    character, and an offer here is for pixels. So are entries for one gateway's address, because an
    offer here is for every gateway. Both have to be right all the same. A price of zero is refused:
    nothing is free here.

    Raises:
        InvalidFile: It is no such file, has no price for a model, or names a model twice.
    """
    entries = _Entries(file, defaults)
    models = []
    for entry in entries.list_of(read(text, file)):
        fields = entries.fields(entry, _OFFERED)
        capability = Capability(
            entries.name(entry, fields, "pipeline"), entries.name(entry, fields, "model_id")
        )
        price = entries.price(entry, fields)
        if price is None:
            raise InvalidFile(
                file, entry.line, "price_per_unit: is missing; give it, or --price-per-unit"
            )
        warm, capacity = entries.warm(fields), entries.capacity(fields)
        gateway = entries.text(fields, "gateway")
        if gateway not in ("", DEFAULT):
            entries.ignore(entry, f"gateway: an offer is for every gateway, not only {gateway}")
        elif capability.pipeline not in pipelines:
            entries.ignore(entry, f"pipeline: {capability.pipeline} is not run here")
        else:
            entries.only_once(entry, (capability.pipeline, capability.model_id))
            models.append(ModelPrice(entry.line, capability, price, warm, capacity))
    return AiModels(tuple(models), entries.all_ignored())


def read_capabilities_prices(
    text: str, file: str, defaults: Defaults = NO_DEFAULTS
) -> CapabilitiesPrices:
    """Return the limits that a `capabilities_prices` file sets.

    A `model_id` that is missing, empty or `default` is for every model of the pipeline. Any
    pipeline is taken, as a limit for what nobody offers is. An entry without a price above zero
    takes the default; without one it is ignored, so that the limit of its pipeline, or the
    gateway's, holds.

    Raises:
        InvalidFile: It is no such file, or has two limits for the same.
    """
    entries = _Entries(file, defaults)
    document = read(text, file)
    fields = entries.fields(document, {"capabilities_prices"})
    if "capabilities_prices" not in fields:
        raise InvalidFile(file, document.line, "capabilities_prices: is missing")
    limits = []
    for entry in entries.list_of(fields["capabilities_prices"], "capabilities_prices: "):
        fields = entries.fields(entry, _PRICED)
        pipeline = entries.name(entry, fields, "pipeline")
        every_model = entries.text(fields, "model_id") in ("", DEFAULT)
        model_id = None if every_model else entries.name(entry, fields, "model_id")
        entries.only_once(entry, (pipeline, model_id))
        price = entries.price(entry, fields, above_zero=True)
        if price is None:
            entries.ignore(entry, "price_per_unit: no price above zero, and so no limit")
        else:
            limits.append(Limit(pipeline, model_id, price))
    return CapabilitiesPrices(tuple(limits), entries.all_ignored())


@dataclass
class _Entries:
    """Reads the entries of one file, and keeps what was ignored and what was seen."""

    file: str
    defaults: Defaults
    ignored: list[Ignored] = field(default_factory=list)
    _seen: dict[tuple[str, str | None], int] = field(default_factory=dict)

    def ignore(self, where: Located, reason: str) -> None:
        self.ignored.append(Ignored(where.line, names.shown(reason)))

    def all_ignored(self) -> tuple[Ignored, ...]:
        return tuple(sorted(self.ignored, key=lambda ignored: ignored.line))

    def only_once(self, entry: Located, key: tuple[str, str | None]) -> None:
        if key in self._seen:
            reason = f"model_id: the same pipeline and model_id as on line {self._seen[key]}"
            raise InvalidFile(self.file, entry.line, reason)
        self._seen[key] = entry.line

    def list_of(self, value: Located, what: str = "") -> list[Located]:
        if not isinstance(value.value, list):
            raise InvalidFile(self.file, value.line, f"{what}must be a list")
        return value.value

    def fields(self, entry: Located, known: Collection[str]) -> Mapping[str, Located]:
        """Return what an object says; null says nothing, as in Go."""
        if not isinstance(entry.value, dict):
            raise InvalidFile(self.file, entry.line, "must be an object")
        said = {name: item for name, item in entry.value.items() if item.value is not None}
        for name, item in said.items():
            if name in _RUNNERS:
                self.ignore(item, f"{name}: workers here are not started by this file")
            elif name not in known:
                self.ignore(item, f"{name}: is unknown")
        return said

    def text(self, fields: Mapping[str, Located], name: str) -> str:
        item = fields.get(name)
        if item is None:
            return ""
        if not isinstance(item.value, str) or isinstance(item.value, Number):
            raise InvalidFile(self.file, item.line, f"{name}: must be a text")
        return item.value

    def name(self, entry: Located, fields: Mapping[str, Located], name: str) -> str:
        text = self.text(fields, name)
        try:
            return names.checked(name, text)
        except InvalidName as error:
            line = fields.get(name, entry).line
            raise InvalidFile(self.file, line, str(error).rstrip(".")) from error

    def warm(self, fields: Mapping[str, Located]) -> bool:
        item = fields.get("warm", Located(value=False, line=0))
        if not isinstance(item.value, bool):
            raise InvalidFile(self.file, item.line, "warm: must be true or false")
        return item.value

    def capacity(self, fields: Mapping[str, Located]) -> int:
        item = fields.get("capacity")
        capacity = 1 if item is None else _whole(item)
        if item is not None and not 1 <= capacity <= MAX_CAPACITY:
            reason = f"capacity: must be a whole number from 1 to {MAX_CAPACITY}"
            raise InvalidFile(self.file, item.line, reason)
        return capacity

    def price(
        self, entry: Located, fields: Mapping[str, Located], *, above_zero: bool = False
    ) -> UnitPrice | None:
        """Return an entry's price, or else the default, or else none.

        `above_zero`: a price of zero or less counts as none.
        """
        item = fields.get("price_per_unit")
        number, suffix = self._number(item) if item else ("", "")
        if item and not (above_zero and _is_nothing(number)):
            price = (number, self.defaults.pixels_per_unit, self._currency(fields, suffix))
        elif self.defaults.price is not None:
            price = self.defaults.price
        else:
            return None
        pixels = fields.get("pixels_per_unit")
        try:
            number, per, currency = price
            return unit_price(number, per if pixels is None else _whole(pixels), currency)
        except InvalidAmount as error:
            line = fields.get(error.field, entry).line
            raise InvalidFile(self.file, line, str(error)) from error

    def _number(self, item: Located) -> tuple[str, str]:
        """Return the number and the currency that a price consists of."""
        found = _split(item.value) if isinstance(item.value, str) else None
        if found is None:
            raise InvalidFile(self.file, item.line, f"price_per_unit: {_PRICE_FORM}")
        return found

    def _currency(self, fields: Mapping[str, Located], suffix: str) -> str:
        beside = self.text(fields, "currency")
        if beside and suffix and beside.casefold() != suffix.casefold():
            reason = f"currency: {beside} here, but {suffix} in price_per_unit"
            raise InvalidFile(self.file, fields["currency"].line, reason)
        return _currency_named(beside or suffix)


def _split(price: str) -> tuple[str, str] | None:
    """Return the number and the currency that a price consists of, if it is one."""
    found = _PRICE.fullmatch(price)
    return (found["number"], found["currency"]) if found else None


def _currency_named(name: str) -> str:
    """Return a currency by what Livepeer calls it; what it does not know stays as it is."""
    return _CURRENCIES.get(name.casefold(), name)


def _whole(item: Located) -> int:
    """Return the whole number that is written, or zero, which none of them may be."""
    written = item.value if isinstance(item.value, Number) else ""
    return int(written) if re.fullmatch("[0-9]{1,19}", written) else 0


def _is_nothing(number: str) -> bool:
    """Tell whether a number is zero or less."""
    return number.startswith("-") or not re.search("[1-9]", re.split("[eE]", number)[0])
