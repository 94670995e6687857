"""What is said of this machine's GPUs."""

from __future__ import annotations

import pytest
import torch

from tasks.engine import devices


def test_torch_says_what_it_is_and_which_gpus_it_sees() -> None:
    machine = devices.look()
    assert (machine.torch, machine.cuda) == (torch.__version__, torch.version.cuda)
    assert len(machine.devices) == torch.cuda.device_count()


def test_the_gpus_that_there_are_compute() -> None:
    for one in devices.look().devices:
        assert one.error is None
        assert 0 < one.free_bytes <= one.memory_bytes


def test_a_gpu_that_cannot_compute_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _number: "H200")

    def fail(_number: int) -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error\nmore")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    [one] = devices.look().devices
    assert (one.name, one.error) == ("H200", "CUDA error: uncorrectable ECC error")
