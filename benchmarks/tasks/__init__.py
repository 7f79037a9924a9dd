"""Task families, one per file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medgraft import plugins
from medgraft.options import checked
from medgraft.task import Task


def task_class(name: str) -> type[Task]:
    """Imports a task plugin."""
    return plugins.load(plugins.find("task", name))


def build_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Builds a task with its options.

    Raises:
        UnknownNameError: No such task.
        ConfigError: An option does not exist or has a value out of range.
    """
    cls = task_class(name)
    return cls(checked(cls.Config, options or {}, f"options of task {name!r}"))
