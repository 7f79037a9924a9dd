"""Which cells read the same frozen features, so that launchers can run them near each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import TypeVar

from medgraft.benchmarks.results.spec import CellSpec

READS = {
    *("task", "task_options", "task_version", "cohort", "encoder", "encoder_weights", "precision", "threads", "limit"),
    *("augment_views", "device", "plain", "numbers_version"),
}
"""Fields of a specification that the cache's entries depend on, see :mod:`medgraft.benchmarks.prefix_cache.inputs`."""

T = TypeVar("T")


def frozen_group(spec: CellSpec) -> str:
    """12 hex digits that are the same for cells that read the same prepared inputs and frozen stages.

    From which stage a cell trains is known once its adapter is attached; one that trains from an earlier stage than its
    neighbours shares what lies before it.
    """
    facts = spec.model_dump(mode="json", include=READS)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def together(things: Iterable[T], group: Callable[[T], str], most: int) -> list[list[T]]:
    """Parts of at most ``most`` things of one group, in the order in which the first of each came.

    Things of the group ``""`` stay alone.

    Example:
        >>> together(["a1", "b1", "a2", "a3"], lambda name: name[0], 2)
        [['a1', 'a2'], ['b1'], ['a3']]
    """
    parts: list[list[T]] = []
    open_parts: dict[str, list[T]] = {}
    for thing in things:
        name = group(thing)
        part = open_parts.get(name)
        if part is None or not name or len(part) >= most:
            part = open_parts[name] = []
            parts.append(part)
        part.append(thing)
    return parts
