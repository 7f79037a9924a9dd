"""Names looked up once: what planning, compatibility checks and the worker read in place of names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medgraft.objective import Objective, modalities, objective_class
from medgraft.plugins import Plugin
from medgraft.registry import (
    AdapterFacts,
    AdapterName,
    EncoderName,
    adapter_facts,
    build_adapters,
    resolve_adapter,
    resolve_encoder,
)
from medgraft.task import Task
from medgraft.task.names import build_task, resolve_task, task_class

if TYPE_CHECKING:  # it brings torch, and mistakes of a request are told before that is imported
    from medgraft.adapter import Adapter


@dataclass(frozen=True)
class ResolvedAdapter:
    """One adapter of a row.

    Attributes:
        name: Plugin and variant.
        adapter: It, with its options, attached to nothing.
    """

    name: AdapterName
    adapter: Adapter

    def facts(self) -> AdapterFacts:
        """Title, paper, licence and recipe."""
        return adapter_facts(self.name)


@dataclass(frozen=True)
class ResolvedRow:
    """A task, an encoder and adapters, each name looked up.

    Attributes:
        task: The task, with its options.
        task_plugin: Where it is from.
        objective: What it optimises.
        encoder: Source and model.
        adapters: Adapters by the part of the joined name that asked for them.
    """

    task: Task
    task_plugin: Plugin
    objective: type[Objective]
    encoder: EncoderName
    adapters: Mapping[str, ResolvedAdapter]

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the encoder must read."""
        return modalities(self.task)

    def options(self) -> dict[str, Any]:
        """Options of the adapter, as a cell's key has them; of several, by part."""
        by_part = {part: each.adapter.config.model_dump(mode="json") for part, each in self.adapters.items()}
        return next(iter(by_part.values())) if len(by_part) == 1 else by_part

    def plugins(self) -> list[Plugin]:
        """Every plugin that takes part."""
        return [*(each.name.plugin for each in self.adapters.values()), self.encoder.plugin, self.task_plugin]


class Resolver:
    """Looks names up, each once: finding a plugin reads what every installed distribution declares."""

    def __init__(self) -> None:
        self._adapters: dict[str, AdapterName] = {}
        self._encoders: dict[str, EncoderName] = {}
        self._classes: dict[str, type[Task]] = {}
        self._task_plugins: dict[str, Plugin] = {}
        self._tasks: dict[tuple[str, str], Task] = {}

    def adapter_names(self, joined: str) -> list[AdapterName]:
        """The adapters of a ``+``-joined name, not imported.

        Raises:
            UnknownNameError: There is none of a name.
        """
        parts = [part.strip() for part in joined.split("+")]
        for part in parts:
            if part not in self._adapters:
                self._adapters[part] = resolve_adapter(part)
        return [self._adapters[part] for part in parts]

    def encoder(self, name: str) -> EncoderName:
        """Source and model of an encoder, not built.

        Raises:
            UnknownNameError: There is no such source.
        """
        if name not in self._encoders:
            self._encoders[name] = resolve_encoder(name)
        return self._encoders[name]

    def task_class(self, name: str) -> type[Task]:
        """The class of a task, imported.

        Raises:
            UnknownNameError: There is no such task.
        """
        if name not in self._classes:
            self._classes[name] = task_class(name)
        return self._classes[name]

    def objective(self, task: str) -> type[Objective]:
        """What a task optimises.

        Raises:
            UnknownNameError: There is no such task, or no objective of the name that it gives.
        """
        return objective_class(self.task_class(task).objective)

    def task(self, name: str, options: Mapping[str, Any]) -> Task:
        """A task with its options.

        Raises:
            MedgraftError: The name is unknown, or an option does not exist or is out of range.
        """
        key = name, json.dumps(options, sort_keys=True, default=str)
        if key not in self._tasks:
            self._tasks[key] = build_task(name, options)
        return self._tasks[key]

    def task_plugin(self, name: str) -> Plugin:
        """Where a task is from.

        Raises:
            UnknownNameError: There is no such task.
        """
        if name not in self._task_plugins:
            self._task_plugins[name] = resolve_task(name).plugin
        return self._task_plugins[name]

    def row(
        self, task: str, task_options: Mapping[str, Any], encoder: str, adapter: str, options: Mapping[str, Any]
    ) -> ResolvedRow:
        """A row from names and options; its adapters are new ones.

        Args:
            task: Name.
            task_options: Its options.
            encoder: Name.
            adapter: Name, several joined by ``+``.
            options: Of the adapter; of several, by part.

        Raises:
            MedgraftError: A name is unknown, or an option does not exist or is out of range.
        """
        names = self.adapter_names(adapter)
        built = build_adapters(adapter, options)
        adapters = {part: ResolvedAdapter(name, each) for name, (part, each) in zip(names, built.items(), strict=True)}
        instance = self.task(task, task_options)
        objective = objective_class(instance.objective)
        return ResolvedRow(instance, self.task_plugin(task), objective, self.encoder(encoder), adapters)
