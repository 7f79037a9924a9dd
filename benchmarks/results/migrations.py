"""Versions of the result files, and the step from each to the next.

A file says with which version it was written (``schema_version``). Older ones are brought up to date in memory, one
step after the other, and stay on the disk as they are; newer ones are refused, since nobody knows what their fields
mean. Keys are left alone: a step never touches ``spec``, whose digest the key is.

Whoever adds, renames or drops a field of :class:`medgraft.benchmarks.results.result.CellResult` raises
:data:`SCHEMA_VERSION`, adds a step to :data:`STEPS`, stores a file of the version before among the tests
(``tests/benchmarks/results/earlier``) and runs ``python -m benchmarks.audit.schema``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.commands.plain_text import one_line

SCHEMA_VERSION = 5

Document = dict[str, Any]

OTHER_VERSION = "of another version of the schema"
"""Kind of :class:`UnreadableError` of files of a version that this medgraft does not know."""


def _with_diagnostics(document: Document) -> Document:
    """Version 2 added what adapters report of themselves."""
    return {"diagnostics": {}} | document


def _with_operations(document: Document) -> Document:
    """Version 3 added the forms that operations ran in, and the cache entries that were read."""
    return {"ops": {}, "cache": {}} | document


def _with_stage(document: Document) -> Document:
    """Version 4 added the stage of a failure and the log; a cell that was killed was an ``error`` before it."""
    return {"stage": "", "log": ""} | document


def _with_fairness(document: Document) -> Document:
    """Version 5 added tuning, size, versions of the metrics, which were all 1 before it, and suites."""
    return {"tuning": None, "sizing": None, "metric_versions": {}, "suites": []} | document


STEPS: Mapping[int, Callable[[Document], Document]] = {
    1: _with_diagnostics,
    2: _with_operations,
    3: _with_stage,
    4: _with_fairness,
}
"""Version -> what makes a file of it one of the next version."""


def migrated(
    document: Document,
    newest: int = SCHEMA_VERSION,
    steps: Mapping[int, Callable[[Document], Document]] = STEPS,
) -> Document:
    """A result of any known version as one of the newest.

    Args:
        document: The object in the file.
        newest: Version wanted.
        steps: From each version to the next.

    Raises:
        UnreadableError: It names no version, or one that is not known.
    """
    version = document.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        told = one_line(str(version), 40)
        raise UnreadableError(f"it has schema version {told}, which is none (1 to {newest} are)", OTHER_VERSION)
    if version > newest:
        told = one_line(str(version), 40)
        raise UnreadableError(
            f"it has schema version {told} and this medgraft reads up to {newest}; update medgraft", OTHER_VERSION
        )
    for each in range(version, newest):
        document = steps[each](document)
    return document | {"schema_version": newest}
