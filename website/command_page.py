"""The page of commands, made from the parser itself: every command with its arguments, options, ranges and defaults."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from medgraft.benchmarks.commands.main import app

WORDS: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "switch", Path: "path"}
"""Type of a parameter -> what it is called."""


def page() -> str:
    """Markdown of all commands of ``medgraft``."""
    root: Any = typer.main.get_command(app)
    parts = [
        "# Commands",
        "Made from the parser; `medgraft COMMAND --help` says the same. `python -m benchmarks.run` in a checkout is "
        "`medgraft run`.",
    ]
    with root.make_context("medgraft", [], resilient_parsing=True) as context:
        for name in root.list_commands(context):
            parts += _command(f"medgraft {name}", root.get_command(context, name), context, 2)
    return "\n\n".join(parts) + "\n"


def _command(path: str, command: Any, parent: Any, level: int) -> Iterator[str]:
    yield f"{'#' * level} {path}"
    if command.help:
        yield _plain(command.help)
    inner = command.list_commands(parent) if hasattr(command, "list_commands") else []
    shown = [each for each in command.params if not each.hidden and each.name != "help"]
    arguments = [_usage(each) for each in shown if each.param_type_name == "argument"]
    yield f"```text\n{' '.join([path, *(['COMMAND'] if inner else []), *arguments, '[OPTIONS]'])}\n```"
    if shown:
        yield "\n".join(["| argument or option | value | default | meaning |", "|---|---|---|---|", *map(_row, shown)])
    for name in inner:
        yield from _command(f"{path} {name}", command.get_command(parent, name), parent, level + 1)


def _usage(argument: Any) -> str:
    word = f"{argument.name.upper()}{'...' * (argument.nargs == -1)}"
    return word if argument.required else f"[{word}]"


def _row(param: Any) -> str:
    is_argument = param.param_type_name == "argument"
    names = [param.name.upper()] if is_argument else [*param.opts, *param.secondary_opts]
    default = param.default() if callable(param.default) else param.default
    if isinstance(default, Enum):
        default = default.value
    empty = default is None or default in ((), [], False) or "UNSET" in repr(default)
    needed = "**needed**" if param.required else ""
    cells = [", ".join(f"`{name}`" for name in names), _kind(param), needed or ("" if empty else f"`{default}`")]
    return f"| {' | '.join([*cells, _plain(getattr(param, 'help', None) or '')])} |"


def _kind(param: Any) -> str:
    """What a value must be: choices, or a type and its range."""
    annotation = param.type_descriptor.annotation
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{each.value}`" for each in annotation)
    low, high = param.min, param.max
    bounds = [f"at {word} {limit:,}" for word, limit in (("least", low), ("most", high)) if limit is not None]
    word = WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))
    return ", ".join([f"{word}{', several' * (param.nargs == -1 or getattr(param, 'multiple', False))}", *bounds])


def _plain(text: str) -> str:
    """Help text as Markdown shows it unchanged, on one line."""
    line = " ".join(text.split())
    for character in "\\`*_<>[]|{}":
        line = line.replace(character, f"\\{character}")
    return line
