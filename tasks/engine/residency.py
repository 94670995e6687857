"""Which models stay in memory: least recently used out first, within a budget of bytes.

Owns the order and the sum. Knows no torch: what a model is and how large it is comes from the
caller.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Resident(Generic[T]):
    value: T
    size_bytes: int


class Residency(Generic[T]):
    """Things by name, of which the least recently used are dropped when the budget is exceeded.

    Not for two threads at once.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._residents: OrderedDict[str, _Resident[T]] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names, least recently used first."""
        return tuple(self._residents)

    @property
    def size_bytes(self) -> int:
        """Return the sum of all sizes; like `names`, it may be read from another thread."""
        return sum(resident.size_bytes for resident in tuple(self._residents.values()))

    @property
    def budget_bytes(self) -> int:
        return self._budget_bytes

    def get(self, name: str) -> T | None:
        """Return what is kept under the name and mark it as just used, or None."""
        resident = self._residents.get(name)
        if resident is None:
            return None
        self._residents.move_to_end(name)
        return resident.value

    def drop(self, name: str) -> None:
        """Forget the name, if it is known."""
        self._residents.pop(name, None)

    def can_hold(self, size_bytes: int) -> bool:
        """Tell whether something so large fits at all."""
        return size_bytes <= self._budget_bytes

    def is_over(self, size_bytes: int, besides: str | None = None) -> bool:
        """Tell whether `size_bytes` are too many beside what is kept, but for one name."""
        others = (one.size_bytes for name, one in self._residents.items() if name != besides)
        return sum(others) + size_bytes > self._budget_bytes

    def make_room(self, size_bytes: int, besides: str | None = None) -> list[T]:
        """Drop the least recently used until `size_bytes` fit, and return what was dropped.

        `besides` names one that stays, and whose size is within `size_bytes`. Something larger than
        the whole budget empties it: the budget bounds what is kept beside a model in use, and
        whether that one model fits is for the device to say.
        """
        dropped: list[T] = []
        while self.is_over(size_bytes, besides):
            oldest = next((name for name in self._residents if name != besides), None)
            if oldest is None:
                break
            dropped.append(self._residents.pop(oldest).value)
        return dropped

    def put(self, name: str, value: T, size_bytes: int) -> None:
        """Keep a value under a name, as just used, dropping others as `make_room` does."""
        self.drop(name)
        self.make_room(size_bytes)
        self._residents[name] = _Resident(value, size_bytes)

    def resize(self, name: str, size_bytes: int) -> None:
        """Note that what is kept under the name has become larger or smaller."""
        self._residents[name] = _Resident(self._residents[name].value, size_bytes)
