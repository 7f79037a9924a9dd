"""Rows of a request: which adapters on which encoders for which tasks, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from medgraft.benchmarks.cell.resolved import ResolvedRow, Resolver
from medgraft.benchmarks.sweep.recipe import adapter_options, task_options
from medgraft.benchmarks.sweep.request import Sweep, known_encoder
from medgraft.errors import ConfigError
from medgraft.objective import objective_class
from medgraft.registry import catalogue
from medgraft.task.names import expand_tasks, task_facts


@dataclass(frozen=True)
class Row:
    """A task, encoder and adapter, not yet a cell.

    Attributes:
        task: Task name.
        encoder: Encoder name.
        adapter: Adapter name.
        label: Variant of the preset that it is; empty for a row that was asked for by name.
    """

    task: str
    encoder: str
    adapter: str
    label: str = ""


def resolve_row(row: Row, sweep: Sweep, resolver: Resolver | None = None) -> ResolvedRow:
    """A row with its options, every name looked up.

    Raises:
        MedgraftError: A name is unknown, or an option does not exist or is out of range.
    """
    options = adapter_options(sweep, row.adapter, row.label)
    return (resolver or Resolver()).row(row.task, task_options(sweep, row.task), row.encoder, row.adapter, options)


def tasks_of(adapter: str, resolver: Resolver | None = None) -> tuple[str, ...]:
    """Tasks that an adapter is run on by default: the catalogue's, joined for a composed name; all defaults else."""
    parts = [name.plugin for name in (resolver or Resolver()).adapter_names(adapter)]
    entries = [catalogue().adapters.get(plugin.name) if plugin.builtin else None for plugin in parts]
    listed = [entry.tasks for entry in entries if entry is not None and entry.tasks]
    if listed and len(listed) == len(parts):
        return tuple(dict.fromkeys(task for tasks in listed for task in tasks))
    return tuple(name for name, entry in catalogue().tasks.items() if entry.default)


def encoders_of(
    task: str, resolver: Resolver | None = None, options: Mapping[str, Any] = MappingProxyType({})
) -> tuple[str, ...]:
    """Encoders that a task is run on by default: the catalogue's; for another one those of tasks with its inputs.

    Args:
        task: Name of the task.
        resolver: Looks names up.
        options: Of the task, which may decide what its inputs are.
    """
    if task in catalogue().tasks and (encoders := task_facts(task).encoders):
        return encoders
    resolver = resolver or Resolver()
    asked = resolver.task(task, options)
    inputs, by_tokens = set(asked.inputs), "tokens" in objective_class(asked.objective).needs
    classes = {name: resolver.task_class(name) for name in catalogue().tasks}
    alike = [
        entry
        for name, entry in catalogue().tasks.items()
        if inputs <= set(classes[name].inputs)
        and by_tokens == ("tokens" in objective_class(classes[name].objective).needs)
    ]
    return tuple(dict.fromkeys(encoder for entry in alike for encoder in entry.encoders))


def rows(sweep: Sweep, resolver: Resolver | None = None) -> list[Row]:
    """All rows of a request, references included, cheap ones first within a task."""
    preset, resolver = sweep.preset_entry(), resolver or Resolver()
    chosen = [(adapter, "") for adapter in sweep.adapters]
    chosen += [(variant.adapter, variant.label) for variant in preset.variants]
    ordered: dict[Row, None] = {}
    for adapter, label in chosen:
        tasks = sweep.tasks or preset.variant(label).tasks or preset.tasks or tasks_of(adapter, resolver)
        for task in expand_tasks(tasks):
            named = (
                preset.variant(label).encoders
                or sweep.encoders
                or preset.encoders.get(task)
                or encoders_of(task, resolver, task_options(sweep, task))
            )
            encoders = tuple(dict.fromkeys(known_encoder(name) for name in named))
            if not encoders:
                raise ConfigError(f"no default encoder reads what task {task!r} does; choose some with --encoders")
            if sweep.baselines:
                ordered.update(dict.fromkeys(_references(task, sweep, resolver, encoders)))
            ordered.update(dict.fromkeys(Row(task, encoder, adapter, label) for encoder in encoders))
    return list(ordered)


def _references(task: str, sweep: Sweep, resolver: Resolver, encoders: Iterable[str]) -> Iterable[Row]:
    entry = task_facts(task)
    objective = objective_class(resolver.task(task, task_options(sweep, task)).objective)
    if "shared space" not in objective.needs:
        yield from (Row(task, encoder, name) for encoder in encoders for name in objective.baselines)
    elif not entry.baselines:
        yield from (Row(task, encoder, "zero_shot") for encoder in encoders)
    yield from (Row(task, baseline.encoder, baseline.adapter) for baseline in entry.baselines)
