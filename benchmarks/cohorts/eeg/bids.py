"""BIDS-EEG: a row for each recording, from ``participants.tsv`` and the files that mne-bids finds.

Pernet et al., "EEG-BIDS, an extension to the brain imaging data structure for electroencephalography", Scientific Data
6:103 (2019); Appelhoff et al., "MNE-BIDS", JOSS 4 (2019).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.adni.merge import to_floats
from medgraft.benchmarks.cohorts.eeg.libraries import demanded
from medgraft.benchmarks.cohorts.eeg.recordings import ENDINGS
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, folded, read_table
from medgraft.errors import DataError

TABLE = "participants.tsv"
COLUMNS = {
    "group": ("group", "diagnosis", "dx"),
    "sex": ("gender", "sex"),
    "age": ("age",),
    "site": ("site", "center", "centre", "scanner", "institution"),
}
"""Column of the result -> names that it may have in the table, folded."""
SEX = {"f": "F", "female": "F", "m": "M", "male": "M"}


def recordings_of(
    root: Path, groups: Mapping[str, str], report: ReadReport, *, task: str = "", cleaned: bool = False
) -> pd.DataFrame:
    """The recordings whose participant has a known group.

    Args:
        root: The BIDS folder.
        groups: Word of the table, in lower case -> class.
        report: Takes counts of participants without a recording, recordings without a participant, and groups that are
            none of ``groups``.
        task: Task entity of the recordings; empty for all.
        cleaned: Read the recordings in ``derivatives/``.

    Returns:
        Columns ``path``, ``bids_root``, ``subject``, ``dx``, ``sex`` (F, M or None), ``age`` (years or NaN) and
        ``site`` (or None); ordered by path.

    Raises:
        DataError: The table is missing or has no column of groups; or there is no recording.
    """
    people = _people(root)
    home = root / "derivatives" if cleaned else root
    paths = _files(home, task)
    if not paths:
        what = f" of task {task!r}" if task else ""
        raise DataError(f"{home} holds no recording of EEG{what}, such as sub-001/eeg/sub-001_task-rest_eeg.set")
    rows = []
    for path in paths:
        subject = f"sub-{Path(path).name.split('_')[0].removeprefix('sub-')}"
        if subject not in people.index:
            report.skip(f"a recording whose subject is not in {TABLE}", path)
            continue
        row = people.loc[subject]
        word = str(row["group"]).strip()
        if word.lower() not in groups:
            report.skip(f"a recording of a group that nobody knows: {word[:20] or 'none'}", path)
            continue
        rows.append({**row, "path": path, "bids_root": str(home), "subject": subject, "dx": groups[word.lower()]})
    have = {Path(path).name.split("_")[0] for path in paths}
    if absent := sum(name not in have for name in people.index):
        report.skip(f"a participant of {TABLE} without a recording", count=absent)
    if not rows:
        raise DataError(f"no recording below {home} is of a participant with a known group ({dict(report.skipped)})")
    return pd.DataFrame(rows).reset_index(drop=True)


def _people(root: Path) -> pd.DataFrame:
    """``group``, ``sex``, ``age`` and ``site`` by ``participant_id``."""
    table = read_table(root / TABLE, ("participant_id",), sep="\t")
    known = {folded(name): name for name in table.columns}
    found = {column: next((known[each] for each in names if each in known), "") for column, names in COLUMNS.items()}
    if not found["group"]:
        raise DataError(f"{TABLE} has no column Group; it has {', '.join(map(str, table.columns))}")
    names = [f"sub-{str(each).strip().removeprefix('sub-')}" for each in table["participant_id"]]
    if len(set(names)) < len(names):
        raise DataError(f"{TABLE} names a participant twice; each has one row")

    def column(name: str) -> list[object]:
        return list(table[found[name]]) if found[name] else [None] * len(table)

    ages = to_floats(pd.Series(column("age"))).to_numpy(float)
    people = {
        "group": ["" if pd.isna(each) else str(each) for each in column("group")],  # pyright: ignore[reportGeneralTypeIssues]
        "sex": [SEX.get(str(each).strip().lower()) for each in column("sex")],
        "age": np.where((ages > 0) & (ages < 130), ages, np.nan),
        "site": [None if pd.isna(each) else str(each) for each in column("site")],  # pyright: ignore[reportGeneralTypeIssues]
    }
    return pd.DataFrame(people, index=pd.Index(names))


def _files(home: Path, task: str) -> list[str]:
    """Recordings below a folder, by path; those in ``derivatives/`` and the like only where that is the folder."""
    if not home.is_dir():
        return []
    mne_bids = demanded("mne_bids")
    found = mne_bids.find_matching_paths(
        home, tasks=[task] if task else None, suffixes="eeg", datatypes="eeg", extensions=list(ENDINGS)
    )
    inner = {str(each.fpath) for each in found}
    skipped = {"derivatives", "sourcedata", "code"}
    return sorted(path for path in inner if not skipped & set(Path(os.path.relpath(path, home)).parts))
