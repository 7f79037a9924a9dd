"""What the tasks on CT volumes share: the window, and volumes read when they are needed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.cohorts.ct.ct_rate import CtRateTable
from medgraft.benchmarks.cohorts.ct.hounsfield import READER_VERSION, Window, load_stack, windowed
from medgraft.benchmarks.cohorts.volumes.load import VOLUMES_VERSION
from medgraft.files.content import file_facts
from medgraft.files.one_file import reading_facts
from medgraft.task import RawInputs


def ct_volumes(table: CtRateTable, rows: Sequence[int], window: Window, root: Path) -> RawInputs:
    """Volumes of CT-RATE's rows as grey values ``[x, y, z]``.

    Args:
        table: What was read.
        rows: Row of each sample; neighbours of the same row are read once.
        window: Which grey values HU become.
        root: Folder of the cohort; the files' names below it enter the fingerprint.
    """
    rows = [int(row) for row in rows]

    @functools.lru_cache(maxsize=1)
    def read(row: int) -> np.ndarray:
        return windowed(table.read(row), window)

    paths = [str(table.frame["path"].iloc[row]) for row in rows]
    scaling = [table.scaling[row] for row in rows]
    facts = f"{file_facts(paths, root)}|{reading_facts(VOLUMES_VERSION)}|{READER_VERSION}|{window}|{scaling}"
    return RawInputs(lambda i: read(rows[i]), len(rows), facts)


def stacks(paths: Sequence[str], root: Path) -> RawInputs:
    """Arrays of M3D as ``[columns, rows, slices]``; neighbours of the same path are read once."""
    paths = list(paths)
    read = functools.lru_cache(maxsize=1)(load_stack)
    facts = f"{file_facts(paths, root)}|{reading_facts(READER_VERSION)}"
    return RawInputs(lambda i: read(paths[i]), len(paths), facts)


def reading(table: Any, **more: Any) -> dict[str, Any]:
    """What a result says of the reader; holds no identifier.

    Args:
        table: What was read, with ``report`` and ``generator``.
        **more: Further facts.
    """
    report = table.report
    return {
        "generator": table.generator,
        "reader": {"used": report.used, "skipped": dict(report.skipped), "notes": dict(report.notes)},
        **more,
    }
