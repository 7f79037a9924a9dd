"""The TUH EEG corpora: TUAB (normal and abnormal) and TUEV (events), as they are distributed.

Obeid and Picone, "The Temple University Hospital EEG data corpus", Frontiers in Neuroscience 10 (2016). TUAB (version
3.0.1): ``edf/{train,eval}/{normal,abnormal}/01_tcp_ar/<patient>_s<session>_t<number>.edf``. TUEV (version 2.0.1):
``edf/train/<patient>/<patient>_<number>.edf`` and ``edf/eval/<number>/<type>_<number>_a_.edf``, each with a file
``.rec`` of the same name, whose lines ``channel,start,stop,code`` say what was seen on a channel of the 22 differences
of the montage TCP, in seconds. The layouts are recalled, not checked against a copy.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from medgraft.benchmarks.cohorts.files.walking import walk
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.errors import DataError
from medgraft.files.one_file import one_file

PARTS = ("train", "eval")
CODES = {1: "SPSW", 2: "GPED", 3: "PLED", 4: "EYEM", 5: "ARTF", 6: "BCKG"}
"""Code of TUEV -> spike and slow wave, generalised or lateralised periodic discharges, eye movement, artefact, none."""
MONTAGE = 22
"""Channels of the montage TCP, which annotations count from 0."""
SUBJECT = re.compile(r"^([a-z0-9]+?)_(?:s\d+_t\d+|[a-z]*_?\d+.*)\.edf$")
HEADER = 168
"""Bytes of an EDF header up to the end of what it says of the patient and the recording."""
AGE = re.compile(r"\bage:(\d{1,3})\b", re.IGNORECASE)


class Event(NamedTuple):
    """A line of an annotation.

    Attributes:
        start: Second at which it begins.
        stop: Second at which it ends.
        code: Of :data:`CODES`.
    """

    start: float
    stop: float
    code: int


def abnormal_recordings(root: Path, report: ReadReport) -> pd.DataFrame:
    """TUAB: a row for each recording.

    Args:
        root: The folder with ``edf``, or ``edf`` itself.
        report: Takes counts of files in folders that say neither normal nor abnormal.

    Returns:
        Columns of :func:`_row`, ``part`` (train or eval) and ``label`` (normal or abnormal).

    Raises:
        DataError: There is no ``edf/train`` or ``edf/eval``, or no recording in it.
    """
    rows = []
    for part, path, inside in _edf_files(root):
        label = next((word for word in inside if word in ("normal", "abnormal")), "")
        if not label:
            report.skip("a recording in a folder that is neither normal nor abnormal", path)
            continue
        rows.append(_row(path, _subject_of(path)) | {"part": part, "label": label})
    if not rows:
        raise DataError(f"{root} holds no recording of TUAB, such as edf/train/normal/01_tcp_ar/aaaaabcd_s001_t000.edf")
    return pd.DataFrame(rows)


def event_recordings(root: Path, report: ReadReport) -> pd.DataFrame:
    """TUEV: a row for each recording with annotations.

    Args:
        root: The folder with ``edf``, or ``edf`` itself.
        report: Takes counts of recordings without annotations and annotations without a recording.

    Returns:
        Columns of :func:`_row`, ``part`` (train or eval) and ``annotation`` (the path of the file ``.rec``). Of the
        evaluation part the folder's number stands for the subject, since files there name none.

    Raises:
        DataError: There is no ``edf/train`` or ``edf/eval``, or no annotated recording in it.
    """
    rows = []
    for part, path, inside in _edf_files(root):
        annotation = f"{path[: -len('.edf')]}.rec"
        if not os.path.isfile(annotation):
            report.skip("a recording without annotations", path)
            continue
        subject = inside[-1] if inside else _subject_of(path)
        rows.append(
            _row(path, f"{part}-{subject}" if part == "eval" else subject) | {"part": part, "annotation": annotation}
        )
    alone = sum(
        name.endswith(".rec") and f"{name[:-4]}.edf" not in here.files
        for part in PARTS
        for here in walk(_home(root) / part)
        for name in here.files
    )
    if alone:
        report.skip("annotations without a recording", count=alone)
    if not rows:
        raise DataError(
            f"{root} holds no annotated recording of TUEV, such as edf/train/aaaaaabc/aaaaaabc_00000001.edf"
        )
    return pd.DataFrame(rows)


def events_of(path: str, seconds: float, report: ReadReport) -> list[Event]:
    """The different events of a recording, by time; of several channels with the same event one is kept.

    Args:
        path: A file ``.rec``.
        seconds: Length of the recording.
        report: Takes counts of lines with a code that nobody knows, and of events beyond the end.

    Raises:
        DataError: A line is not ``channel,start,stop,code``.
    """
    found: dict[Event, None] = {}
    with one_file(path, "annotations", "annotations that cannot be read"):
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(filter(str.strip, lines), 1):
        event = _event(path, number, line)
        if event is None:
            report.skip("an event of a code or a channel that nobody knows")
        elif event.stop > seconds + 1e-6:
            report.skip("an event beyond the end of its recording")
        else:
            found[event] = None
    return sorted(found)


def _event(path: str, number: int, line: str) -> Event | None:
    try:
        channel, start, stop, code = (float(cell) for cell in line.split(","))
    except ValueError:
        raise DataError(
            f"line {number} of {path} is {line[:60]!r}, and a line is channel,start,stop,code",
            "annotations that cannot be read",
        ) from None
    if not (math.isfinite(start) and math.isfinite(stop) and 0 <= start < stop):
        raise DataError(f"line {number} of {path} is from {start} to {stop} s", "annotations that cannot be read")
    known = code in CODES and channel in range(MONTAGE)
    return Event(start, stop, int(code)) if known else None


def _home(root: Path) -> Path:
    """The folder of ``train`` and ``eval``.

    Raises:
        DataError: There is none.
    """
    for home in (root / "edf", root):
        if all((home / part).is_dir() for part in PARTS):
            return home
    raise DataError(f"{root} has no folders edf/train and edf/eval; name the folder of the corpus that holds edf")


def _edf_files(root: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """Part, path, and folders below the part of each file ``.edf``, by path."""
    home = _home(root)
    found = []
    for part in PARTS:
        for here in walk(home / part):
            inside = tuple(here.inside.split("/")) if here.inside else ()
            found += [
                (part, os.path.join(here.path, name), inside) for name in here.files if name.lower().endswith(".edf")
            ]
    return sorted(found)


def _subject_of(path: str) -> str:
    match = SUBJECT.match(os.path.basename(path).lower())
    return match[1] if match else os.path.basename(path).lower().removesuffix(".edf")


def _row(path: str, subject: str) -> dict[str, object]:
    """``path``, ``bids_root`` (empty), ``subject``, and ``sex``, ``age`` and ``site`` as the EDF header says them."""
    sex, age = None, math.nan
    try:
        with open(path, "rb") as file:
            said = file.read(HEADER)[8:88].decode("latin-1").split()
        sex = said[1] if len(said) > 1 and said[1] in ("F", "M") else None
        match = AGE.search(" ".join(said))
        age = float(match[1]) if match and 0 < int(match[1]) < 130 else math.nan
    except OSError:  # who reads the recording says so
        pass
    return {"path": path, "bids_root": "", "subject": subject, "sex": sex, "age": age, "site": None}
