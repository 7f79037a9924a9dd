"""Where a task's data come from: a folder that the user names, or a phantom cohort that is made once and kept."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.cohorts.files.walking import bids_ignored, walk
from medgraft.benchmarks.cohorts.tables.reading import is_phantom
from medgraft.benchmarks.prefix_cache.store import cache_root, digest, locked
from medgraft.benchmarks.results.spec import CohortId
from medgraft.cohort import PHANTOM_MARKER, cohort_class
from medgraft.cohort import Cohort as PluginCohort
from medgraft.cohort import write_phantom as write_files
from medgraft.errors import DataError, MedgraftError, UnknownNameError
from medgraft.files.content import file_facts
from medgraft.registry import CohortEntry
from medgraft.task import TaskData
from medgraft.task.names import resolve_task

logger = logging.getLogger(__name__)

TABLES = (".csv", ".tsv", ".csv.gz")
LISTS = ("train_val_list.txt", "test_list.txt", "prepared.json")
"""Tables of another kind: the split of NIH ChestX-ray14, and how `medgraft prepare` made the images of a copy."""

PHANTOM_CONTENT = "PHANTOM.content"
"""Digest of the files of a phantom as they were written. While it is right, the marker alone is the revision, since
libraries of another version may write the same pixels as other bytes."""

DATA = (
    *(".nii", ".nii.gz", ".img", ".hdr", ".mgz", ".mgh", ".mnc", ".nrrd", ".nhdr", ".mha", ".mhd", ".raw", ".dcm"),
    *(".dicom", ".ima", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".npy", ".npz", ".h5", ".hdf5"),
    *(".pt", ".txt", ".json"),
)  # fmt: skip
"""Endings of files that hold samples, reports or sidecars, in lower case."""

OWN = re.compile(r"[0-9a-f]{16}\..*|.*\.ops\.json|leaderboard\..*|prepared_report\.csv|PHANTOM.*")
"""What this project writes, maybe into a cohort's folder: results, boards, reports."""

_CACHE_ENTRY = re.compile(r"[0-9a-f]{64}(\..*)?")


@dataclass(frozen=True)
class Cohort:
    """A cohort on this machine.

    Attributes:
        id: What identifies the folder as a whole.
        root: The folder.
        by_task: Task -> what identifies the part that it reads.
    """

    id: CohortId
    root: Path
    by_task: Mapping[str, CohortId] = field(default_factory=dict)

    def of(self, task: str) -> CohortId:
        """What a task's results say of their data."""
        return self.by_task.get(task, self.id)


def revision(root: Path) -> str:
    """Digest that identifies what is in a folder: names, sizes and content of tables, images, reports and sidecars.

    A copy elsewhere has the same one. Hidden files, what BIDS calls no raw data, and what this project writes do not
    enter. Files are read once and their digests kept, see :mod:`medgraft.files.content`. A phantom
    whose files are as its generator wrote them is identified by its marker.

    Raises:
        DataError: There is no table.
    """
    marker = root / PHANTOM_MARKER
    if not marker.is_file():
        return _joined(tables_revision(root), _content(root))
    marker_bytes, content = marker.read_bytes(), _content(root)
    record = root / PHANTOM_CONTENT
    if record.is_file() and record.read_text(encoding="utf-8", errors="replace").strip() == content:
        return hashlib.sha256(marker_bytes).hexdigest()[:16]
    return _joined(hashlib.sha256(marker_bytes).hexdigest(), content)


def tables_revision(root: Path) -> str:
    """Digest of the tables of a cohort, and of nothing else.

    They are looked for where the readers look: in the folder, one level below (two in a CheXpert download), and, for
    those that may lie beside an image tree, in the folder above.

    Raises:
        DataError: There is none.
    """
    whole = hashlib.sha256()
    below = [path for path in _entries(root) if path.is_dir() and not path.name.startswith(".")]
    deeper = [path for folder in below if _is_chexpert(folder) for path in _entries(folder) if _is_chexpert(path)]
    tables = [path for folder in (root, *below, *deeper) for path in _entries(folder) if _is_table(path)]
    tables += [path for path in _entries(root.parent) if _is_table(path) and _belongs(path.name, root.name)]
    if not tables:
        raise DataError(f"{root} has no CSV or TSV table, in it or one level below; is it the folder of a cohort?")
    for path in tables:
        whole.update(f"{os.path.relpath(path, root)}\n".encode())
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _joined(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _content(root: Path) -> str:
    """Digest of all files of :func:`data_files`."""
    files = data_files(root)
    return file_facts([os.path.join(root, name) for name in files], root)


def data_files(root: Path) -> list[str]:
    """Files of a cohort that may hold something to read, relative to its folder, in the order of a walk."""
    cache = os.path.realpath(cache_root())
    ignored = bids_ignored(root) if (root / "participants.tsv").is_file() else lambda inside: False
    files = []
    for here in walk(root, ignored):
        here.folders[:] = [name for name in here.folders if not _CACHE_ENTRY.fullmatch(name)]
        if os.path.realpath(here.path) == cache:
            here.folders.clear()
            continue
        named = (name for name in here.files if name.lower().endswith((*DATA, *TABLES)) and not OWN.fullmatch(name))
        files += [here.inner(name) for name in named]
    return files


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing where it may not be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_table(path: Path) -> bool:
    named = path.name.lower().endswith(TABLES) or path.name in LISTS
    return named and not OWN.fullmatch(path.name) and not path.name.startswith(".") and path.is_file()


def _is_chexpert(path: Path) -> bool:
    return path.name.lower().startswith("chexpert") and path.is_dir()


def _belongs(table: str, folder: str) -> bool:
    """Whether a table beside a cohort's folder is read with it."""
    return folder.upper() == "ADNI" or table.lower().startswith(("adnimerge", "df_chexpert_plus"))


def folder_of(name: str, root: Path) -> Path:
    """The folder, or file where the cohort takes one, that the user gives for a cohort, absolute.

    Raises:
        DataError: It does not exist, or holds no table and the cohort's plugin has no other way to know its content.
    """
    root = Path(root).expanduser().resolve()
    if root.is_file() and _takes_files(name):
        return root
    if not root.is_dir():
        raise DataError(f"--data {name}={root}: there is no such folder")
    if not _knows_content(name):
        tables_revision(root)
    return root


def _takes_files(name: str) -> bool:
    try:
        return cohort_class(name).takes_files
    except MedgraftError:
        return False


def _knows_content(name: str) -> bool:
    """Whether a cohort's plugin says by itself what identifies its data."""
    try:
        return cohort_class(name).revision is not PluginCohort.revision
    except MedgraftError:  # a task may read a cohort that has no plugin
        return False


def plugin_revision(name: str, root: Path) -> str:
    """What a cohort's plugin says of a folder's content, see :meth:`medgraft.cohort.Cohort.revision`; mostly empty.

    Raises:
        DataError: The folder is no copy of the cohort, or the plugin failed.
    """
    if not _knows_content(name):
        return ""
    cls = cohort_class(name)
    try:
        said = cls().revision(root)
    except (MedgraftError, OSError):
        raise
    except Exception as error:  # an author's code
        raise DataError(
            f"cohort {name!r} cannot read {root}: {type(error).__name__}: {error}; ask the authors of {cls.__module__}"
        ) from error
    if not isinstance(said, str):
        raise DataError(f"{cls.__name__}.revision() gave {said!r}; it must give a text, of {cls.__module__}")
    return said


def cohort_at(name: str, root: Path, loaded: Mapping[str, TaskData] | None = None) -> Cohort:
    """A cohort in a folder of the user's.

    Args:
        name: Name of the cohort.
        root: Folder.
        loaded: Task -> what it read there. Given these, the results of a built-in task are identified by what that task
            reads: the tables, its samples' content and their targets. What else the folder holds may change. A task
            from elsewhere is identified by the whole folder besides, since its fingerprints are its author's.

    Raises:
        DataError: The folder does not exist or holds no table, or the cohort's plugin cannot read it.
    """
    root, loaded = folder_of(name, root), loaded or {}
    marked = (root / PHANTOM_MARKER).is_file()
    foreign = any(not resolve_task(task).plugin.builtin for task in loaded)
    if not marked and (said := plugin_revision(name, root)):
        whole = _joined(said)
    else:
        whole = revision(root) if marked or foreign or not loaded else tables_revision(root)[:16]
    phantom = is_phantom(root) or any(data.phantom for data in loaded.values())
    if not loaded and not phantom:
        phantom = _made_up(name, root)
    by_task = {}
    if not marked:
        for task, data in loaded.items():
            by_task[task] = CohortId(name=name, revision=_joined(whole, *_read_by(data)), phantom=phantom)
    return Cohort(CohortId(name=name, revision=whole, phantom=phantom), root, by_task)


def _read_by(data: TaskData) -> list[str]:
    """Digests of what a task read: its samples, their targets and whose they are."""
    arrays = [data.targets, data.mask, data.labels]
    subjects = hashlib.sha256("\n".join(map(str, data.subjects)).encode()).hexdigest()
    return [
        *(f"{name} {raw.fingerprint}" for name, raw in sorted(data.inputs.items())),
        *(hashlib.sha256(np.ascontiguousarray(each).tobytes()).hexdigest() for each in arrays if each is not None),
        *("classes", *data.classes, subjects),
        *data.also_read,
    ]


def _made_up(name: str, root: Path) -> bool:
    """Whether a folder without a marker is a copy of the cohort's phantom, by the names in it."""
    try:
        return cohort_class(name).made_up(data_files(root))
    except MedgraftError:
        return False


def data_of(name: str) -> str:
    """The cohort whose folder holds the real data of a cohort: for most, itself.

    Example:
        >>> data_of("adni_visits"), data_of("chexpert"), data_of("of a package that is not installed")
        ('adni', 'chexpert', 'of a package that is not installed')
    """
    try:
        return cohort_class(name).real or name
    except MedgraftError:
        return name


def was_trained_on(seen: Iterable[str], cohort: str) -> bool:
    """Whether one of the cohorts that an encoder's pre-training saw is this one, or a phase of it.

    Example:
        >>> was_trained_on(["OASIS-3", "ADNI2 (T1)"], "adni_visits"), was_trained_on(["ADNIDOD"], "adni")
        (True, False)
    """
    name = re.escape(data_of(cohort))
    return any(re.match(rf"{name}(?![a-z_])", each, re.IGNORECASE) for each in seen)


def write_phantom(name: str, out: Path, options: Mapping[str, Any], jobs: int) -> None:
    """Writes a phantom cohort, see :func:`medgraft.cohort.write_phantom`, and notes the digest of what was written."""
    write_files(name, out, options, jobs)
    (Path(out) / PHANTOM_CONTENT).write_text(_content(Path(out)) + "\n", encoding="utf-8")


def default_entry(name: str) -> CohortEntry:
    """A phantom of the size that a cohort's plugin says, where a preset names none.

    Raises:
        DataError: There is no such plugin.
    """
    try:
        cohort_class(name)
    except UnknownNameError:
        raise DataError(f"there is no phantom of cohort {name!r}; give a folder: --data {name}=PATH") from None
    return CohortEntry(writer=name)


def generator_version(name: str) -> str:
    """Version of a phantom's generator."""
    return cohort_class(name).generator_version()


def _phantom_folder(entry: CohortEntry) -> Path:
    facts = {"writer": entry.writer, "options": entry.options, "generator": generator_version(entry.writer)}
    return cache_root() / "cohorts" / f"{entry.writer}-{digest(facts)[:12]}"


def made_phantom(name: str, entry: CohortEntry) -> Cohort | None:
    """A preset's phantom cohort from the cache; ``None`` where it has not been made."""
    root = _phantom_folder(entry)
    if not (root / PHANTOM_MARKER).is_file():
        return None
    return Cohort(CohortId(name=name, revision=revision(root), phantom=True), root)


def phantom(name: str, entry: CohortEntry, jobs: int, announce: Callable[[str], None]) -> Cohort:
    """A preset's phantom cohort from the cache, made first where it is missing.

    Args:
        name: Name of the cohort.
        entry: Writer and options.
        jobs: Worker processes.
        announce: Called with one line before a cohort is made.
    """
    from medgraft.benchmarks.launch.warm_start import start_fork_server

    root = _phantom_folder(entry)
    with locked(root.with_suffix(".lock")):
        if not (root / PHANTOM_MARKER).is_file():
            for leftover in root.parent.glob(f".{root.name}[.-]*"):  # of a maker that was killed; we hold the lock
                shutil.rmtree(leftover, ignore_errors=True)
            start_fork_server()
            announce(f"making the phantom cohort {name} (once; it is kept in {root.parent})")
            write_phantom(entry.writer, root, entry.options, jobs)
    return Cohort(CohortId(name=name, revision=revision(root), phantom=True), root)
