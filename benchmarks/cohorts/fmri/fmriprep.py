"""Resting-state runs as fMRIPrep writes them: BIDS derivatives with a table of the participants.

``sub-*/[ses-*/]func/*_task-rest*_space-MNI152NLin2009cAsym[_res-2]_desc-preproc_bold.nii.gz``, with
``*_desc-brain_mask.nii.gz`` and ``*.json`` of the same name beside it, and ``*_desc-confounds_timeseries.tsv`` (older:
``*_desc-confounds_regressors.tsv``), which have neither space nor resolution in theirs (fMRIPrep's documentation,
"Outputs"). fMRIPrep writes no ``participants.tsv``; it is looked for in the folder and in those above it, since
derivatives lie in ``derivatives/fmriprep`` of the raw data.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.files.walking import walk
from medgraft.benchmarks.cohorts.fmri.table import RestTable, table_of
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, read_table
from medgraft.errors import DataError

BOLD = re.compile(r"(?P<sub>sub-[A-Za-z0-9]+)_(?P<rest>.*)desc-preproc_bold\.nii(?:\.gz)?")
MNI = re.compile(r"space-MNI152NLin[A-Za-z0-9]+")
PREFERRED_SPACE = "space-MNI152NLin2009cAsym"
OF_SPACE = re.compile(r"_(?:space|res|cohort|desc)-[A-Za-z0-9]+")
CONFOUNDS = ("desc-confounds_timeseries.tsv", "desc-confounds_regressors.tsv")
ABOVE = 3
"""Folders above that may hold ``participants.tsv``."""

SEXES = {"f": "F", "female": "F", "m": "M", "male": "M"}
DIAGNOSES = ("diagnosis", "dx", "group", "dx_group", "diagnosis_group")
"""Columns in which a diagnosis is looked for where none is named, first match first."""

SITES, AGES = ("site", "site_id", "scanner", "scanner_id"), ("age", "age_at_scan", "age_years")


def read_fmriprep(root: Path, *, column: str = "", task: str = "rest") -> RestTable:
    """Reads derivatives.

    Args:
        root: The folder with ``sub-*``, or raw data whose ``derivatives/fmriprep`` has them.
        column: Of ``participants.tsv`` that holds the diagnosis; found by its name where it is empty.
        task: Label of the runs.

    Raises:
        DataError: There is no table of participants, no such column, or no run.
    """
    table = _participants(root)
    names = {name.lower(): name for name in table.columns}
    if column and column not in table.columns:
        raise DataError(f"participants.tsv has no column {column}; it has: {', '.join(table.columns[:30])}")
    held = {
        "dx": column or _first(names, DIAGNOSES),
        "sex": _first(names, ("sex", "gender")),
        "age": _first(names, AGES),
        "site": _first(names, SITES),
    }
    report, rows = ReadReport(), []
    runs = derived_runs(root, task, report)
    people = {str(row["participant_id"]).strip(): row for row in table.to_dict("records")}
    for subject, files in runs.items():
        person = people.get(subject)
        if person is None:
            report.skip("a run without a row in the table", count=len(files))
            continue
        facts = {name: _said(person, place) for name, place in held.items()}
        age: Any = np.nan if facts["age"] is None else pd.to_numeric(facts["age"], errors="coerce")
        said = {
            "dx": facts["dx"],
            "sex": SEXES.get(str(facts["sex"]).lower()),
            "age": float(age),
            "site": facts["site"],
        }
        rows += [{"subject": subject, **each, **said} for each in files]
    if without := len(people.keys() - runs.keys()):
        report.skip("a person of the table without a run", count=without)
    if not rows:
        why = ", ".join(f"{count} x {reason}" for reason, count in report.skipped.items())
        where = f"sub-*/func/*_task-{task}_{PREFERRED_SPACE}_desc-preproc_bold.nii.gz"
        raise DataError(f"{root} has no {where} of a participant" + (f" ({why})" if why else ""))
    return table_of(rows, report, "fmriprep", root)


def participants_file(root: Path) -> Path | None:
    """``participants.tsv`` in a folder or above it; ``None`` where there is none."""
    folders = (root, *list(root.absolute().parents)[:ABOVE])
    return next((path for folder in folders if (path := folder / "participants.tsv").is_file()), None)


def _participants(root: Path) -> pd.DataFrame:
    place = participants_file(root)
    if place is None:
        raise DataError(
            f"{root} has no participants.tsv, in it or {ABOVE} folders above; put that of the raw data there"
        )
    return read_table(place, ("participant_id",), sep="\t")


def _first(names: dict[str, str], wanted: tuple[str, ...]) -> str:
    return next((names[name] for name in wanted if name in names), "")


def _said(person: dict[Any, Any], column: str) -> str | None:
    """A fact as a word, None where it is missing; numbers without a fraction lose their point."""
    value = person.get(column) if column else None
    if value is None or value != value or str(value).strip().lower() in ("", "n/a", "nan"):
        return None
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value).strip()


def derived_runs(root: Path, task: str, report: ReadReport) -> dict[str, list[dict[str, object]]]:
    """Runs of each subject in MNI space, of each one space and resolution.

    Args:
        root: Where they are looked for; ``sourcedata`` is passed over.
        task: Label of the runs.
        report: Takes counts of other runs.

    Returns:
        Subject -> ``image``, ``mask``, ``confounds``, ``regions`` and ``step`` of each run, see
        :class:`~medgraft.benchmarks.cohorts.fmri.table.RestTable`.
    """
    found: dict[str, dict[str, list[tuple[str, str]]]] = {}
    there: set[str] = set()
    other = Counter[str]()
    for here in walk(root, lambda inside: "sourcedata" in inside.split("/")):
        there.update(
            f"{here.path}/{name}" for name in here.files if name.endswith((".tsv", ".json", ".nii.gz", ".nii"))
        )
        for name in here.files:
            match = BOLD.fullmatch(name)
            if match is None:
                continue
            if f"_task-{task}_" not in name:
                other["a run of another task"] += 1
            elif MNI.search(name) is None:
                other["a run in another space"] += 1
            else:
                stem = OF_SPACE.sub("", name.partition("_bold")[0])
                found.setdefault(match["sub"], {}).setdefault(stem, []).append((here.path, name))
    for reason, count in other.items():
        report.skip(reason, count=count)
    runs: dict[str, list[dict[str, object]]] = {}
    for subject, stems in found.items():
        for stem, candidates in stems.items():
            if len(candidates) > 1:
                report.skip("a run in a further space or resolution", count=len(candidates) - 1)
            folder, name = min(candidates, key=lambda each: (PREFERRED_SPACE not in each[1], len(each[1]), each[1]))
            runs.setdefault(subject, []).append(_files(folder, name, stem, there))
    return runs


def _files(folder: str, name: str, stem: str, there: set[str]) -> dict[str, object]:
    whole, ending = name.partition("desc-preproc_bold")[::2]
    mask, sidecar = f"{folder}/{whole}desc-brain_mask{ending}", f"{folder}/{whole}desc-preproc_bold.json"
    tables = [f"{folder}/{stem}_{each}" for each in CONFOUNDS]
    return {
        "image": f"{folder}/{name}",
        "mask": mask if mask in there else "",
        "confounds": next((table for table in tables if table in there), ""),
        "regions": "",
        "step": _step(sidecar) if sidecar in there else 0.0,
    }


def _step(sidecar: str) -> float:
    """Seconds between volumes by a sidecar, 0 where it does not say."""
    try:
        step = float(json.loads(Path(sidecar).read_text(encoding="utf-8"))["RepetitionTime"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
    return step if np.isfinite(step) and step > 0 else 0.0
