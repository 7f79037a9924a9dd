"""Reads files of results folders that anyone may have written: bounded, without waiting, and never more than asked for.

A folder of results may hold pipes, devices, damaged and hostile files; each is an :class:`UnreadableError` with its
reason, and whoever reads leaves it out by name. Sizes have limits, see :mod:`medgraft.files.limits`:
``MEDGRAFT_MAX_DOCUMENT_BYTES`` of a JSON file, ``MEDGRAFT_MAX_UNPACKED_BYTES`` of the arrays in a file of predictions.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from pydantic_core import from_json

from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError
from medgraft.files.limits import limit, within

logger = logging.getLogger(__name__)

MOST_ARRAYS = 64
OPERATION_SUFFIX = ".ops.json"
"""Ending of the files of ``benchmarks.kernels``, which may lie in the same folder and are no cells."""

EXTERNAL_SUFFIX = ".external.json"
"""Ending of the files of tests on another cohort, which lie beside the cells whose grafts were tested."""

TRIAL_SUFFIX = ".trial.json"
"""Ending of the files of trials of ``--tune``, in a folder beside the cells whose options they chose."""

BOARD_FILE = "leaderboard.json"
"""Name of a board's data, which may lie among the results that it was made of and is none."""

KEPT = ".adapter"
"""Ending of the folder of a graft that is kept beside its result; no results are in it."""
NUMBERS = "biuf"
"""Kinds of NumPy types that predictions are made of; no objects, whose reading runs code."""

KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)  # fmt: skip


class UnreadableError(MedgraftError):
    """A file of a results folder is not what its name says; the message is the reason, without the file's name.

    Attributes:
        kind: The reason in a few words that other files share, by which files are counted.
    """

    def __init__(self, message: str, kind: str = "damaged, or no result") -> None:
        super().__init__(message)
        self.kind = kind


@contextlib.contextmanager
def opened(path: Path, bound: str) -> Iterator[BufferedReader]:
    """A regular file, open to be read; anything else is not even opened.

    Args:
        path: The file.
        bound: The limit on its size, of :data:`medgraft.files.limits.LIMITS`.

    Raises:
        UnreadableError: It is no regular file, larger than the limit, or cannot be opened.
    """
    try:
        _require_regular(os.stat(path))
        # Without O_NONBLOCK a pipe that took the file's place would hold us up for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as handle:
            facts = os.fstat(handle.fileno())
            _require_regular(facts)
            within(bound, facts.st_size, f"it has {facts.st_size:,} bytes", UnreadableError)
            yield handle
    except (OSError, ValueError) as error:
        if isinstance(error, MedgraftError):
            raise
        raise UnreadableError(one_line(getattr(error, "strerror", None) or str(error), 200)) from error


def _require_regular(facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise UnreadableError(f"it is {next((name for test, name in KINDS if test(facts.st_mode)), 'no file')}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, strictly (RFC 8259: no NaN, no infinity).

    Raises:
        UnreadableError: It cannot be read, is too large or too deep, or holds something else.
    """
    with opened(path, "MEDGRAFT_MAX_DOCUMENT_BYTES") as handle:
        content = handle.read()
    try:
        document = _parsed(content)
    except RecursionError:
        raise UnreadableError("its values are nested too deeply") from None
    except ValueError as error:
        raise UnreadableError(f"it is no JSON: {one_line(str(error), 120)}") from error
    if not isinstance(document, dict):
        raise UnreadableError(f"it holds a {type(document).__name__}, not an object")
    return document


ZEROS = bytes.maketrans(b"123456789E", b"000000000e")
BEFORE_NUMBERS = b" \n\t\r,:[-"


def _parsed(content: bytes) -> Any:
    """What JSON says; by pydantic's reader, which takes a tenth of the time, and whatever that refuses by Python's.

    Raises:
        ValueError: It is no JSON of finite numbers.
        RecursionError: It is nested too deeply.
    """
    if not _may_overflow(content):
        with contextlib.suppress(ValueError):
            return from_json(content, allow_inf_nan=False)
    return json.loads(content, parse_constant=_refuse, parse_float=_finite)


def _may_overflow(content: bytes) -> bool:
    """Whether a number of JSON may be beyond those of 64 bits: its exponent has three digits, or it has hundreds.

    Most results have digests, in which an ``e`` before three digits is no exponent.
    """
    zeros = content.translate(ZEROS)  # every digit is one
    if b"0e+000" in zeros or b"0" * 300 in zeros:
        return True
    at = zeros.find(b"0e000")
    while at >= 0:
        if zeros[max(0, at - 300) : at].rstrip(b"0.")[-1:] in BEFORE_NUMBERS:
            return True
        at = zeros.find(b"0e000", at + 1)
    return False


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of numbers ``[n, ...]`` in an ``.npz`` file, by name.

    Each array's header is read before its numbers are, so that no file makes us allocate more than it may hold.

    Raises:
        UnreadableError: It is no such file, too large, or damaged.
    """
    left = limit("MEDGRAFT_MAX_UNPACKED_BYTES")
    arrays: dict[str, np.ndarray] = {}
    with opened(path, "MEDGRAFT_MAX_UNPACKED_BYTES") as handle:
        try:
            with zipfile.ZipFile(handle) as archive:
                members = archive.infolist()
                if len(members) > MOST_ARRAYS:
                    raise UnreadableError(f"it holds {len(members)} arrays, more than {MOST_ARRAYS}")
                for member in members:
                    array = _read_array(archive, member, left)
                    left -= array.nbytes
                    arrays[member.filename.removesuffix(".npy")] = array
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            if isinstance(error, MedgraftError):
                raise
            raise UnreadableError(f"it is no archive of arrays: {one_line(str(error), 120)}") from error
    return arrays


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, left: int) -> np.ndarray:
    name = one_line(member.filename, 60)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnreadableError(f"{name} is compressed in a way that no array is")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream, max_header_size=10_000)
        if dtype.kind not in NUMBERS:
            raise UnreadableError(f"{name} holds {one_line(str(dtype), 40)}, which are no numbers")
        size = dtype.itemsize * math.prod(shape)  # of Python's numbers, which do not overflow
        if min(shape, default=0) < 0 or size > left:
            raise UnreadableError(f"{name} says that it holds {size} bytes; MEDGRAFT_MAX_UNPACKED_BYTES allows fewer")
        if size > member.file_size:
            raise UnreadableError(f"{name} says that it holds {size} bytes, and has {member.file_size}")
        content = stream.read(size)
    if len(content) != size:
        raise UnreadableError(f"{name} is cut off")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def results_below(folder: Path) -> Iterator[Path]:
    """Files below a folder that would be results by their names, see :func:`files_below`."""
    others = (OPERATION_SUFFIX, EXTERNAL_SUFFIX, TRIAL_SUFFIX)
    for path in files_below(folder, ".json"):
        if path.name != BOARD_FILE and not path.name.endswith(others):
            yield path


def files_below(folder: Path, ending: str) -> Iterator[Path]:
    """Files below a folder whose names end so, sorted within each folder; hidden ones are left out.

    Links to folders are not followed, so that none leads round in a circle; a folder that cannot be read is named in
    the log.
    """

    def unreadable(error: OSError) -> None:
        logger.warning("folder %s cannot be read and is left out: %s", error.filename, error.strerror)

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(KEPT))
        for name in sorted([*names, *(each for each in folders if each.endswith(ending))]):
            if name.endswith(ending) and not name.startswith("."):
                yield Path(parent) / name
