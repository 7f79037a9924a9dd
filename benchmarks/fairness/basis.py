"""What rows must share to stand in one table, and why rows of one task stand in several.

A table ranks its rows, and a column of it is read from top to bottom. Both are wrong as soon as two rows were measured
on different data, another split, by another definition, or, for speeds, on another machine.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from medgraft.benchmarks.results.result import CellResult

if TYPE_CHECKING:
    from medgraft.benchmarks.board.rows import BoardRow

NAMED = 3
"""Rows that a sentence names before it counts the others."""

Section = tuple[bool, str, str, str]


def split_of(cell: CellResult) -> str:
    """Digest of the split of a result that succeeded; empty where nobody knows it."""
    return str(cell.data.get("split_hash") or "")


def definitions_of(cell: CellResult) -> dict[str, int]:
    """Numbers of a result whose metric's definition is no longer the first, with the version of it."""
    return {name: version for name, version in sorted(cell.metric_versions.items()) if version != 1}


def section_of(cell: CellResult) -> Section:
    """What results share that stand in one table: phantom or real, task, cohort, and how they were measured."""
    spec = cell.spec
    measured = [
        spec.task_version,
        spec.limit,
        spec.task_options,
        split_of(cell),
        spec.numbers_version,
        definitions_of(cell),
    ]
    return cell.phantom, spec.task, spec.cohort.revision, json.dumps(measured, sort_keys=True)


PATH = re.compile(r"(?<![\w.])/[^\s,]+")
"""A place of a machine, which no name of a processor should hold."""


def hardware_of(cell: CellResult) -> str:
    """What the speeds of a result depend on, in words; empty where it does not say."""
    env, spec = cell.env, cell.spec
    processor = str(env.get("cpu") or "")
    if spec.device == "cuda":
        processor = f"{env.get('gpu') or 'a GPU'} beside {processor}" if processor else str(env.get("gpu") or "")
    if not processor:
        return ""
    jobs = cell.efficiency.concurrent_jobs if cell.efficiency is not None else 1
    threads = f"{spec.threads} thread{'s' if spec.threads > 1 else ''}"
    return f"{PATH.sub('PATH', processor)}, {threads}, {jobs} worker{'s' if jobs > 1 else ''} at a time"


def commonest(words: Sequence[str]) -> str:
    """The word that stands there most often, the first of several; empty without any."""
    counts = Counter(word for word in words if word)
    return max(counts, key=lambda word: counts[word], default="")


def mark_speeds(rows: Sequence[BoardRow]) -> None:
    """Tells rows of a table whose speeds are of other hardware than most of it."""
    members: dict[Section, list[BoardRow]] = {}
    for row in rows:
        members.setdefault(row.section, []).append(row)
    for table in members.values():
        usual = commonest([row.hardware for row in table])
        for row in table:
            row.other_hardware = row.hardware if row.hardware != usual else ""


def why_apart(rows: Sequence[BoardRow]) -> dict[Section, str]:
    """Why the rows of a table do not stand in an earlier one of the same task, in a sentence.

    Args:
        rows: In the order of the board.

    Returns:
        Table -> sentence; the first of each task has none.
    """
    tables: dict[str, dict[Section, list[BoardRow]]] = {}
    for row in rows:
        tables.setdefault(row.section[1], {}).setdefault(row.section, []).append(row)
    sentences: dict[Section, str] = {}
    for sections in tables.values():
        (_, there), *others = sections.items()
        for section, here in others:
            reasons = _differences(there[0].speaker, here[0].speaker)
            if reasons:
                sentences[section] = (
                    f"{_names(here)} {'stand' if len(here) > 1 else 'stands'} apart from {_names(there)} "
                    f"above, and ranks do not run over both tables: {'; '.join(reasons)}."
                )
    return sentences


def _names(rows: Sequence[BoardRow]) -> str:
    named = list(dict.fromkeys(f"{row.adapter} on {row.first.spec.encoder}" for row in rows))
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return ", ".join(named[:NAMED]) + more


def _differences(there: CellResult, here: CellResult) -> list[str]:
    if there.phantom != here.phantom:
        return [f"the data are {_kind(there)} there and {_kind(here)} here"]
    one, two = there.spec, here.spec
    if one.cohort.revision != two.cohort.revision:  # which is to say that all else about the data differs, too
        return [f"the cohort's revision is {one.cohort.revision} there and {two.cohort.revision} here"]
    facts: Mapping[str, tuple[object, object]] = {
        "the split's digest is": (split_of(there)[:12] or "unknown", split_of(here)[:12] or "unknown"),
        "the task's version is": (one.task_version, two.task_version),
        "the task's options are": (_table(one.task_options), _table(two.task_options)),
        "samples per split are limited to": (one.limit or "none", two.limit or "none"),
        "the version of the harness's numbers is": (one.numbers_version, two.numbers_version),
        "definitions of metrics beyond version 1 are": (_table(definitions_of(there)), _table(definitions_of(here))),
    }
    return [f"{what} {a} there and {b} here" for what, (a, b) in facts.items() if a != b]


def _kind(cell: CellResult) -> str:
    return "generated (PHANTOM)" if cell.phantom else "collected"


def _table(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items())) or "none"
