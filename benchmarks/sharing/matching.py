"""Which rows of two folders of results are the same, though the code that made them may not be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.sharing.finding import Found

EXACTLY = "everything that defines them"
BUT_CODE = "everything but numbers version, task version and versions of plugins"
"""How rows were matched."""

CODE = ("numbers_version", "task_version", "plugins")
"""What of a specification says which code ran, and not what it was asked for."""


@dataclass(frozen=True)
class Pair:
    """A row in two folders.

    Attributes:
        old: In the first.
        new: In the second.
        by: What they share.
        changed: What of :data:`CODE` differs, in words.
    """

    old: Found
    new: Found
    by: str
    changed: tuple[str, ...] = ()


@dataclass
class Matched:
    """The rows of two folders.

    Attributes:
        pairs: In both, in the order of the second.
        only_old: In the first alone.
        only_new: In the second alone.
    """

    pairs: list[Pair] = field(default_factory=list[Pair])
    only_old: list[Found] = field(default_factory=list[Found])
    only_new: list[Found] = field(default_factory=list[Found])


def match(old: Sequence[Found], new: Sequence[Found]) -> Matched:
    """Pairs rows, exactly equal ones first; of several that differ in their code alone, the latest ones."""
    matched = Matched()
    left, right = list(old), list(new)
    for by, mark in ((EXACTLY, _exact), (BUT_CODE, _but_code)):
        left, right = _paired(left, right, mark, by, matched)
    matched.only_old, matched.only_new = left, right
    order = {id(each): i for i, each in enumerate(new)}
    matched.pairs.sort(key=lambda pair: order[id(pair.new)])
    return matched


def _paired(
    left: list[Found], right: list[Found], mark: Callable[[CellSpec], str], by: str, matched: Matched
) -> tuple[list[Found], list[Found]]:
    """Adds pairs with equal marks; gives what is left of both sides."""
    waiting: dict[str, list[Found]] = {}
    for each in sorted(left, key=_age):
        waiting.setdefault(mark(each.row.first.spec), []).append(each)
    used: set[int] = set()
    for each in sorted(right, key=_age, reverse=True):
        if others := waiting.get(mark(each.row.first.spec)):
            other = others.pop()
            matched.pairs.append(Pair(other, each, by, _changed(other.row.first.spec, each.row.first.spec)))
            used |= {id(other), id(each)}
    return [each for each in left if id(each) not in used], [each for each in right if id(each) not in used]


def _age(found: Found) -> tuple[int, int]:
    spec = found.row.first.spec
    return spec.numbers_version, spec.task_version


def _exact(spec: CellSpec) -> str:
    return spec.row()


def _but_code(spec: CellSpec) -> str:
    facts: dict[str, Any] = {name: value for name, value in spec.defining().items() if name not in CODE}
    return json.dumps({**facts, "seed": None}, sort_keys=True)


def _changed(old: CellSpec, new: CellSpec) -> tuple[str, ...]:
    changed = [
        f"{name.replace('_', ' ')} {getattr(old, name)} to {getattr(new, name)}"
        for name in ("numbers_version", "task_version")
        if getattr(old, name) != getattr(new, name)
    ]
    names = sorted(old.plugins.keys() | new.plugins.keys())
    changed += [
        f"{name} {old.plugins.get(name, 'none')} to {new.plugins.get(name, 'none')}"
        for name in names
        if old.plugins.get(name) != new.plugins.get(name)
    ]
    return tuple(changed)
