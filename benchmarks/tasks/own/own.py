"""Which task reads a path: a table, or a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cohorts.own.tables import has_table, table_at
from medgraft.benchmarks.tasks.own.folder import Folder
from medgraft.benchmarks.tasks.own.own_data import OwnTask
from medgraft.benchmarks.tasks.own.table import Table
from medgraft.errors import ConfigError, DataError
from medgraft.options import checked, from_text


def own_task(data: Path, assignments: Iterable[str], root: Path | None = None) -> tuple[OwnTask, Path]:
    """The task for a table or a folder, and where it reads it.

    Args:
        data: A table; or a folder that holds one table, or a folder for each class.
        assignments: ``OPTION=VALUE`` each.
        root: Folder of the files that a table names; ``None`` where they lie beside it.

    Raises:
        ConfigError: An option does not exist, or has a value out of range.
        DataError: There is no such file or folder.
    """
    cls: type[OwnTask] = Table if data.is_file() or has_table(data) else Folder
    values: dict[str, Any] = {}
    if root is not None:
        if cls is Folder:
            raise ConfigError(f"--root is for a table, and {data} is a folder for each class")
        values["table"] = below(root, data)
    for text in assignments:
        name, equals, value = text.partition("=")
        name = name.strip().removeprefix(f"{cls.cohort}.")
        if not equals or not name:
            raise ConfigError(f"--set {text}: write OPTION=VALUE, such as label=dx")
        field = cls.Config.model_fields.get(name)
        values[name] = from_text(field.annotation, value) if field is not None else value
    return cls(checked(cls.Config, values, f"options of task {cls.cohort!r}")), root or data


def below(root: Path, table: Path) -> str:
    """Path of a table as seen from the folder of its files.

    Raises:
        DataError: There is no such folder or table.
    """
    if not root.is_dir():
        raise DataError(f"--root {root}: there is no such folder")
    return os.path.relpath(table_at(table).resolve(), root.expanduser().resolve())
