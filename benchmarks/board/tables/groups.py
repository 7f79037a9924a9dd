"""Tables of metrics by groups of test subjects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from medgraft.benchmarks.board.rows import BoardRow, metrics_of
from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.metrics.groups import Groups
from medgraft.benchmarks.metrics.intervals import joined_interval
from medgraft.benchmarks.metrics.student import Bounds
from medgraft.metric.judging import metric_of

SET_SIZE = "set_size"
HEADS = ("encoder", "adapter", "by", "group", "subjects", "value", "note")


def group_rows(members: Sequence[BoardRow], metric: str = "") -> list[list[str]]:
    """Rows of a table of groups for rows of one task; empty where no result has groups.

    Args:
        members: The rows.
        metric: Which; the primary one where empty.

    Numbers are means over the seeds that have the group; intervals add up those of the seeds and their spread.
    """
    return [cells for row in members for cells in _of_row(row, metric)]


def metrics_by_group(rows: Sequence[BoardRow]) -> set[str]:
    """Names of all metrics that some result has by groups."""
    each = [groups for row in rows for cell in row.cells for groups in cell.groups.values()]
    return {name for groups in each for name in (groups.metric, *groups.further)}


def _of_row(row: BoardRow, metric: str) -> Iterator[list[str]]:
    good = [cell for cell in row.cells if cell.status == "success" and cell.groups]
    for attribute in dict.fromkeys(name for cell in good for name in cell.groups):
        known = [cell.groups[attribute] for cell in good if attribute in cell.groups]
        seeds = [found for each in known if (found := each.of(metric or each.metric)) is not None]
        if not seeds:
            continue
        start = [row.first.spec.encoder, row.adapter, attribute]
        bounds = metric_of(seeds[0].metric, metrics_of(row.first)).bounds
        if seeds[0].metric == SET_SIZE:
            bounds = 0.0, float("inf")
        for group in seeds[0].groups:
            estimates = [seed.groups[group] for seed in seeds if group in seed.groups]
            subjects = str(estimates[0].n_subjects)
            worst = sum(seed.worst == group for seed in seeds)
            note = f"worst in {worst} of {len(seeds)}" if worst and len(seeds) > 1 else "worst" if worst else ""
            yield [*start, group, subjects, _shown(estimates, bounds), note]
        gap = _shown([seed.gap for seed in seeds], (0.0, bounds[1] - bounds[0]))
        yield [*start, "gap, best to worst", "", gap, _not_shown(seeds[0])]


def _not_shown(groups: Groups) -> str:
    parts = []
    for what, small in (("in others", groups.joined), ("too few", groups.left_out)):
        if small:
            parts.append(f"{what}: {', '.join(f'{name} ({count})' for name, count in small.items())}")
    return "; ".join(parts)


def _shown(estimates: Sequence[Estimate], bounds: Bounds) -> str:
    values = [each.value for each in estimates]
    if any(value is None for value in values):
        return "undefined"
    mean = fmean(value for value in values if value is not None)
    ends = [(each.value, each.ci_low, each.ci_high) for each in estimates]
    if any(None in each for each in ends):
        return f"{mean:.3f}"
    low, high = joined_interval(*zip(*ends, strict=True), bounds)  # pyright: ignore
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"
