"""Costs are measured, positive and of the right size."""

from __future__ import annotations

import time

import pytest
import torch

from medgraft.benchmarks.measure.costs import forward_flops, peak_allocation, process_peak, samples_per_second

MIB = 2**20


def test_flops_of_a_linear_layer_are_two_per_weight_and_sample():
    layer, x = torch.nn.Linear(30, 20), torch.ones(8, 30)
    assert forward_flops(lambda: layer(x), 8) == 2 * 30 * 20


def test_throughput_counts_samples_over_time():
    found = samples_per_second(lambda: time.sleep(0.05), 4)
    # 4 samples in 50 ms are 80 a second; sleep never returns early, and a busy machine may be five times late.
    assert 16 < found <= 80


def test_throughput_leaves_the_first_call_out():
    calls = []

    def slow_once() -> None:
        calls.append(time.sleep(0.05 if calls else 1.5))

    # With the first call, 1.5 s of the total would allow 1 / 0.65 samples a second at most.
    assert samples_per_second(slow_once, 1) > 2


def test_peak_allocation_is_that_of_the_largest_live_set():
    def step() -> None:
        for _ in range(3):
            torch.ones(MIB // 4).sum()  # 1 MiB at a time
        a, b = torch.ones(MIB // 4), torch.ones(MIB // 4)
        (a + b).sum()

    peak = peak_allocation(step)
    assert peak is not None and 3 * MIB <= peak < 3.1 * MIB


def test_memory_from_before_the_step_does_not_count():
    big = torch.ones(4 * MIB)
    peak = peak_allocation(lambda: big[:1000].clone())
    assert peak is not None and peak < MIB


class Allocator:
    """In the place of ``torch.cuda``: counts bytes on one device and refuses every other."""

    def __init__(self, index: int) -> None:
        self.device, self.held, self.peak = torch.device("cuda", index), 100, 900

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.peak = self.of(device, self.held)

    def memory_allocated(self, device: torch.device) -> int:
        return self.of(device, self.held)

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.of(device, self.peak)

    def synchronize(self, device: torch.device) -> None:
        self.of(device, 0)

    def of(self, device: torch.device, count: int) -> int:
        assert device == self.device
        return count


@pytest.fixture
def allocator(monkeypatch):
    made = Allocator(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("reset_peak_memory_stats", "memory_allocated", "max_memory_allocated", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    return made


def test_the_cpu_is_measured_on_a_machine_with_a_gpu(allocator):
    for peak in (peak_allocation(lambda: torch.ones(MIB)), peak_allocation(lambda: torch.ones(MIB), "cpu")):
        assert peak is not None and 4 * MIB <= peak < 4.1 * MIB


def test_the_peak_of_a_gpu_is_that_of_the_device_named(allocator):
    def step() -> None:
        allocator.peak = allocator.held + 40

    assert peak_allocation(step, torch.device("cuda", 1)) == 40
    with pytest.raises(AssertionError):
        peak_allocation(step, "cuda:0")


def test_process_peak_is_at_least_what_was_touched():
    block = torch.ones(16 * MIB)
    assert process_peak() > block.nbytes
