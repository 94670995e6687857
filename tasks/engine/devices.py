"""What accelerators this machine has, and whether they compute. Who uses them is `diffusion`'s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """A GPU: its name, its memory in all and free, and why it cannot be used, if it cannot."""

    name: str
    memory_bytes: int
    free_bytes: int
    error: str | None


@dataclass(frozen=True)
class Machine:
    """torch's version, the version of CUDA that it is built for, and the GPUs that it sees."""

    torch: str
    cuda: str | None
    devices: Sequence[Device]


def look() -> Machine:
    """Look at every GPU, and let each compute something."""
    count = torch.cuda.device_count()
    return Machine(
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        devices=[_device(number) for number in range(count)],
    )


def _device(number: int) -> Device:
    name = torch.cuda.get_device_name(number)
    try:
        free_bytes, memory_bytes = torch.cuda.mem_get_info(number)
        ones = torch.ones(8, 8, device=f"cuda:{number}")
        if float((ones @ ones).sum()) != 512:  # noqa: PLR2004  8 x 8 x 8
            return Device(name, memory_bytes, free_bytes, "it computes wrongly")
    except RuntimeError as error:
        return Device(name, 0, 0, str(error).splitlines()[0])
    return Device(name, memory_bytes, free_bytes, None)
