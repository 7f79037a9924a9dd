"""The command that runs a row again, from what its results say of themselves."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from medgraft.benchmarks.board.text import PATH
from medgraft.benchmarks.cohorts import places
from medgraft.benchmarks.results.spec import LATER_FIELDS, CellSpec
from medgraft.commands.plain_text import one_line

FLAGS = ("augment_views", "calibrate", "sets", "coverage")
"""Fields of a specification that are options of ``run`` of the same name, and that are seldom used."""


def command_of(spec: CellSpec, seeds: list[int]) -> list[str]:
    """Words of the command, ``--data NAME=PATH`` left to be filled in where the cohort is a real one.

    Args:
        spec: Of any of the seeds.
        seeds: The seeds.
    """
    words = ["medgraft", "run", "--adapters", spec.adapter, "--encoders", spec.encoder, "--tasks", spec.task]
    words += ["--seeds", ",".join(map(str, seeds)), "--no-baselines", "--backend", spec.backend]
    words += ["--precision", spec.precision, "--device", spec.device, "--threads", str(spec.threads)]
    if not spec.cohort.phantom:
        words += ["--data", f"{_data_of(spec.cohort.name)}=PATH"]
    if spec.limit is not None:
        words += ["--limit", str(spec.limit)]
    for name in FLAGS:
        if (value := getattr(spec, name)) != LATER_FIELDS[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--sets-by-class"] if spec.sets_by_class else []
    for name, value in _settings(spec):
        words += ["--set", f"{name}={value}"]
    return words


@functools.cache
def _data_of(cohort: str) -> str:
    """Looked up once: finding a plugin reads what every installed distribution declares."""
    return places.data_of(cohort)


def shown_command(spec: CellSpec, seeds: list[int]) -> str:
    """The same as a shell takes it, several lines, no absolute path in it."""
    words = [PATH.sub(_last_part, one_line(word)) for word in command_of(spec, seeds)]
    lines, line = [], "MEDGRAFT_PLAIN=1 medgraft run" if spec.plain else "medgraft run"
    for word in words[2:]:
        if word.startswith("--"):
            lines.append(line)
            line = f"  {word}"
        else:
            line += f" {shlex.quote(word)}"
    return " \\\n".join([*lines, line])


def _last_part(match: re.Match[str]) -> str:
    """What :func:`medgraft.benchmarks.board.text.without_paths` leaves of a path."""
    return f"{match['before']}{match['name'] or 'PATH'}"


def _settings(spec: CellSpec) -> Iterator[tuple[str, str]]:
    """Names and values of ``--set``: options of the adapter, of the task, and of the training."""
    parts = spec.adapter.split("+")
    by_part = {parts[0]: spec.adapter_options} if len(parts) == 1 else spec.adapter_options
    for part, options in by_part.items():
        if isinstance(options, Mapping):
            yield from _flat(part, options)
    yield from _flat(spec.task, spec.task_options)
    for name, value in spec.train.model_dump(mode="json").items():
        if name != "epochs" or value:  # adapters that train nothing take no epochs
            yield f"train.{name}", _text(value)


def _flat(prefix: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}.{name}", value)
        elif value not in ("", [], ()):
            yield f"{prefix}.{name}", _text(value)


def _text(value: Any) -> str:
    """A value as ``--set`` reads it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return f"{value!r}" if isinstance(value, float) else str(value)
