"""How fast a worker has turned out to be, for each of its queues: units in a second of its engine.

Measured around pipeline calls alone: loading a model is not part of it, and neither is what
overlaps the next call. The runner notes, the keeper reports.
"""

from __future__ import annotations

import threading

# What an earlier call counts for beside the one after it: of ten calls ago, a tenth is left.
_FADING = 0.8


class Speeds:
    """Totals of units and seconds that fade with every call, so that a long call counts for more.

    An average of the calls' own speeds would let one tiny batch say as much as a large one.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._totals: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def note(self, queue: str, units: int, seconds: float) -> None:
        """Note a finished call."""
        with self._lock:
            old_units, old_seconds = self._totals.get(queue, (0.0, 0.0))
            total = (_FADING * old_units + units, _FADING * old_seconds + seconds)
            self._totals[queue] = total

    def known(self) -> dict[str, float]:
        """Return the units a second of each queue that has been served."""
        with self._lock:
            return {
                queue: units / seconds
                for queue, (units, seconds) in self._totals.items()
                if seconds > 0
            }
