"""Pictures of the books, drawn by matplotlib: only here, and only when one is asked for.

A picture shows and does not count: heights are rounded to what a pixel can show, and sums that
somebody relies on are the reports'.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.money import EXACT
from pixeltoll.errors import NoDrawing, NotWritten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODELS_MAX = 8  # as many colours as an eye keeps apart
OTHER = "other models"

_SIZE = (11, 5.5)  # inches
_DPI = 120
_LEGIBLE = 48  # characters of a name
_ROOMY = 60  # columns, above which there is no room between two
_DAYS_MAX = 180  # of which each has a column: one that is narrower than a pixel is not seen
# Okabe and Ito's colours, which the colour-blind tell apart too; grey is for the rest.
_COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#D55E00", "#F0E442", "#5B4B8A"),
)
_GREY = "#9A9A9A"


@dataclass(frozen=True)
class Spent:
    """What was charged for a model on a day."""

    day: date
    model_id: str
    amount: Decimal


@dataclass(frozen=True)
class Frame:
    """What a chart is of: the days, both included, the currency, and whose."""

    first: date
    last: date
    currency: str
    gateway: str | None = None

    @property
    def by_month(self) -> bool:
        """Whether a column is a month, because there are too many days."""
        return (self.last - self.first).days >= _DAYS_MAX

    @property
    def columns(self) -> list[date]:
        """Every day, or the first day of every month, also those without a charge."""
        days = (self.last - self.first).days + 1
        every = [self.first + timedelta(days=number) for number in range(days)]
        return sorted({self.column(one) for one in every})

    def column(self, day: date) -> date:
        """Return the day that stands for the column that a day is in."""
        return day.replace(day=1) if self.by_month else day


def draw_spend(target: Path, spent: Sequence[Spent], frame: Frame) -> None:
    """Draw spend over time by model, as a PNG of a column for each day, or month if they are many.

    Raises:
        NoDrawing: matplotlib is not installed.
        NotWritten: The file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoDrawing from error
    # No pyplot: a figure of its own opens no window, whatever the machine's settings say.
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    in_columns = [replace(one, day=frame.column(one.day)) for one in spent]
    _columns(axes, by_model(in_columns), frame)
    _dates(axes, frame)
    try:
        with warnings.catch_warnings():
            # A character of a name that its fonts do not have is drawn as a box.
            warnings.filterwarnings("ignore", "Glyph ", UserWarning)
            figure.savefig(target, format="png")
    except OSError as error:
        raise NotWritten(target, error.strerror or str(error)) from error


def by_model(spent: Sequence[Spent]) -> dict[str, dict[date, Decimal]]:
    """Return what each model cost on each day, the dearest model first, and the last ones as one.

    More models than can be told apart are summed up as `OTHER`, which comes last.
    """
    totals: dict[str, Decimal] = defaultdict(Decimal)
    for one in spent:
        totals[one.model_id] = EXACT.add(totals[one.model_id], one.amount)
    ranked = sorted(totals, key=lambda model_id: (-totals[model_id], model_id))
    shown = ranked if len(ranked) <= MODELS_MAX else ranked[:MODELS_MAX]
    days: dict[str, dict[date, Decimal]] = {model_id: defaultdict(Decimal) for model_id in shown}
    if len(shown) < len(ranked):
        days[OTHER] = defaultdict(Decimal)
    for one in spent:
        column = days[one.model_id if one.model_id in days else OTHER]
        column[one.day] = EXACT.add(column[one.day], one.amount)
    return days


def _columns(axes: Axes, models: Mapping[str, Mapping[date, Decimal]], frame: Frame) -> None:
    """Stack the models' parts of each column, the dearest at the bottom."""
    columns = frame.columns
    bottom = [0.0] * len(columns)
    width = 0.8 if len(columns) <= _ROOMY else 1.0
    for number, (model_id, amounts) in enumerate(models.items()):
        heights = [float(amounts.get(one, 0)) for one in columns]
        colour = _GREY if model_id == OTHER else _COLOURS[number]
        axes.bar(
            range(len(columns)),
            heights,
            width,
            bottom=bottom,
            color=colour,
            label=_legible(model_id),
            linewidth=0,
        )
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    whose = f" of {_legible(frame.gateway)}" if frame.gateway else ""
    axes.set_title(f"Spend{whose} by model, {_span(frame)}", loc="left", fontweight="bold", pad=12)
    axes.set_ylabel(f"{frame.currency} a {'month' if frame.by_month else 'day'}")
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.set_ylim(0, max(bottom, default=0) * 1.06 or 1)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if models:
        handles, labels = axes.get_legend_handles_labels()
        # As they are stacked: the topmost first.
        axes.legend(
            handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False
        )
    else:
        axes.set_yticks([0])
        axes.text(0.5, 0.5, "Nothing was spent.", transform=axes.transAxes, ha="center")


def _legible(name: str) -> str:
    """Return a name as there is room for it; what tells models apart is at the end."""
    short = name if len(name) <= _LEGIBLE else f"…{name[1 - _LEGIBLE :]}"
    return short.replace("$", r"\$")  # which would begin a formula


def _span(frame: Frame) -> str:
    if frame.first == frame.last:
        return f"{frame.first} (UTC)"
    return f"{frame.first} to {frame.last} (UTC)"


_LABELS_MAX = 12


def _dates(axes: Axes, frame: Frame) -> None:
    """Label the columns, as many as have room, the last one always."""
    columns = frame.columns
    step = -(-len(columns) // _LABELS_MAX)
    shown = range((len(columns) - 1) % step, len(columns), step)
    years = len({one.year for one in columns}) > 1
    labels = [_label(columns[number], years=years, days=not frame.by_month) for number in shown]
    axes.set_xticks(list(shown), labels)
    middle, half = (len(columns) - 1) / 2, max(len(columns), 5) / 2
    axes.set_xlim(middle - half - 0.2, middle + half + 0.2)


def _label(one: date, *, years: bool, days: bool) -> str:
    label = f"{one.day} {one:%b}" if days else f"{one:%b}"
    return f"{label}\n{one.year}" if years else label
