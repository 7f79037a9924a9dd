"""What a table of the board shows of a row: the numbers of its objective, then what it cost."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from medgraft.benchmarks.board.rows import BoardRow, median
from medgraft.benchmarks.board.text import count, with_interval
from medgraft.benchmarks.results.result import CellResult
from medgraft.errors import MedgraftError
from medgraft.objective import objective_class

HEADINGS = {"f1_macro": "F1 macro", "f1_weighted": "F1 weighted", "auc_macro": "AUC"}
"""Numbers that a heading calls by another name."""
COSTS = ("trainable", "train/s", "infer/s", "tokens/s", "step MB", "backend", "seeds", "status")
KEPT = ("encoder", "adapter", "rank", "backend", "seeds", "status")
"""Columns that a table has whatever they hold; the others only where some row has something in them."""


def numbers_shown(cell: CellResult) -> tuple[str, ...]:
    """Numbers that a table shows first: the primary one, then those that the result's objective names.

    Where the objective is not installed here, those of classes if the result has them.
    """
    named = _columns_of_objective(str(cell.data.get("objective", ""))) or tuple(HEADINGS)
    shown = tuple(name for name in named if name in cell.metrics or not cell.metrics)
    first = [cell.primary] if cell.primary in (*shown, *cell.metrics) else []
    return tuple(dict.fromkeys([*first, *shown]))


def speaking(members: Sequence[BoardRow]) -> CellResult:
    """The result that says what a table is about: the first that has numbers, since one that failed knows no metric."""
    cells = [cell for row in members for cell in row.cells]
    return next((cell for cell in cells if cell.metrics), cells[0])


@functools.cache
def _columns_of_objective(name: str) -> tuple[str, ...]:
    try:
        return objective_class(name).columns
    except MedgraftError:
        return ()


def cells_of_row(row: BoardRow, numbers: Sequence[str]) -> dict[str, str]:
    """A row as text, by heading.

    Args:
        row: The row.
        numbers: Metrics to show, see :func:`numbers_shown`; all rows of a table share them.
    """
    spec, efficiency = row.first.spec, row.first.efficiency
    peak = median(row, "train_step_peak_bytes")
    note = " (pre-training saw this cohort)" if row.first.encoder.get("saw_this_cohort") else ""
    device = "" if spec.device == "cpu" else f" {spec.device}"
    plain = " plain" if spec.plain else ""  # no shortcut was taken
    return {
        "encoder": f"{spec.encoder}{note}",
        "adapter": row.adapter,
        "rank": rank(row),
        **{HEADINGS.get(name, name): with_interval(row.metrics.get(name)) for name in numbers},
        "trainable": count(sum(efficiency.trainable.values()) if efficiency and efficiency.trainable else None),
        "train/s": _speed(row, "train_samples_per_s"),
        "infer/s": _speed(row, "inference_samples_per_s"),
        "tokens/s": _speed(row, "generated_tokens_per_s"),
        "step MB": "-" if peak is None else f"{peak / 2**20:.0f}",
        "backend": f"{spec.backend} {spec.precision}{device}{plain}{_forms(row.first)}",
        "seeds": str(len(row.cells)),
        "status": f"{row.status}; {row.warning}" if row.warning else row.status,
        "marks": "; ".join(row.marks) or "-",
    }


def rank(row: BoardRow) -> str:
    """A row's rank with its 95% interval, as ``1 (1-3)``; ``-`` where it has none."""
    if (standing := row.standing) is None:
        return "-"
    return f"{standing.rank} ({standing.low}-{standing.high})"


ELSEWHERE = " *"
"""Behind a speed that was measured on other hardware than most of its column."""


def _speed(row: BoardRow, name: str) -> str:
    text = count(_rounded(median(row, name)))
    return f"{text}{ELSEWHERE}" if row.other_hardware and text != "-" else text


def _forms(cell: CellResult) -> str:
    """What ran behind ``fused`` and ``auto``, short: what was fused, and what at least once was not."""
    if cell.spec.backend in ("eager", "compile") or cell.status != "success":
        return ""
    fell = sorted(op for op, uses in cell.ops.items() if any(use.form != "fused" for use in uses))
    ran = sorted(op for op, uses in cell.ops.items() if any(use.form == "fused" for use in uses))
    parts = [", ".join(ran) or "nothing fused"] + ([f"eager: {', '.join(fell)}"] if fell else [])
    return f" ({'; '.join(parts)})"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
