"""What sets a row apart from the others of its table in effort: tuned, scaled to a budget, trained longer."""

from __future__ import annotations

import functools

from medgraft.adapter.sizing import shown_count
from medgraft.benchmarks.results.result import CellResult
from medgraft.errors import MedgraftError
from medgraft.registry import adapter_facts, resolve_adapter


def marks_of(cell: CellResult) -> tuple[str, ...]:
    """Marks of a row, from any of its results that succeeded."""
    return tuple(mark for mark in (_tuned(cell), _longer(cell), _sized(cell)) if mark)


def _tuned(cell: CellResult) -> str:
    if not cell.spec.tune:
        return ""
    trials = cell.tuning.counted if cell.tuning is not None else cell.spec.tune
    mark = f"tuned, {trials} trial{'s' if trials > 1 else ''}"
    if cell.tuning is not None and cell.tuning.best_score is None:
        return f"{mark} without a score"
    return mark


def _longer(cell: CellResult) -> str:
    usual = cell.training.get("recipe_epochs")
    usual = usual if isinstance(usual, int) else recipe_epochs(cell.spec.adapter)
    if not usual or not cell.training.get("steps") or cell.spec.train.epochs <= usual:
        return ""
    return f"trained {cell.spec.train.epochs / usual:.3g}x the recipe's epochs"


def _sized(cell: CellResult) -> str:
    if cell.spec.budget is None:
        return ""
    mark = f"budget {shown_count(cell.spec.budget)}"
    if cell.sizing is None:
        return mark
    if cell.sizing.reached > cell.sizing.budget:
        return f"{mark} exceeded: {shown_count(cell.sizing.reached)}"
    without = "" if cell.sizing.knobs else ", no size knob"
    return f"{mark}, {cell.sizing.share:.0%} used{without}"


@functools.cache
def recipe_epochs(adapter: str) -> int | None:
    """Epochs of an adapter's own recipe, of the last part of a composed one; ``None`` where it is not installed."""
    try:
        return adapter_facts(resolve_adapter(adapter.split("+")[-1].strip())).train.epochs
    except MedgraftError:
        return None
