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


def samples_per_second(run: Callable[[], object], samples: int) -> float:
    """Throughput of ``run`` on ``samples`` samples: all samples over all time, after a warm-up."""
    for _ in range(WARMUP):
        run()
    rounds, start = 0, time.perf_counter()
    while rounds < MIN_ROUNDS or time.perf_counter() - start < MIN_SECONDS:
        run()
        rounds += 1
    return rounds * samples / (time.perf_counter() - start)


def peak_allocation(step: Callable[[], object]) -> int | None:
    """Largest sum of tensor memory during ``step`` above its start, in bytes.

    On a CUDA device the allocator's own peak; on the CPU the running sum of the profiler's allocation events.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - base
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would report to stderr, in its own words, that there is no GPU
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]  # pyright: ignore
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, current)
    return peak or None


def process_peak() -> int:
    """Peak resident memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
