"""Slots of one process that its gateways share: so many in all, and so many of each.

Owns the counting. What a slot is for, and how a refusal is worded, is for those who lend it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID


@dataclass
class Slots:
    """Lends slots to gateways; `limit` and `full` make what is raised instead."""

    most: int
    most_each: int
    limit: Callable[[], Exception]
    full: Callable[[], Exception]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _taken: Counter[UUID] = field(default_factory=Counter)

    @property
    def taken(self) -> int:
        """How many are taken."""
        return self._taken.total()

    @contextlib.contextmanager
    def place(self, gateway_id: UUID) -> Iterator[None]:
        """Lend a gateway a slot.

        Raises:
            Exception: What `limit` makes, if it has as many as one gateway may have; what `full`
                makes, if there is none left.
        """
        with self._lock:
            if self._taken[gateway_id] >= self.most_each:
                raise self.limit()
            if self._taken.total() >= self.most:
                raise self.full()
            self._taken[gateway_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[gateway_id] -= 1
                self._taken += Counter()  # Forgets those at zero.
