"""Where a task's data come from: a folder that the user names, or a phantom cohort that is made once and kept."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cache_entries import cache_root, digest, locked
from medgraft.benchmarks.data.reading import PHANTOM_MARKER, is_phantom
from medgraft.benchmarks.results import CohortId
from medgraft.errors import ConfigError, DataError
from medgraft.registry import CohortEntry

logger = logging.getLogger(__name__)

TABLES = (".csv", ".tsv", ".csv.gz")
LISTS = ("train_val_list.txt", "test_list.txt", "prepared.json")
"""Tables of another kind: the split of NIH ChestX-ray14, and how `medgraft prepare` made the images of a copy."""

SAME_DATA = {"adni_visits": "adni"}
"""Cohorts whose phantom has a recipe of its own, while a real copy is the folder of another."""

CHEST_WRITERS = {
    "rsna": "chest_layouts:write_rsna",
    "siim": "chest_layouts:write_siim",
    "nih": "chest_layouts:write_nih",
    "mimic": "chest_mimic:write_mimic",
    "chexpert": "chest_cohort:write_cohort",
}
"""Writer -> module and function in :mod:`medgraft.benchmarks.data`, imported when it is asked for."""


@dataclass(frozen=True)
class Cohort:
    """A cohort on this machine."""

    id: CohortId
    root: Path


def revision(root: Path) -> str:
    """Digest that identifies a cohort's content by its tables, or a phantom by its marker.

    Tables are looked for where the readers look: in the folder, one level below (two in a CheXpert download), and,
    for those that may lie beside an image tree, in the folder above. A copy elsewhere has the same digest, and no image
    is read.
    """
    marker = root / PHANTOM_MARKER
    if marker.is_file():
        return hashlib.sha256(marker.read_bytes()).hexdigest()[:16]
    whole = hashlib.sha256()
    below = [path for path in _entries(root) if path.is_dir()]
    deeper = [path for folder in below if _is_chexpert(folder) for path in _entries(folder) if _is_chexpert(path)]
    tables = [path for folder in (root, *below, *deeper) for path in _entries(folder) if _is_table(path)]
    tables += [path for path in _entries(root.parent) if _is_table(path) and _belongs(path.name, root.name)]
    if not tables:
        raise DataError(f"{root} has no CSV or TSV table, in it or one level below; is it the folder of a cohort?")
    for path in tables:
        whole.update(f"{os.path.relpath(path, root)}\n".encode())
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()[:16]


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing where it may not be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_table(path: Path) -> bool:
    return (path.name.lower().endswith(TABLES) or path.name in LISTS) and path.is_file()


def _is_chexpert(path: Path) -> bool:
    return path.name.lower().startswith("chexpert") and path.is_dir()


def _belongs(table: str, folder: str) -> bool:
    """Whether a table beside a cohort's folder is read with it."""
    return folder.upper() == "ADNI" or table.lower().startswith(("adnimerge", "df_chexpert_plus"))


def given(name: str, root: Path) -> Cohort:
    """A cohort in a folder of the user's.

    Raises:
        DataError: The folder does not exist or holds no table.
    """
    root = Path(root).expanduser().resolve()
    if not root.is_dir():
        raise DataError(f"--data {name}={root}: there is no such folder")
    return Cohort(CohortId(name=name, revision=revision(root), phantom=is_phantom(root)), root)


def saw(seen: Iterable[str], cohort: str) -> bool:
    """Whether one of the cohorts that an encoder's pre-training saw is this one, or a phase of it.

    Example:
        >>> saw(["OASIS-3", "ADNI2 (T1)"], "adni_visits"), saw(["ADNIDOD"], "adni")
        (True, False)
    """
    name = re.escape(SAME_DATA.get(cohort, cohort))
    return any(re.match(rf"{name}(?![a-z_])", each, re.IGNORECASE) for each in seen)


def write_phantom(writer: str, out: Path, options: Mapping[str, Any], jobs: int) -> None:
    """Writes a phantom cohort.

    Args:
        writer: ``adni`` or one of :data:`CHEST_WRITERS`.
        out: New folder.
        options: Arguments of the writer.
        jobs: Worker processes; the bytes do not depend on it.
    """
    if writer == "adni":
        from medgraft.benchmarks.data.brain_cohort import write_cohort

        write_cohort(out, jobs=jobs, cache_dir=cache_root(), **options)
    elif writer in CHEST_WRITERS:
        module, _, function = CHEST_WRITERS[writer].partition(":")
        write = getattr(importlib.import_module(f"medgraft.benchmarks.data.{module}"), function)
        write(out, jobs=jobs, **options)
    else:
        raise ConfigError(f"there is no phantom of cohort {writer!r}; give its folder with --data {writer}=PATH")


def generator_version(writer: str) -> str:
    """Version of a phantom's generator."""
    if writer == "adni":
        from medgraft.benchmarks.data.brain_phantom import GENERATOR_VERSION
    else:
        from medgraft.benchmarks.data.chest_cohort import GENERATOR_VERSION
    return GENERATOR_VERSION


def phantom(name: str, entry: CohortEntry, jobs: int, announce: Callable[[str], None]) -> Cohort:
    """A preset's phantom cohort from the cache, made first where it is missing.

    Args:
        name: Name of the cohort.
        entry: Writer and options.
        jobs: Worker processes.
        announce: Called with one line before a cohort is made.
    """
    from medgraft.benchmarks.fork_server import start_fork_server

    facts = {"writer": entry.writer, "options": entry.options, "generator": generator_version(entry.writer)}
    root = cache_root() / "cohorts" / f"{entry.writer}-{digest(facts)[:12]}"
    with locked(root.with_suffix(".lock")):
        if not (root / PHANTOM_MARKER).is_file():
            for leftover in root.parent.glob(f".{root.name}[.-]*"):  # of a maker that was killed; we hold the lock
                shutil.rmtree(leftover, ignore_errors=True)
            start_fork_server()
            announce(f"making the phantom cohort {name} (once; it is kept in {root.parent})")
            write_phantom(entry.writer, root, entry.options, jobs)
    return Cohort(CohortId(name=name, revision=revision(root), phantom=True), root)
