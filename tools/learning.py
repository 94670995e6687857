"""What every stage of training shares: schedules, averages, batches, reports.

Owns no model and no data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tools.networks import Network

Loss = Callable[[int], torch.Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns. `average` is the decay of the averaged weights."""

    steps: int
    rate: float
    warmup: int = 50
    average: float = 0.99
    decay: float = 0.01


def learn(name: str, networks: list[Network], schedule: Schedule, loss: Loss) -> None:
    """Minimise `loss(step)`, and leave the networks with the average of their last weights.

    Only parameters that require gradients change. The rate rises linearly, then falls as a cosine
    to nothing.
    """
    weights = [each for part in networks for each in part.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(
        weights, lr=schedule.rate, betas=(0.9, 0.99), weight_decay=schedule.decay
    )
    averages = [each.detach().clone() for each in weights]
    started, smooth = time.monotonic(), 0.0
    for step in range(schedule.steps):
        rate = schedule.rate * _rate(step, schedule)
        for group in optimiser.param_groups:
            group["lr"] = rate
        value = loss(step)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        # A young average would be of the untrained weights: it reaches back further as it ages.
        keep = min(schedule.average, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, [each.detach() for each in weights], 1 - keep)
        smooth += (value.item() - smooth) * max(0.02, 1 / (1 + step))
        if step % 100 == 99 or step + 1 == schedule.steps:  # now and then
            elapsed = time.monotonic() - started
            print(
                f"{name} {step + 1}/{schedule.steps} loss {smooth:.4f} {elapsed:.0f} s", flush=True
            )
    with torch.no_grad():
        for each, average in zip(weights, averages, strict=True):
            each.copy_(average)


def _rate(step: int, schedule: Schedule) -> float:
    rising = min(1.0, (1 + step) / schedule.warmup)
    return rising * 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
