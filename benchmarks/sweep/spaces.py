"""What ``--tune`` may vary of a row: its space, without what the user, a variant of a preset or a budget sets."""

from __future__ import annotations

from collections.abc import Mapping

from medgraft.benchmarks.cell.resolved import ResolvedRow
from medgraft.benchmarks.results.chosen import Dimension
from medgraft.benchmarks.sweep.budget import knob_of
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.sweep.rows import Row
from medgraft.benchmarks.tuning.space import space_of
from medgraft.registry import TrainDefaults


def row_space(sweep: Sweep, row: Row, resolved: ResolvedRow, train: TrainDefaults) -> list[Dimension]:
    """The dimensions that trials of a row vary; none where it has nothing to tune.

    Args:
        sweep: The request.
        row: The row.
        resolved: The same, every name looked up.
        train: How it is trained untuned.
    """
    adapters = {part: each.adapter for part, each in resolved.adapters.items()}
    return space_of(adapters, resolved.objective, train, _fixed(sweep, row, resolved))


def _fixed(sweep: Sweep, row: Row, resolved: ResolvedRow) -> set[str]:
    """Names of dimensions that somebody has decided."""
    variant = sweep.preset_entry().variant(row.label)
    fixed = {f"train.{name}" for name, value in sweep.train.items() if not isinstance(value, Mapping)}
    fixed |= {f"train.{name}" for name in (*sweep.train.get(row.adapter, {}), *variant.train)}
    if sweep.epochs is not None:
        fixed.add("train.epochs")
    for part in resolved.adapters:
        for table in (sweep.options.get(part, {}), variant.options):
            fixed |= {f"{part}.{name}" for name in table}
            fixed |= {f"{part}.{name}" for name in table.get(part, {}) if isinstance(table.get(part), Mapping)}
    if isinstance(whole := sweep.options.get(row.adapter), Mapping) and len(resolved.adapters) > 1:
        fixed |= {f"{part}.{name}" for part, table in whole.items() if isinstance(table, Mapping) for name in table}
    part, option = knob_of(resolved)
    return fixed | ({f"{part}.{option}"} if sweep.budget is not None and part else set())
