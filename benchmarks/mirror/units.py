"""The units of a results folder, each of which is shared whole or not at all: a JSON file and what lies beside it.

A unit is a result with its predictions, log, texts and kept graft; one on another cohort with its predictions; a trial;
or the measurements of operations. In shared storage it is one archive, so that no two machines can leave the result of
the one beside the predictions of the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from medgraft.benchmarks.results.result_files import EXTERNAL_SUFFIX, KEPT, OPERATION_SUFFIX, TRIAL_SUFFIX
from medgraft.benchmarks.results.writing import write_atomically
from medgraft.errors import MedgraftError
from medgraft.files.limits import limit

CELL = re.compile(r"[0-9a-f]{16}\.json")
HEADS = (EXTERNAL_SUFFIX, TRIAL_SUFFIX, OPERATION_SUFFIX)
"""Endings of JSON files that are a unit each, beside those of cells."""

SUMS = "sha256.json"
"""Member of an archive with the checksum of each other."""
ARRIVING = ".shared-"
"""Beginning of the name of a folder in which the files of a unit arrive."""
DATE = (1980, 1, 1, 0, 0, 0)
"""Of every member, so that equal units are equal archives."""

STORED = (".npz", ".parquet", ".safetensors")
"""Endings of files that are compressed, or would not become smaller."""

TIDY = re.compile(r"[\w.@+=,-]+(?:/[\w.@+=,-]+)*")
"""Names of units and of members; none leads out of its folder, see :func:`is_tidy`."""


class DamagedUnitError(MedgraftError):
    """An archive is no whole unit; the message is the reason."""


@dataclass
class Unit:
    """A unit in a folder.

    Attributes:
        name: Relative to the folder, without ``.json``.
        files: All its files, relative to the folder.
    """

    name: str
    files: list[str] = field(default_factory=list[str])

    @property
    def head(self) -> str:
        """Its JSON file, relative to the folder."""
        return f"{self.name}.json"

    def mark(self, folder: Path) -> str:
        """Is another one when any of its files has changed; no file is read."""
        facts = []
        for name in self.files:
            with suppress(OSError):
                stat = (folder / name).stat()
                facts.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def is_tidy(name: str) -> bool:
    """Whether a name from elsewhere stays below its folder and is no hidden file's.

    Example:
        >>> is_tidy("encoder/lora/task/0123.json"), is_tidy("../0123.json"), is_tidy(".work-1/x")
        (True, False, False)
    """
    return TIDY.fullmatch(name) is not None and not any(part.startswith(".") for part in name.split("/"))


def units_below(folder: Path) -> dict[str, Unit]:
    """The units of a folder by name; other files are left out."""
    units: dict[str, Unit] = {}
    for parent, folders, names in os.walk(folder):
        grafts = [name for name in folders if name.endswith(KEPT)]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(KEPT))
        prefix = Path(parent).relative_to(folder).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        found = _units(prefix, [*names, *grafts])
        for unit in found:
            if is_tidy(unit.name):
                unit.files = [file for name in unit.files for file in _expanded(folder, name)]
                units[unit.name] = unit
    return units


def unit_of(folder: Path, head: Path) -> Unit:
    """The unit of a JSON file below a folder."""
    prefix = head.parent.relative_to(folder).as_posix()
    units = _units("" if prefix == "." else f"{prefix}/", [path.name for path in head.parent.iterdir()])
    unit = next(each for each in units if each.head == head.relative_to(folder).as_posix())
    unit.files = [file for name in unit.files for file in _expanded(folder, name)]
    return unit


def _units(prefix: str, names: list[str]) -> list[Unit]:
    """The units of one folder; a file belongs to the unit with the longest name that its own begins with."""
    stems = [name.removesuffix(".json") for name in names if CELL.fullmatch(name) or name.endswith(HEADS)]
    units = {stem: Unit(f"{prefix}{stem}", [f"{prefix}{stem}.json"]) for stem in stems}
    for name in sorted(names):
        if name.removesuffix(".json") in units or name.startswith(".") or name.endswith(".old"):
            continue
        stem = name
        while "." in stem:
            stem = stem.rpartition(".")[0]
            if stem in units:
                units[stem].files.append(f"{prefix}{name}")
                break
    return list(units.values())


def _expanded(folder: Path, name: str) -> Iterator[str]:
    """A file, or the files of a kept graft; links are left out."""
    path = folder / name
    if path.is_symlink():
        return
    if not path.is_dir():
        yield name
        return
    for each in sorted(path.rglob("*")):
        if each.is_file() and not each.is_symlink():
            yield each.relative_to(folder).as_posix()


def pack(folder: Path, unit: Unit, place: Path) -> None:
    """Writes a unit as an archive.

    Raises:
        OSError: A file cannot be read, or the archive not written.
    """
    parent = PurePosixPath(unit.name).parent
    sums: dict[str, str] = {}
    with zipfile.ZipFile(place, "w", allowZip64=True) as archive:
        for name in sorted(unit.files):
            member = PurePosixPath(name).relative_to(parent).as_posix()
            with (folder / name).open("rb") as source, archive.open(_member(member), "w", force_zip64=True) as target:
                sums[member] = _copied(source, target)
        with archive.open(_member(SUMS), "w") as target:
            target.write(json.dumps(sums, sort_keys=True).encode())


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, DATE)
    member.compress_type = zipfile.ZIP_STORED if name.endswith(STORED) else zipfile.ZIP_DEFLATED
    return member


def _copied(source: IO[bytes], target: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while data := source.read(1 << 20):
        digest.update(data)
        target.write(data)
    return digest.hexdigest()


def unpack(place: Path, name: str, folder: Path) -> Unit:
    """Puts an archive's files below a folder, the JSON file last, each held against its checksum.

    Args:
        place: The archive.
        name: Of the unit.
        folder: Of results; files of an earlier unit of this name that it has not go.

    Raises:
        DamagedUnitError: It is no whole unit of that name; nothing has changed then.
        OSError: The folder cannot be written.
    """
    parent, stem = PurePosixPath(name).parent, PurePosixPath(name).name
    target = folder / parent
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=ARRIVING) as temporary:
        members = _extracted(place, stem, Path(temporary))
        head = f"{stem}.json"
        if head not in members:
            raise DamagedUnitError(f"it holds no {head}")
        before = next((unit for unit in _units("", os.listdir(target)) if unit.name == stem), Unit(stem))
        tops = {member.partition("/")[0] for member in members}
        for old in {each.partition("/")[0] for each in before.files} - tops:
            _remove(target / old)
        for top in sorted(tops - {head}):
            if (Path(temporary) / top).is_dir():
                _remove(target / top)
            os.replace(Path(temporary) / top, target / top)
        content = (Path(temporary) / head).read_bytes()
        write_atomically(target / head, lambda handle: handle.write(content))
    return unit_of(folder, target / head)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _extracted(place: Path, stem: str, temporary: Path) -> list[str]:
    """Writes the members of an archive below a temporary folder; their names."""
    sums: dict[str, str] = {}
    try:
        with zipfile.ZipFile(place) as archive:
            for info in archive.infolist():
                if info.filename == SUMS:
                    continue
                if not (is_tidy(info.filename) and info.filename.startswith(f"{stem}.")):
                    raise DamagedUnitError(f"it holds a file that is not its own, {info.filename[:80]!r}")
                if info.compress_type != zipfile.ZIP_STORED and info.file_size > limit("MEDGRAFT_MAX_UNPACKED_BYTES"):
                    raise DamagedUnitError("it unpacks to more than MEDGRAFT_MAX_UNPACKED_BYTES allows")
                path = temporary / info.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, path.open("wb") as target:
                    sums[info.filename] = _copied(source, target)
            said = json.loads(archive.read(SUMS))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, NotImplementedError, RuntimeError) as error:
        raise DamagedUnitError(f"it is no whole archive: {error}") from error
    if said != sums:
        raise DamagedUnitError("a file in it has another checksum")
    return list(sums)
