"""How figures are taken and compared: interleaved rounds, percentiles, ratios round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure of ours, the baseline's, and their ratio in every round."""

    what: str
    unit: str
    better: Better
    ours: float
    baseline: float
    ratios: tuple[float, ...]


def compare(
    what: str, unit: str, better: Better, ours: Sequence[float], baseline: Sequence[float]
) -> Row:
    """Make a row of two arms, of which the n-th figures were taken in the same round."""
    return Row(
        what,
        unit,
        better,
        statistics.median(ours),
        statistics.median(baseline),
        tuple(mine / theirs for mine, theirs in zip(ours, baseline, strict=True)),
    )


def compare_percentile(
    what: str, percent: int, ours: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]
) -> Row:
    """Make a row of latencies in seconds: the figures are of all rounds, the ratios of each."""
    per_round = zip(ours, baseline, strict=True)
    return Row(
        f"{what}, p{percent}",
        "ms",
        "lower",
        1e3 * percentile([one for taken in ours for one in taken], percent),
        1e3 * percentile([one for taken in baseline for one in taken], percent),
        tuple(
            percentile(mine, percent) / percentile(theirs, percent) for mine, theirs in per_round
        ),
    )


def percentile(samples: Sequence[float], percent: int) -> float:
    """Return the smallest sample that `percent` of all samples do not exceed."""
    ranked = sorted(samples)
    return ranked[-(-percent * len(ranked) // 100) - 1]


def interleave(rounds: int, arms: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Run every arm once a round; returns each arm's figures in the order of the rounds.

    Every other round runs backwards, so that a machine that gets slower or faster meanwhile favours
    nobody.
    """
    taken: dict[str, list[T]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in list(arms)[:: -1 if number % 2 else 1]:
            taken[name].append(arms[name]())
    return taken
