"""Whether a model can be had now: in some worker's memory, on demand, or not at all, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.catalog import ModelSpec
from tasks.routing import Candidate

State = Literal["warm", "on_demand", "unavailable"]


@dataclass(frozen=True)
class Availability:
    """A state, and for a model that cannot be had, why."""

    state: State
    reason: str | None = None


def of(spec: ModelSpec, candidates: Sequence[Candidate]) -> Availability:
    """Tell it of a model by those who offer one of its pipelines."""
    if any(one.warm for one in candidates):
        return Availability("warm")
    if not candidates:
        return Availability("unavailable", "Nobody offers it.")
    if spec.unavailable is not None:
        return Availability("unavailable", spec.unavailable)
    if any(one.live for one in candidates):
        return Availability("on_demand")
    return Availability("unavailable", "No worker of those who offer it is up.")
