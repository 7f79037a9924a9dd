"""Files that a table names: found below it, beside it, or where it was written, and told apart by their endings."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from medgraft.benchmarks.cohorts.eeg.recordings import ENDINGS
from medgraft.benchmarks.cohorts.files.walking import walk
from medgraft.benchmarks.cohorts.volumes.load import parts_of as volume_parts
from medgraft.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
VOLUMES = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz", ".mgh", ".mgz")
SIGNALS = ENDINGS
"""Endings of files that hold an image, a volume or a recording of EEG, in lower case."""

BESIDE = {".vhdr": (".eeg", ".vmrk", ".dat"), ".set": (".fdt",)}
"""Ending of a recording -> of files that may lie beside it and belong to it."""

MOST_INDEXED = 2_000_000
"""Files below a table that are looked at for one that is not where the table says."""


def modality_of(path: str) -> str:
    """``image``, ``volume`` or ``signal`` by the ending of a file's name; empty for another one.

    Example:
        >>> modality_of("a/film.PNG"), modality_of("t1.nii.gz"), modality_of("rest.edf"), modality_of("notes.docx")
        ('image', 'volume', 'signal', '')
    """
    endings = {"volume": VOLUMES, "image": IMAGES, "signal": SIGNALS}
    return next((kind for kind, some in endings.items() if path.lower().endswith(some)), "")


class Finder:
    """Finds the files that a table names.

    Tried in this order: the name as it is written; below the table's folder and the folder above it; the same with
    backslashes as slashes and with percent signs decoded; the longest end of a path of another machine that exists
    below one of these folders; and the file of that name, or of that name with an ending, wherever it lies below the
    table, if there is one only.

    Args:
        home: Folder of the table.
        root: Folder that the user names for its files; looked at before the table's own.

    Attributes:
        elsewhere: How files were found that are not where the table says -> how many.
    """

    def __init__(self, home: Path, root: Path | None = None) -> None:
        self.home = home.resolve()
        first = [root.expanduser().resolve()] if root is not None else []
        self.folders: list[Path] = list(dict.fromkeys([*first, self.home, self.home.parent]))
        self._by_name: dict[str, list[str]] | None = None
        self._ends: dict[str, str] = {}
        self.elsewhere: Counter[str] = Counter()

    def find(self, written: str) -> str:
        """Absolute path of a file; empty where there is none.

        Args:
            written: As it stands in the table.
        """
        for name in _readings(written.strip()):
            if os.path.isabs(name) and _is_there(name):
                return name
            for folder in self.folders:
                path = os.path.normpath(os.path.join(folder, name.lstrip("/")))
                if _is_there(path):
                    return path
            if end := self._by_its_end(name):
                self.elsewhere["by the end of their path"] += 1
                return end
        if path := self._indexed(written.strip()):
            self.elsewhere["by their name alone"] += 1
        return path

    def _by_its_end(self, name: str) -> str:
        """The file of the longest end of a path; parts that worked for another file are tried first."""
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
        start = "/".join(parts[:-1])
        if (folder := self._ends.get(start)) is not None and _is_there(path := os.path.join(folder, parts[-1])):
            return path
        for cut in range(1, len(parts)):
            for folder in self.folders:
                path = os.path.join(folder, *parts[cut:])
                if _is_there(path):
                    self._ends[start] = os.path.dirname(path)
                    return path
        return ""

    def _indexed(self, written: str) -> str:
        if self._by_name is None:
            self._by_name = _index(self.folders[0])
        base = PureWindowsPath(written).name if "\\" in written else PurePosixPath(written).name
        hits = self._by_name.get(base.lower(), [])
        return hits[0] if len(hits) == 1 else ""


def _readings(written: str) -> list[str]:
    plain = written[2:].replace("\\", "/") if written[1:2] == ":" and written[:1].isalpha() else written
    readings = [written, plain, plain.replace("\\", "/"), unquote(plain.replace("\\", "/"))]
    return list(dict.fromkeys(name.removeprefix("file://") for name in readings if name))


def _is_there(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a null byte
        return False


def _index(root: Path) -> dict[str, list[str]]:
    """Name of a file, with and without its ending, in lower case -> the files of that name."""
    names: dict[str, list[str]] = {}
    for count, path in enumerate(files_below(root)):
        if count == MOST_INDEXED:
            break
        lower = os.path.basename(path).lower()
        ending = max((end for end in (*IMAGES, *VOLUMES, *SIGNALS) if lower.endswith(end)), key=len)
        for each in (lower, lower[: -len(ending)]):
            names.setdefault(each, []).append(path)
    return names


def files_below(root: Path) -> Iterator[str]:
    """Images, volumes and recordings below a folder, absolute, as walked; of header and voxels the header."""
    for here in walk(root):
        lower = {name.lower() for name in here.files}
        for name in here.files:
            stem, pair, packed = name.lower().rpartition(".img")
            is_voxels = bool(pair) and packed in ("", ".gz") and f"{stem}.hdr{packed}" in lower
            if modality_of(name) and not is_voxels:
                yield os.path.join(here.path, name)


def parts_of(path: str) -> tuple[str, ...]:
    """The files that a sample is in: header and voxels of a pair, header and values of a recording, else the one.

    Example:
        >>> parts_of("scan.hdr"), parts_of("film.png")
        (('scan.hdr', 'scan.img'), ('film.png',))
    """
    if modality_of(path) == "signal":
        stem, ending = os.path.splitext(path)
        beside = (f"{stem}{each}" for each in BESIDE.get(ending.lower(), ()))
        return (path, *(each for each in beside if _is_there(each)))
    if not path or modality_of(path) != "volume":
        return (path,)
    return tuple(dict.fromkeys(map(str, volume_parts(Path(path)))))


def common_folder(paths: Sequence[str]) -> Path:
    """The deepest folder that holds all files; names below it are the same on every machine."""
    return Path(os.path.commonpath([os.path.dirname(path) for path in paths])) if paths else Path()


def one_modality(paths: Iterable[str], what: str, task: str) -> str:
    """The kind of nearly all files.

    Args:
        paths: The files.
        what: The data, for the error.
        task: Whose option decides, where there are both.

    Raises:
        DataError: No file is an image, a volume or a recording, or there are many of two kinds.
    """
    counts: dict[str, int] = {}
    for path in paths:
        counts[modality_of(path)] = counts.get(modality_of(path), 0) + 1
    known = {kind: count for kind, count in counts.items() if kind}
    if not known:
        raise DataError(
            f"{what} names no image, volume or recording; read are {', '.join((*IMAGES, *VOLUMES, *SIGNALS))}"
        )
    kind = max(known, key=lambda each: known[each])
    if known[kind] < 0.9 * sum(known.values()):
        numbers = " and ".join(f"{count} {name}s" for name, count in known.items())
        raise DataError(f"{what} names {numbers}; say which are meant: --set {task}.inputs={kind}")
    return kind
