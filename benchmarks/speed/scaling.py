"""How time and memory grow: ``python -m benchmarks.speed.scaling --out docs/scaling``.

Each curve varies one size of one operation or job and keeps the others: tokens, batch, rank, experts, volume size,
number of adapters and of seeds. Written are an SVG and a Markdown table per curve; the slope of a straight line through
the logarithms says the power that time or memory grows with (1: linear, 2: quadratic, 0: not at all). Forms are timed
in turns in processor time, forward and backward together; memory is the peak of allocated tensors above the start.
``--page docs/speed.md`` draws the figures again from tables that were measured before.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from medgraft.benchmarks.measure.costs import peak_allocation
from medgraft.benchmarks.speed.scaling_curves import CURVES, Curve, Point, Step
from medgraft.benchmarks.speed.scaling_figure import plot, plot_page

LEAST_SECONDS = 0.05
"""Shorter runs are repeated within a round."""


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least-squares line through the logarithms.

    Example:
        >>> round(slope([1, 2, 4], [3, 12, 48]), 6)
        2.0
    """
    x, y = ([math.log(value) for value in each] for each in (sizes, values))
    return statistics.linear_regression(x, y).slope


def one_run(step: Step) -> float:
    """Processor seconds of a run."""
    count, start = 0, time.process_time()
    while not count or time.process_time() - start < LEAST_SECONDS:
        step()
        count += 1
    return (time.process_time() - start) / count


def measure(curve: Curve, rounds: int, sizes: Sequence[int]) -> dict[str, list[Point]]:
    """All forms of a curve at all sizes, the forms of a size in turns.

    Args:
        curve: Of :data:`~medgraft.benchmarks.speed.scaling_curves.CURVES`.
        rounds: Runs of each form at each size.
        sizes: Sizes to measure.
    """
    points: dict[str, list[Point]] = {form: [] for form in curve.forms}
    for size in sizes:
        steps = {form: curve.build(form, size) for form in curve.forms}
        for step in steps.values():
            step()
        seconds: dict[str, list[float]] = {form: [] for form in steps}
        for _ in range(rounds):
            for form, step in steps.items():
                seconds[form].append(one_run(step))
        for form, step in steps.items():
            spent = seconds[form]
            peak = peak_allocation(step) or 0
            points[form].append(Point(size, statistics.median(spent), peak, (min(spent), max(spent))))
    return points


def table(curve: Curve, points: dict[str, list[Point]]) -> list[str]:
    """The curve as Markdown, slopes last."""
    forms = list(points)
    heads = [curve.axis, *(f"{form} ms" for form in forms), *(f"{form} MB" for form in forms)]
    lines = [f"### {curve.title}", "", f"| {' | '.join(heads)} |", f"|{'---:|' * len(heads)}"]
    for i, first in enumerate(points[forms[0]]):
        row = [f"{first.size:g}", *(f"{1e3 * points[form][i].seconds:.2f}" for form in forms)]
        lines.append(f"| {' | '.join([*row, *(f'{points[form][i].peak / 1e6:.2f}' for form in forms)])} |")
    slopes = [_slope_text(points[form], lambda p: p.seconds) for form in forms]
    slopes += [_slope_text(points[form], lambda p: p.peak) for form in forms]
    return [*lines, f"| slope | {' | '.join(slopes)} |", ""]


def _slope_text(points: Sequence[Point], value: Callable[[Point], float]) -> str:
    positive = [(p.size, value(p)) for p in points if value(p) > 0]
    return f"{slope(*zip(*positive, strict=True)):.2f}" if len(positive) > 1 else "-"


def main(arguments: list[str] | None = None) -> int:
    """Measures the curves and writes tables to the output and plots to the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.scaling", description=__doc__)
    parser.add_argument("--curve", action="append", choices=sorted(CURVES), help="may be repeated; all by default")
    parser.add_argument("--out", type=Path, help="folder for the plots; none by default")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each form at each size")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes, one round: does it run?")
    parser.add_argument("--page", type=Path, help="draw the tables of this Markdown page again; measure nothing")
    options = parser.parse_args(arguments)
    if options.page is not None:
        names = plot_page(options.page, options.out or options.page.parent / "scaling", options.curve or list(CURVES))
        _write([f"drawn from {options.page}: {', '.join(names) or 'nothing, it has no table of a curve'}"])
        return 0 if names else 1
    torch.set_num_threads(options.threads)
    _write([f"cpu, {options.threads} thread(s), {options.rounds} rounds, torch {torch.__version__}.", ""])
    for name in options.curve or CURVES:
        curve = CURVES[name]
        points = measure(curve, 1 if options.quick else options.rounds, curve.sizes[: 2 if options.quick else None])
        _write(table(curve, points))
        if options.out is not None:
            plot(curve, points, options.out / f"{name}.svg")
    return 0


def _write(lines: list[str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
