"""What a row is made with: options and hyper-parameters, from the catalogue, the preset and the request."""

from __future__ import annotations

from typing import Any

from medgraft.benchmarks.cell.resolved import Resolver
from medgraft.benchmarks.sweep.request import Sweep, merged
from medgraft.errors import ConfigError
from medgraft.options import checked
from medgraft.registry import TrainDefaults, adapter_facts
from medgraft.task.names import name_in_keys


def requested_adapters(sweep: Sweep) -> tuple[str, ...]:
    """Adapters that were named, then those of the preset's variants."""
    return tuple(dict.fromkeys([*sweep.adapters, *(variant.adapter for variant in sweep.preset_entry().variants)]))


def adapter_options(sweep: Sweep, adapter: str, label: str = "") -> dict[str, Any]:
    """Options of a row: the preset's, then the request's, then those that make it the variant of that label.

    A composed adapter takes what the request says of its parts, then what it says of the whole.
    """
    preset, parts = sweep.preset_entry(), adapter.split("+")
    of_parts = {part: sweep.options[part] for part in parts if part in sweep.options} if len(parts) > 1 else {}
    requested = merged(of_parts, sweep.options.get(adapter, {}))
    return {**preset.options.get(adapter, {}), **requested, **preset.variant(label).options}


def task_options(sweep: Sweep, task: str) -> dict[str, Any]:
    """Options of a task: the preset's, then the request's; a preset may have the task under its former name."""
    of_preset = sweep.preset_entry().options
    return {**of_preset.get(name_in_keys(task), {}), **of_preset.get(task, {}), **sweep.options.get(task, {})}


def training(sweep: Sweep, adapter: str, label: str = "", resolver: Resolver | None = None) -> TrainDefaults:
    """Hyper-parameters of a row: catalogue, preset, the preset's variant, then the request, which has the last word."""
    names = (resolver or Resolver()).adapter_names(adapter)
    parts = [name.plugin.name for name in names]
    values: dict[str, Any] = {}
    for name in names:
        values |= adapter_facts(name).train.model_dump()
    for part in [*parts, adapter]:
        values |= sweep.preset_entry().train.get(part, {})
    values |= sweep.preset_entry().variant(label).train
    trains = values.get("epochs") != 0
    every = {name: value for name, value in sweep.train.items() if not isinstance(value, dict)}
    last = {"epochs": sweep.epochs} if sweep.epochs is not None and trains else {}
    if not trains:
        every.pop("epochs", None)
    requested = every | sweep.train.get(adapter, {}) | last
    recipe = checked(TrainDefaults, values | requested, f"training options of {adapter!r}")
    if trains and recipe.epochs == 0:
        raise ConfigError(
            f"training options of {adapter!r}: epochs 0 would leave the adapter and its head as they start; give 1 or "
            "more, or run zero_shot, which has nothing to train"
        )
    return recipe
