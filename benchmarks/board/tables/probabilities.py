"""Tables of how far a row's probabilities can be believed: their calibration, temperatures and conformal sets."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.board.text import with_interval
from medgraft.benchmarks.calibration.summary import Calibration
from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.metrics.intervals import joined_interval
from medgraft.benchmarks.metrics.student import Bounds

HEADS = ("encoder", "adapter", "Brier", "ECE", "by chance", "temperature", "coverage", "least covered", "set size")


def probability_rows(members: Sequence[BoardRow]) -> list[list[str]]:
    """Rows of a table for rows of one task; empty where none has probabilities.

    Numbers are means over the seeds. ``by chance`` is the ECE of predictions that mean what they say, with its 95th
    percentile; ``least covered`` the coverage of the class, or of present or absent labels, that is covered least.
    """
    rows: list[list[str]] = []
    for row in members:
        good = [cell for cell in row.cells if cell.status == "success"]
        seeds = [cell.calibration for cell in good if cell.calibration is not None]
        if seeds:
            start = [row.first.spec.encoder, row.adapter]
            errors = [with_interval(row.metrics.get(name)) for name in ("brier", "ece")]
            rows.append([*start, *errors, _chance(seeds), _temperature(seeds), *_sets(seeds)])
    return rows


def _chance(seeds: Sequence[Calibration]) -> str:
    each = [seed.reliability.chance_error for seed in seeds if seed.reliability.chance_error is not None]
    return f"{fmean(mean for mean, _ in each):.3f}, to {fmean(high for _, high in each):.3f}" if each else "-"


def _temperature(seeds: Sequence[Calibration]) -> str:
    scalings = [seed.scaling for seed in seeds if seed.scaling is not None]
    numbers = [each for scaling in scalings for each in scaling.temperatures if each is not None]
    if not scalings:
        return "-"
    if not numbers:
        return "none is best"
    low, high = f"{min(numbers):.2f}", f"{max(numbers):.2f}"
    return low if low == high else f"{low} to {high}"


def _sets(seeds: Sequence[Calibration]) -> list[str]:
    sets = [seed.sets for seed in seeds if seed.sets is not None]
    if not sets:
        return ["-", "-", "-"]
    parts = sorted({name for each in sets for name in each.numbers if name.startswith("coverage_")})
    summed = {name: _mean([each.numbers[name] for each in sets if name in each.numbers]) for name in parts}
    known = {name: numbers for name, numbers in summed.items() if numbers[0] is not None}
    lowest = min(known, key=lambda name: known[name][0] or 0.0) if known else ""
    worst = f"{with_interval(known[lowest])} {lowest.removeprefix('coverage_')}" if lowest else "-"
    coverage = with_interval(_mean([each.numbers["coverage"] for each in sets]))
    size = with_interval(_mean([each.numbers["set_size"] for each in sets], (0.0, float("inf"))))
    nominal = f"{sets[0].rule.coverage:g}"
    return [f"{coverage} of {nominal}", worst, size]


def _mean(each: Sequence[Estimate], bounds: Bounds = (0.0, 1.0)) -> tuple[float | None, float | None, float | None]:
    values = [(one.value, one.ci_low, one.ci_high) for one in each]
    numbers = [value for value, _, _ in values if value is not None]
    if len(numbers) < len(values):
        return None, None, None
    if any(None in one for one in values):
        return fmean(numbers), None, None
    return fmean(numbers), *joined_interval(*zip(*values, strict=True), bounds)  # pyright: ignore
