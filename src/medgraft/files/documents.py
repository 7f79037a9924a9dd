"""YAML and JSON files, read within limits: of bytes, of nesting, and of what aliases repeat.

A few hundred bytes of YAML can stand for more values than a machine holds ("billion laughs"), and a few hundred
thousand brackets end Python's stack. Both are found before anything is built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from medgraft.errors import ConfigError, MedgraftError
from medgraft.files.limits import limit, within
from medgraft.typed.values import is_a

NUMBERS = {
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
"""Tag -> what a plain number looks like, and its first characters."""

# The parser in C, where PyYAML was built with it, takes a tenth of the time.
_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SAFE):
    """YAML as people write it: keys differ, and numbers are those of YAML 1.2 (section 10.3.2).

    PyYAML speaks YAML 1.1, where the last of two equal keys wins, ``1e-3`` is text, ``1:30`` ninety and ``010`` eight.
    ``yes`` and ``no`` stay truth values, so that they are refused where a number belongs.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Hashable, int] = {}
        for key, _ in node.value:
            name = None if key.tag == "tag:yaml.org,2002:merge" else self.construct_object(key, deep=True)
            if name is None or not isinstance(name, Hashable):
                continue
            line = key.start_mark.line + 1
            if name in seen:
                where = f"line {line}" if seen[name] == line else f"lines {seen[name]} and {line}"
                raise yaml.YAMLError(f"{name!r} is given twice, in {where}; keep one of them")
            seen[name] = line
        return super().construct_mapping(node, deep)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    def construct_whole_number(self, node: Any) -> int:
        """Decimal, whatever it begins with."""
        return int(self.construct_scalar(node))


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in kinds if tag not in NUMBERS]
    for first, kinds in _SAFE.yaml_implicit_resolvers.items()
}
for _tag, (_pattern, _first) in NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole_number)


def read_text(path: Path, error: type[MedgraftError] = ConfigError, *, name: str = "") -> str:
    """Content of a document in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        error: Kind of the error.
        name: What errors call the file; its path by default.

    Raises:
        MedgraftError: It cannot be read, is no UTF-8, or is longer than ``MEDGRAFT_MAX_DOCUMENT_BYTES``; of the kind
            ``error``.
    """
    name = name or str(path)
    try:
        with path.open("rb") as handle:
            content = handle.read(limit("MEDGRAFT_MAX_DOCUMENT_BYTES") + 1)  # a pipe has no size to ask for
        within("MEDGRAFT_MAX_DOCUMENT_BYTES", len(content), f"{name} has {len(content):,} bytes or more", error)
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{name} cannot be read: {' '.join(str(problem).split())}") from problem


def read_yaml(path: Path, error: type[MedgraftError] = ConfigError, *, name: str = "") -> Any:
    """Content of a YAML file: plain containers and values only.

    Args:
        path: The file.
        error: Kind of the error.
        name: What errors call the file; its path by default.

    Raises:
        MedgraftError: As :func:`read_text` and :func:`parse_yaml`.
    """
    return parse_yaml(read_text(path, error, name=name), name or str(path), error)


def parse_yaml(text: str, where: str, error: type[MedgraftError] = ConfigError) -> Any:
    """Value of a YAML text.

    Args:
        text: One document.
        where: What the text is, for the error.
        error: Kind of the error.

    Raises:
        MedgraftError: It is no YAML, has a key twice in a mapping, or goes beyond ``MEDGRAFT_MAX_DOCUMENT_DEPTH`` or
            ``MEDGRAFT_MAX_DOCUMENT_NODES``; of the kind ``error``.
    """
    try:
        _check_events(
            yaml.parse(text, Loader=_Loader),  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            where,
            error,
        )
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        if isinstance(problem, MedgraftError):
            raise
        raise error(f"{where} cannot be read: {' '.join(str(problem).split())}") from problem


def _check_events(events: Iterable[Any], where: str, error: type[MedgraftError]) -> None:
    """Counts values with all that aliases repeat, and levels; stops at the first event that is one too many."""
    most, deepest = limit("MEDGRAFT_MAX_DOCUMENT_NODES"), limit("MEDGRAFT_MAX_DOCUMENT_DEPTH")
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []  # anchor of each collection that is open, and the count where it began
    count = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in open_):
                raise error(f"{where} holds itself: *{event.anchor} stands inside &{event.anchor}")
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, began = open_.pop()
            if anchor is not None:
                sizes[anchor] = count - began
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
        if count > most:
            within("MEDGRAFT_MAX_DOCUMENT_NODES", count, f"{where} stands for {count:,} values or more", error)
        if len(open_) > deepest:
            within("MEDGRAFT_MAX_DOCUMENT_DEPTH", len(open_), f"{where} is nested {len(open_)} levels deep", error)


def read_json(path: Path, error: type[MedgraftError] = ConfigError) -> Any:
    """Content of a JSON file.

    Raises:
        MedgraftError: It cannot be read, is no JSON, or goes beyond ``MEDGRAFT_MAX_DOCUMENT_BYTES`` or
            ``MEDGRAFT_MAX_DOCUMENT_DEPTH``; of the kind ``error``.
    """
    if path.exists() and not path.is_file():
        raise error(f"{path} is no file; remove it")
    text = read_text(path, error)
    try:
        value = json.loads(text)
    except RecursionError as problem:
        deepest = limit("MEDGRAFT_MAX_DOCUMENT_DEPTH")
        raise error(f"{path} is nested deeper than MEDGRAFT_MAX_DOCUMENT_DEPTH allows ({deepest})") from problem
    except ValueError as problem:
        raise error(f"{path} cannot be read: {problem}") from problem
    if text.count("[") + text.count("{") > limit("MEDGRAFT_MAX_DOCUMENT_DEPTH"):
        depth = _depth(value)
        within("MEDGRAFT_MAX_DOCUMENT_DEPTH", depth, f"{path} is nested {depth} levels deep", error)
    return value


def _depth(value: Any) -> int:
    """Levels of lists and dicts in a value, itself included; level by level, so that no depth ends the stack."""
    depth, level = 0, [value]
    while level := [each for each in level if is_a(each, list | dict)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if is_a(each, dict) else each)]
    return depth
