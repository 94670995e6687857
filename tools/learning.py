"""What every stage of training shares: schedules, averages, reports, checkpoints.

Owns how weights are learned, and the file that lets a stage which was stopped go on from where it
was. Owns no model and no data.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tools.networks import Network

Loss = Callable[[int], torch.Tensor]

_OFTEN = 100  # steps from one report and checkpoint to the next
_MOMENTUM = 0.95


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns. `average` is the decay of the averaged weights.

    With `orthogonal`, matrices learn by Muon: from half the pictures that AdamW needs, and less.
    """

    steps: int
    rate: float
    warmup: int = 50
    average: float = 0.99
    decay: float = 0.01
    orthogonal: bool = False


@dataclass(frozen=True)
class Run:
    """One stage's learning: its chance, and the file that holds it until it ends."""

    name: str
    schedule: Schedule
    rng: random.Random
    checkpoint: Path


def learn(run: Run, networks: list[Network], loss: Loss) -> None:
    """Minimise `loss(step)`, and leave the networks with the average of their last weights.

    Only parameters that require gradients change. The rate rises linearly, then falls as a cosine
    to nothing. A run that was stopped goes on from its checkpoint, as if it never had been.
    """
    schedule = run.schedule
    weights = [each for part in networks for each in part.parameters() if each.requires_grad]
    optimisers = _optimisers(weights, schedule)
    averages = [each.detach().clone() for each in weights]
    first, smooth = _restored(run, optimisers, weights, averages)
    started = time.monotonic()
    for step in range(first, schedule.steps):
        rate = schedule.rate * _rate(step, schedule)
        value = loss(step)
        for optimiser in optimisers:
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        # A young average would be of the untrained weights: it reaches back further as it ages.
        keep = min(schedule.average, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, [each.detach() for each in weights], 1 - keep)
        smooth += (value.item() - smooth) * max(0.02, 1 / (1 + step))
        if step % _OFTEN == _OFTEN - 1 or step + 1 == schedule.steps:
            elapsed = time.monotonic() - started
            print(
                f"{run.name} {step + 1}/{schedule.steps} loss {smooth:.4f} {elapsed:.0f} s",
                flush=True,
            )
            _keep(run, optimisers, weights, averages, (step + 1, smooth))
    with torch.no_grad():
        for each, average in zip(weights, averages, strict=True):
            each.copy_(average)
    run.checkpoint.unlink(missing_ok=True)


class Muon(torch.optim.Optimizer):  # type: ignore[misc]  # torch is untyped here
    """Momentum, whose step is the orthogonal matrix nearest to it: every direction counts alike.

    PyTorch's own works in bfloat16, which takes seconds a step on a CPU.
    """

    def __init__(self, weights: list[torch.Tensor], rate: float, decay: float) -> None:
        super().__init__(weights, {"lr": rate, "decay": decay})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self) -> None:
        """Change every weight by its gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - _MOMENTUM)
                matrix = weight.grad.lerp(momentum, _MOMENTUM).flatten(1)
                # As large a step as AdamW's is at the same rate.
                rate = group["lr"] * 0.2 * max(matrix.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.sub_(_orthogonal(matrix).view_as(weight), alpha=rate)


def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return nearly the nearest orthogonal matrix, by five steps of a Newton-Schulz iteration."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
    return x.T if tall else x


def _optimisers(weights: list[torch.Tensor], schedule: Schedule) -> list[torch.optim.Optimizer]:
    matrices = [each for each in weights if schedule.orthogonal and each.ndim > 1]
    others = [each for each in weights if not (schedule.orthogonal and each.ndim > 1)]
    found: list[torch.optim.Optimizer] = []
    if others:  # an adapter has nothing but matrices
        found.append(
            torch.optim.AdamW(
                others, lr=schedule.rate, betas=(0.9, 0.99), weight_decay=schedule.decay
            )
        )
    if matrices:
        found.append(Muon(matrices, schedule.rate, schedule.decay))
    return found


def _keep(
    run: Run,
    optimisers: list[torch.optim.Optimizer],
    weights: list[torch.Tensor],
    averages: list[torch.Tensor],
    progress: tuple[int, float],
) -> None:
    state = {
        "schedule": asdict(run.schedule),
        "weights": [each.detach() for each in weights],
        "averages": averages,
        "optimisers": [each.state_dict() for each in optimisers],
        "progress": progress,
        "chance": (run.rng.getstate(), torch.get_rng_state(), torch.cuda.get_rng_state_all()),
    }
    partial = run.checkpoint.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(run.checkpoint)  # whole or not at all


def _restored(
    run: Run,
    optimisers: list[torch.optim.Optimizer],
    weights: list[torch.Tensor],
    averages: list[torch.Tensor],
) -> tuple[int, float]:
    """Go back to where a stopped run was; return its next step and its loss so far.

    Raises:
        ValueError: the run that was stopped had another schedule.
    """
    if not run.checkpoint.exists():
        return 0, 0.0
    state = torch.load(run.checkpoint, map_location="cpu", weights_only=True)
    if state["schedule"] != asdict(run.schedule):
        message = f"{run.checkpoint} is of another schedule: delete it to start this one"
        raise ValueError(message)
    with torch.no_grad():
        for each, kept in zip(
            weights + averages, state["weights"] + state["averages"], strict=True
        ):
            each.copy_(kept)
    for optimiser, was in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(was)
    own, cpu, cuda = state["chance"]
    run.rng.setstate(own)
    torch.set_rng_state(cpu)
    torch.cuda.set_rng_state_all(cuda)
    step, smooth = state["progress"]
    return step, smooth


def _rate(step: int, schedule: Schedule) -> float:
    rising = min(1.0, (1 + step) / schedule.warmup)
    return rising * 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
