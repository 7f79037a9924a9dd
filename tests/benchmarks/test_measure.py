"""Costs are measured, positive and of the right size."""

from __future__ import annotations

import time

import pytest
import torch

from medgraft.benchmarks.measure import forward_flops, peak_allocation, process_peak, samples_per_second

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="the allocator rounds on a device")
def test_peak_allocation_is_that_of_the_largest_live_set():
    def step() -> None:
        for _ in range(3):
            torch.ones(MIB // 4).sum()  # 1 MiB at a time
        a, b = torch.ones(MIB // 4), torch.ones(MIB // 4)
        (a + b).sum()

    peak = peak_allocation(step)
    assert peak is not None and 3 * MIB <= peak < 3.1 * MIB


@pytest.mark.skipif(torch.cuda.is_available(), reason="the allocator rounds on a device")
def test_memory_from_before_the_step_does_not_count():
    big = torch.ones(4 * MIB)
    peak = peak_allocation(lambda: big[:1000].clone())
    assert peak is not None and peak < MIB


def test_process_peak_is_at_least_what_was_touched():
    block = torch.ones(16 * MIB)
    assert process_peak() > block.nbytes
