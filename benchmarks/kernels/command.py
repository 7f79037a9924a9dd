"""Measures the fused operations against their eager, compiled and peer forms: ``python -m benchmarks.kernels``.

Parity first: forward and backward of the fused form against float64 on a small shape, and against eager mode on the
measured one. A fused number is printed only if both hold and neither fell back to eager mode; a peer that fails the
small shape, or whose library is not installed, is left out and named. Forms are timed in turns within one process (a
machine that slows down slows all of them), forward and backward together; ratios are medians of the rounds' ratios. A
GPU is timed by events with its L2 cache flushed before each run, a CPU by its own time, which other processes do not
add to.
``products`` are the products of matrices alone, a bound for every form. ``--json`` keeps the results for ``medgraft
leaderboard``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgraft.benchmarks.kernels.cases import CASES, Case, Step
from medgraft.benchmarks.kernels.results import Measured, OperationResult, store
from medgraft.benchmarks.measure.costs import peak_allocation
from medgraft.benchmarks.measure.environment import describe
from medgraft.ops import backends

FORMS = ("eager", "eager float32", "compile", "fused", "peer", "products")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
QUANTILES = (0.2, 0.8)


def relative(got: Tensor, expected: Tensor) -> float:
    """Error of ``[...]`` in the 2-norm relative to ``expected``."""
    return ((got.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)).item()


def parity(case: Case, device: str, dtype: torch.dtype) -> list[str]:
    """What fell back or differs by more than the type allows; empty if the gate is green."""
    exact = case.build(device, torch.float64, "eager", True)()
    with backends.recording() as record:
        results = case.build(device, dtype, "fused", True)(), case.build(device, dtype, "fused", False)()
    wrong = [f"{each.op} ran in {each.used} mode: {each.reason}" for each in record.choices if each.used != "fused"]
    wrong += differing(case, results[0], exact, dtype)
    wide = case.build(device, torch.float32, "eager", False)()
    for name, got, expected in zip(case.outputs, results[1], wide, strict=True):
        if not (error := relative(got, expected)) <= 2 * TOLERANCE[dtype]:
            wrong.append(f"{name} differs from eager float32 by {error:.1e} on the measured shape")
    return wrong


def differing(case: Case, results: Sequence[Tensor], exact: Sequence[Tensor], dtype: torch.dtype) -> list[str]:
    """Outputs of the small shape that differ from float64 by more than the type allows.

    Args:
        case: Names the outputs.
        results: What a step of the form returned, of any shape, in the layout of the case.
        exact: What eager mode returned in float64.
        dtype: Of the form's inputs.
    """
    return [
        f"{name} differs from float64 by {error:.1e} on the small shape"
        for name, got, expected in zip(case.outputs, results, exact, strict=True)
        if not (error := relative(got, expected)) <= TOLERANCE[dtype]
    ]


def peers_of(case: Case, device: str, dtype: torch.dtype) -> tuple[dict[str, Step], list[str]]:
    """The peers that run here, and a line on each that does not or that computes another function.

    Args:
        case: With its peers.
        device: ``cpu`` or ``cuda``.
        dtype: Of the inputs.

    Returns:
        ``peer NAME`` -> step on the measured shape, and the lines.
    """
    steps, lines = {}, []
    for name, peer in case.peers.items():
        if reason := peer.obstacle(device) or _failure(case, name, device, dtype):
            lines.append(f"peer {name} is left out: {reason}")
            continue
        if peer.differs:
            lines.append(f"peer {name} is another function, outside of the parity gate: {peer.differs}")
        steps[f"peer {name}"] = case.build(device, dtype, name, False)
    return steps, lines


def _failure(case: Case, name: str, device: str, dtype: torch.dtype) -> str:
    """What is wrong with a peer on the small shape; empty if it may be measured."""
    peer = case.peers[name]
    try:
        results = peer.gather(case.build(device, dtype, name, True)())
    except Exception as error:  # foreign code of any version, whose failure must not end the run
        return f"it raises {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    if peer.differs:
        return ""
    return "; ".join(differing(case, results, case.build(device, torch.float64, "eager", True)(), dtype))


def copy_rate(device: str) -> float:
    """Bytes per second of a copy that fits no cache, read and write: the device's roofline for memory."""
    source = torch.ones((256 if device == "cuda" else 64) << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = [one_run(lambda: target.copy_(source), device) for _ in range(5)]
    return 2 * source.numel() / min(seconds)


def one_run(step: Callable[[], Any], device: str) -> float:
    """Seconds of one run: events on a GPU behind a flushed L2, processor time on a CPU."""
    if device != "cuda":
        start = time.process_time()
        step()
        return time.process_time() - start
    size = 2 * torch.cuda.get_device_properties(0).L2_cache_size
    torch.empty(max(size, 1 << 20), dtype=torch.uint8, device=device).zero_()
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    step()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1e3


def measure(case: Case, forms: dict[str, Step], device: str, rounds: int, rate: float) -> list[Measured]:
    """Times the forms in turns and then their memory.

    Args:
        case: Of :data:`CASES`.
        forms: Form -> step; ``eager`` is among them.
        device: ``cpu`` or ``cuda``.
        rounds: Runs of each form.
        rate: Of :func:`copy_rate`.
    """
    for step in forms.values():
        step()
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(rounds):
        for form, step in forms.items():
            seconds[form].append(one_run(step, device))
    measured = []
    for form, step in forms.items():
        if device == "cuda":  # or what the forms before it held would count as this one's
            torch.cuda.empty_cache()
        allocated = peak_allocation(lambda step=step: _drop(step), device)
        reserved = torch.cuda.max_memory_reserved() if device == "cuda" else None
        ratio = statistics.median(a / b for a, b in zip(seconds["eager"], seconds[form], strict=True))
        bandwidth = case.least_bytes / statistics.median(seconds[form]) / rate
        measured.append(Measured(form, seconds[form], allocated, reserved, ratio, bandwidth))
    return measured


def _drop(step: Step) -> None:
    step()


def statistics_of(seconds: list[float]) -> tuple[float, float, float]:
    """Median and outer quantiles in milliseconds, by pytest-benchmark's statistics where that is installed."""
    try:
        from pytest_benchmark.stats import Stats  # pyright: ignore[reportMissingImports]
    except ImportError:
        middle = statistics.median(seconds)
    else:
        stats = Stats()
        for value in seconds:
            stats.update(value)
        middle: Any = stats.median  # a cached property that its package does not type
    ordered = sorted(seconds)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in QUANTILES)
    return 1e3 * middle, 1e3 * low, 1e3 * high


def verdicts(case: Case, measured: list[Measured], returned: int) -> list[str]:
    """Each goal of the case beside what was measured, and the speed relative to the fastest peer.

    A goal for the speed is against the faster of eager and compile, or against the fastest peer of the same function.

    Args:
        case: With its goals.
        measured: The forms.
        returned: Bytes of the result and the gradients, which every form returns.
    """
    by_form = {each.form: each for each in measured}
    if "fused" not in by_form:
        return ["no fused number: the parity gate is red"]
    lines, fused = [], by_form["fused"]
    alike = [f"peer {name}" for name, peer in case.peers.items() if not peer.differs]
    rivals = alike if case.against_peer else ("eager", "compile")
    present = [by_form[form] for form in rivals if form in by_form]
    if case.goal_speed and present:
        best = max(present, key=lambda each: each.ratio)
        gain = fused.ratio / best.ratio
        met = gain >= case.goal_speed
        lines.append(f"{gain:.2f}x the speed of {best.form}, goal {case.goal_speed}x: {'met' if met else 'not met'}")
        if not met and (bare := by_form.get("products")) is not None:
            most = bare.ratio / best.ratio
            lines.append(
                f"its products alone take 1/{most:.2f} of the time of {best.form}: "
                + ("no form of it can meet the goal" if most < case.goal_speed else "the goal stays open")
            )
    peers = [each for each in measured if each.form.startswith("peer ")]
    if peers and not (case.goal_speed and case.against_peer):
        first = max(peers, key=lambda each: each.ratio)
        lines.append(f"{fused.ratio / first.ratio:.2f}x the speed of the fastest peer, {first.form[5:]}")
    if (wide := by_form.get("eager float32")) is not None:
        lines.append(f"{fused.ratio / wide.ratio:.2f}x the speed of eager in float32")
    if case.goal_memory and fused.allocated and (eager := by_form["eager"].allocated):
        lines += _of_memory(case.goal_memory, fused.allocated, eager, returned)
    return lines


def _of_memory(goal: float, fused: int, eager: int, returned: int) -> list[str]:
    share, least = fused / eager, returned / eager
    lines = [f"{share:.1%} of eager's memory, goal {goal:.0%}: {'met' if share <= goal else 'not met'}"]
    if share > goal:
        beyond = (fused - returned) / max(eager - returned, 1)
        lines.append(
            f"what every form returns is {least:.1%} of eager's memory"
            + (": no form can meet the goal" if least > goal else "")
            + f"; beyond that fused holds {beyond:.1%} of what eager does"
        )
    return lines


def rows(measured: list[Measured]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| form | median ms | 20 % | 80 % | vs eager | peak MB | reserved MB | of copy rate |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for each in measured:
        middle, low, high = statistics_of(each.seconds)
        peak, held = (f"{b / 1e6:.1f}" if b else "-" for b in (each.allocated, each.reserved))
        yield (
            f"| {each.form} | {middle:.1f} | {low:.1f} | {high:.1f} | {each.ratio:.2f} | {peak} | {held} | "
            f"{each.bandwidth:.1%} |"
        )


def without_goals(case: Case, kind: str) -> Case:
    """The case without its goals, if they are for another type."""
    if case.goal_dtype in (None, kind):
        return case
    return dataclasses.replace(case, goal_speed=None, goal_memory=None)


def run_case(
    case: Case, device: str, dtype: torch.dtype, names: Sequence[str], rounds: int, rate: float, threads: int = 1
) -> OperationResult:
    """Parity, timings and verdicts of one case; arguments as on the command line."""
    name = str(dtype).removeprefix("torch.")
    wrong = parity(case, device, dtype)
    forms: dict[str, Step] = {}
    remarks: list[str] = []
    for form in ("eager", *[form for form in names if form != "eager"]):
        if form == "fused" and wrong:
            continue
        if form == "peer":
            steps, remarks = peers_of(case, device, dtype)
            forms |= steps
        elif form == "products":
            if case.products is not None:
                forms[form] = case.products(device, dtype)
        elif form == "eager float32":
            if dtype != torch.float32:
                forms[form] = case.build(device, torch.float32, "eager", False)
        else:
            forms[form] = case.build(device, dtype, form, False)
    returned = sum(part.nbytes for part in forms["eager"]())
    measured = measure(case, forms, device, rounds, rate)
    lines = verdicts(without_goals(case, name), measured, returned) if "fused" in names else []
    return OperationResult(
        case=case.name, told=case.told, dtype=name, device=device, parity=wrong, forms=measured, returned=returned,
        verdicts=lines + remarks, environment=describe(threads),
    )  # fmt: skip


def report(result: OperationResult) -> list[str]:
    """A result as lines of Markdown."""
    return [
        f"### {result.case}, {result.dtype}, {result.device}", "", result.told, "",
        f"Parity: {'; '.join(result.parity) if result.parity else 'green'}.", "",
        *rows(result.forms), "", *(f"- {line}" for line in result.verdicts), "",
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Runs the cases and writes Markdown to the output; 1 if a parity gate is red."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument(
        "--op", action="append", choices=sorted(CASES), help="one case; may be repeated; all by default"
    )
    parser.add_argument("--form", action="append", choices=FORMS, help="forms beside eager; all by default")
    parser.add_argument("--dtype", action="append", choices=["float32", "bfloat16", "float16"], help="of the inputs")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each form")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="also write results there, for the leaderboard")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but PyTorch sees no GPU; use --device cpu")
    torch.set_num_threads(options.threads)
    rate = copy_rate(options.device)
    out = [f"{options.device}, {options.threads} thread(s), torch {torch.__version__}, copy {rate / 1e9:.1f} GB/s", ""]
    _write(out)
    red = False
    for name in options.op or CASES:
        case = CASES[name]
        for kind in options.dtype or case.dtypes:
            forms, dtype = options.form or FORMS, getattr(torch, kind)
            result = run_case(case, options.device, dtype, forms, options.rounds, rate, options.threads)
            red |= bool(result.parity)
            _write(report(result))
            if options.json is not None:
                store(result, options.json)
    return int(red)


def _write(lines: list[str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
