"""Task files: what was understood of somebody's data, under a name, to be read by ``--tasks FILE.yaml``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from medgraft.errors import ConfigError
from medgraft.files.documents import read_yaml
from medgraft.task import Task
from medgraft.task.names import NAME

ENDINGS = (".yaml", ".yml")
FIELDS = {"task", "name", "data", "options"}


class TaskFile(NamedTuple):
    """A named task.

    Attributes:
        name: ``table:NAME`` or ``folder:NAME``.
        data: The table or folder.
        options: Of the task.
    """

    name: str
    data: Path
    options: Mapping[str, Any]


def write_task_file(path: Path, task: Task, data: Path) -> None:
    """Writes a task under the name of the file.

    Raises:
        ConfigError: The file is there already, is not called YAML, or its name is no name for a task.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"--write {path}: a task file ends in .yaml")
    if path.exists():
        raise ConfigError(f"--write {path}: there is such a file; name another, or delete it")
    content = {
        "name": _checked_name(path.stem, path),
        "task": task.cohort,
        "data": os.path.relpath(data.resolve(), path.resolve().parent),
        "options": task.config.model_dump(mode="json"),
    }
    text = "# What `medgraft inspect` understood; change what is wrong. Paths are relative to this file.\n"
    try:
        path.write_text(text + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--write {path}: {error.strerror or error}") from error


def read_task_file(path: Path) -> TaskFile:
    """The task of a file.

    Raises:
        ConfigError: It cannot be read, or lacks a field.
    """
    content = read_yaml(path, name=f"task file {path}")
    if not isinstance(content, dict) or not {"task", "data"} <= set(content) or set(content) - FIELDS:
        raise ConfigError(
            f"task file {path} must hold task, data, and maybe name and options, as medgraft inspect --write makes it"
        )
    options = content.get("options") or {}
    if not isinstance(options, dict):
        raise ConfigError(f"task file {path}: options must be a mapping, not {type(options).__name__}")
    name = _checked_name(str(content.get("name") or path.stem), path)
    data = path.parent / Path(str(content["data"])).expanduser()
    return TaskFile(f"{content['task']}:{name}", data, {str(key): value for key, value in options.items()})


def is_task_file(name: str) -> bool:
    """Whether what stands among the names of tasks is a file."""
    return name.lower().endswith(ENDINGS)


def _checked_name(name: str, path: Path) -> str:
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"{path}: {name!r} is no name for a task; letters, digits, _, . and - make one")
    return name
