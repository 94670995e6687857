"""Training that was stopped goes on from its checkpoint, as if it never had been."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tools.learning import Run, Schedule, learn

SCHEDULE = Schedule(steps=230, rate=3e-1, average=0.9, orthogonal=True)


class Stopped(Exception):
    """Stands in for a machine that goes away."""


def trained(folder: Path, *, stop_at: int | None = None, schedule: Schedule = SCHEDULE) -> float:
    """Learn a line from noisy points, and return its slope."""
    torch.manual_seed(3)
    rng = random.Random(3)
    line = torch.nn.Linear(1, 1)
    run = Run("line", schedule, rng, folder / "line.checkpoint")
    learn(run, [line], loss_of(line, rng, stop_at))
    assert list(folder.iterdir()) == []
    return float(line.weight.item())


def loss_of(
    line: torch.nn.Linear, rng: random.Random, stop_at: int | None
) -> Callable[[int], torch.Tensor]:
    def loss(step: int) -> torch.Tensor:
        if step == stop_at:
            raise Stopped
        x = torch.randn(4, 1)
        value: torch.Tensor = (line(x) - 2 * x - rng.gauss(0, 0.1)).square().mean()
        return value

    return loss


def test_what_was_stopped_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = trained(tmp_path)
    with pytest.raises(Stopped):
        trained(tmp_path, stop_at=150)
    assert [path.name for path in tmp_path.iterdir()] == ["line.checkpoint"]

    assert trained(tmp_path) == whole == pytest.approx(2, abs=0.2)


def test_a_checkpoint_of_another_schedule_is_not_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        trained(tmp_path, stop_at=150)

    with pytest.raises(ValueError, match="another schedule: delete it"):
        trained(tmp_path, schedule=Schedule(steps=400, rate=1e-2))


def test_what_is_nothing_but_matrices_learns_too(tmp_path: Path) -> None:
    torch.manual_seed(3)
    line = torch.nn.Linear(2, 2, bias=False)
    x = torch.randn(8, 2)
    run = Run("line", SCHEDULE, random.Random(3), tmp_path / "line.checkpoint")

    learn(run, [line], lambda _step: (line(x) - x).square().mean())

    assert torch.allclose(line.weight, torch.eye(2), atol=0.2)
