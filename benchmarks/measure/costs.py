"""Costs of a graft: operations, memory and throughput, each measured and none estimated from a formula."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

WARMUP, MIN_ROUNDS, MIN_SECONDS = 1, 2, 0.4


def forward_flops(run: Callable[[], object], samples: int) -> float:
    """Operations per sample of one forward pass, matrix products, convolutions and attention only."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / samples


def samples_per_second(run: Callable[[], object], samples: int, device: str | torch.device = "cpu") -> float:
    """Throughput of ``run`` on ``samples`` samples: all samples over all time, after a warm-up."""
    on_gpu = torch.device(device).type == "cuda"

    def done() -> None:
        run()
        if on_gpu:
            torch.cuda.synchronize(device)

    for _ in range(WARMUP):
        done()
    rounds, start = 0, time.perf_counter()
    while rounds < MIN_ROUNDS or time.perf_counter() - start < MIN_SECONDS:
        done()
        rounds += 1
    return rounds * samples / (time.perf_counter() - start)


def peak_allocation(step: Callable[[], object], device: str | torch.device = "cpu") -> int | None:
    """Largest sum of tensor memory on one device during ``step`` above its start, in bytes.

    Args:
        step: What to run, once.
        device: Where the tensors of ``step`` are. On a CUDA device the allocator's own peak counts; on any other the
            running sum of the profiler's allocation events in the memory of the CPU, whether or not there is a GPU.

    Returns:
        The peak; ``None`` where nothing was allocated on the CPU.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        base = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - base
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would report to stderr, in its own words, that there is no GPU
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]  # pyright: ignore
    events = [e for e in events if e.device_type() == torch.autograd.DeviceType.CPU]  # pyright: ignore
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, current)
    return peak or None


def process_peak() -> int:
    """Peak resident memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
