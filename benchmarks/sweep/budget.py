"""``--budget``: rows scaled to a number of trainable parameters, each by its adapter's own size knob."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medgraft.benchmarks.cell.resolved import ResolvedRow, Resolver
from medgraft.benchmarks.sweep.recipe import task_options
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.sweep.rows import Row
from medgraft.errors import ConfigError, MedgraftError


def within_budget(
    sweep: Sweep, rows: Mapping[Row, ResolvedRow], budget: int, resolver: Resolver
) -> tuple[dict[Row, ResolvedRow], dict[Row, str]]:
    """Rows with their size knobs turned, and those that no setting makes small enough, with the reason.

    Args:
        sweep: The request.
        rows: Rows that fit their encoders.
        budget: Parameters that an adapter may train, head left out.
        resolver: Looks names up.

    Raises:
        ConfigError: The user sets the option that the budget is to set.
    """
    from medgraft.adapter.sizing import Sizing, sized
    from medgraft.benchmarks.cell.encoder import select_encoder

    encoders: dict[tuple[str, tuple[str, ...]], Any] = {}
    known: dict[str, Sizing | str] = {}
    good: dict[Row, ResolvedRow] = {}
    large: dict[Row, str] = {}
    for row, resolved in rows.items():
        _refuse_set(sweep, resolved)
        place = row.encoder, resolved.modalities
        mark = repr((place, row.adapter, resolved.options()))
        if mark not in known:
            if place not in encoders:
                encoders = {place: select_encoder(row.encoder, resolved.modalities)}  # one at a time: they are large
            try:
                known[mark] = sized(encoders[place], row.adapter, resolved.options(), budget)
            except MedgraftError as error:
                known[mark] = str(error)
        sizing = known[mark]
        if isinstance(sizing, str):
            large[row] = f"--budget: {sizing}"
        else:
            good[row] = resolver.row(row.task, task_options(sweep, row.task), row.encoder, row.adapter, sizing.options)
    return good, large


def knob_of(resolved: ResolvedRow) -> tuple[str, str]:
    """Part of a row's adapter and the option of it that scales the row; both empty where none does."""
    for part, each in resolved.adapters.items():
        if each.adapter.size_knob is not None:
            return part, each.adapter.size_knob.option
    return "", ""


def _refuse_set(sweep: Sweep, resolved: ResolvedRow) -> None:
    part, option = knob_of(resolved)
    value: Any = sweep.options.get(part)
    for step in option.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if value is not None:
        name = f"{part}.{option}"
        raise ConfigError(f"--budget sets {name}, and so does --set {name}={value}; leave one of them out")
