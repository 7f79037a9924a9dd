"""Where a task's data come from: a folder that the user names, or a phantom cohort that is made once and kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cache import cache_root, digest, locked
from medgraft.benchmarks.data.reading import PHANTOM_MARKER, is_phantom
from medgraft.benchmarks.results import CohortId
from medgraft.errors import ConfigError, DataError
from medgraft.registry import CohortEntry

logger = logging.getLogger(__name__)

TABLES = {".csv", ".tsv"}


@dataclass(frozen=True)
class Cohort:
    """A cohort on this machine."""

    id: CohortId
    root: Path


def revision(root: Path) -> str:
    """Digest that identifies a cohort's content by its tables, or a phantom by its marker.

    Tables are looked for in the folder and one level below, so that a copy elsewhere has the same digest and no image
    is read.
    """
    marker = root / PHANTOM_MARKER
    if marker.is_file():
        return hashlib.sha256(marker.read_bytes()).hexdigest()[:16]
    whole = hashlib.sha256()
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    tables = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix.lower() in TABLES]
    if not tables:
        raise DataError(f"{root} has no CSV or TSV table, in it or one level below; is it the folder of a cohort?")
    for path in tables:
        whole.update(f"{path.relative_to(root)}\n".encode())
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()[:16]


def given(name: str, root: Path) -> Cohort:
    """A cohort in a folder of the user's.

    Raises:
        DataError: The folder does not exist or holds no table.
    """
    root = Path(root).expanduser().resolve()
    if not root.is_dir():
        raise DataError(f"--data {name}={root}: there is no such folder")
    return Cohort(CohortId(name=name, revision=revision(root), phantom=is_phantom(root)), root)


def write_phantom(writer: str, out: Path, options: Mapping[str, Any], jobs: int) -> None:
    """Writes a phantom cohort.

    Args:
        writer: ``adni`` or ``chexpert``.
        out: New folder.
        options: Arguments of the writer.
        jobs: Worker processes; the bytes do not depend on it.
    """
    if writer == "adni":
        from medgraft.benchmarks.data.brain_cohort import write_cohort

        write_cohort(out, jobs=jobs, cache_dir=cache_root(), **options)
    elif writer == "chexpert":
        from medgraft.benchmarks.data.chest_cohort import write_cohort as write_chest

        write_chest(out, jobs=jobs, **options)
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
    facts = {"writer": entry.writer, "options": entry.options, "generator": generator_version(entry.writer)}
    root = cache_root() / "cohorts" / f"{entry.writer}-{digest(facts)[:12]}"
    with locked(root.with_suffix(".lock")):
        if not (root / PHANTOM_MARKER).is_file():
            announce(f"making the phantom cohort {name} (once; it is kept in {root.parent})")
            write_phantom(entry.writer, root, entry.options, jobs)
    return Cohort(CohortId(name=name, revision=revision(root), phantom=True), root)
