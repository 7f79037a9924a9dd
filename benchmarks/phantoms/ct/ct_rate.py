"""Writes the chest-CT phantom in the layout of CT-RATE, with RadGenome-Chest CT's tables of questions beside it.

Folders, file names and columns are those that CT-CLIP's scripts and RadGenome's repository read. Numbers of patients
begin at 900,001; CT-RATE's end at 20,000. As in CT-RATE's first release, voxels are stored as the scanner gave them,
and the slope and intercept that make Hounsfield units of them stand in the table of metadata.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER
from medgraft.benchmarks.metrics.texts.statements import to_json
from medgraft.benchmarks.phantoms.brain.writing import save_volume
from medgraft.benchmarks.phantoms.chest.studies import map_chunks
from medgraft.benchmarks.phantoms.ct.canvas import FIELD
from medgraft.benchmarks.cohorts.ct.ct_rate import CT_RATE_LABELS, TRUTH_FILE
from medgraft.benchmarks.phantoms.ct.findings import labels_of
from medgraft.benchmarks.phantoms.ct.questions import region_answers
from medgraft.benchmarks.phantoms.ct.renderer import GENERATOR_VERSION, STREAMS, Person, render, sample_person
from medgraft.benchmarks.phantoms.ct.reports import statements, write_report
from medgraft.errors import ConfigError

FIRST_PATIENT = 900_001
INTERCEPTS = (-1024, -8192)
"""Of the scanners; stored voxels are HU minus it."""
_AGAIN, _SECOND_KERNEL, _MOST = 0.15, 0.2, 90_000
_QUESTIONS = {
    "abnormality": ("Volumename", "Anatomy", "Abnormality"),
    "presence": ("Volumename", "Anatomy", "Finding", "Presence"),
    "location": ("Volumename", "Anatomy", "Abnormality"),
    "size": ("Volumename", "Anatomy", "Abnormality", "Size"),
}


@dataclass(frozen=True)
class _Volume:
    """One file: whose, which scan and reconstruction, and how it is stored."""

    person: Person
    index: int
    split: str
    scan: int
    reconstruction: int
    intercept: int
    path: Path

    @property
    def name(self) -> str:
        return self.path.name


def write_ct_rate(
    out: Path, *, n_train: int, n_valid: int, seed: int, size: int = 64, slices: int = 32, jobs: int = 1
) -> None:
    """Writes a cohort; the same arguments give the same bytes, whatever ``jobs`` is.

    A patient depends on seed, split and number alone. Some patients have a second scan, and some scans a second
    reconstruction, which shares the report.

    Args:
        out: Folder to write into.
        n_train: Patients to train on.
        n_valid: Patients of the published validation split.
        seed: Not negative.
        size: Voxels from side to side and from back to front.
        slices: Voxels from bottom to top.
        jobs: Processes.

    Raises:
        ConfigError: A number is out of range.
    """
    if min(n_train, n_valid, seed) < 0 or max(n_train, n_valid) > _MOST or size < 16 or slices < 8:
        raise ConfigError(
            f"patients {n_train} and {n_valid} must be 0 to {_MOST}, seed {seed} not negative, size {size} at least 16 "
            f"and slices {slices} at least 8"
        )
    home = out / "dataset"
    for folder in ("radiology_text_reports", "multi_abnormality_labels", "metadata", "radgenome_files"):
        (home / folder).mkdir(parents=True)
    truths: list[tuple[str, str]] = []
    for split, count in (("train", n_train), ("valid", n_valid)):
        volumes = [each for index in range(count) for each in _volumes_of(home, seed, split, index)]
        for _ in map_chunks(functools.partial(_write_volumes, shape=(size, size, slices)), volumes, jobs):
            pass
        _write_tables(home, split, volumes, seed, (size, size, slices))
        truths += [(each.name, to_json(statements(each.person))) for each in volumes]
    pd.DataFrame(truths, columns=["VolumeName", "Statements"]).to_csv(home / TRUTH_FILE, index=False)
    marker = {
        "generator": GENERATOR_VERSION,
        "seed": seed,
        "config": {"train": n_train, "valid": n_valid, "size": size, "slices": slices},
        "statement": "generated; no person",
    }
    (out / PHANTOM_MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def _volumes_of(home: Path, seed: int, split: str, index: int) -> list[_Volume]:
    person = sample_person(seed, split, index)
    rng = np.random.default_rng([seed, STREAMS[split], index, 2])
    patient = f"{split}_{FIRST_PATIENT + index}"
    volumes = []
    for scan in range(1 + int(rng.random() < _AGAIN)):
        session, intercept = f"{patient}_{'ab'[scan]}", INTERCEPTS[int(rng.random() < 0.5)]
        for reconstruction in range(1, 2 + int(rng.random() < _SECOND_KERNEL)):
            path = home / split / patient / session / f"{session}_{reconstruction}.nii.gz"
            volumes.append(_Volume(person, index, split, scan, reconstruction, intercept, path))
    return volumes


def _write_volumes(volumes: Sequence[_Volume], shape: tuple[int, int, int]) -> int:
    for each in volumes:
        hu = render(each.person, shape, exposure=10 * each.scan + each.reconstruction)
        stored = np.rint(hu - each.intercept).astype(np.int16)
        # Axes to the left, back and top, as those of CT-RATE's files.
        steps = [extent / n for extent, n in zip(FIELD, shape, strict=True)]
        affine = np.diag([-steps[0], -steps[1], steps[2], 1.0])
        affine[:3, 3] = [FIELD[0] / 2 - steps[0] / 2, FIELD[1] / 2 - steps[1] / 2, steps[2] / 2 - FIELD[2] / 2]
        save_volume(each.path, stored[::-1, ::-1], affine)
    return len(volumes)


def _write_tables(home: Path, split: str, volumes: Sequence[_Volume], seed: int, shape: tuple[int, int, int]) -> None:
    reports, labels, metadata = [], [], []
    questions: dict[str, list[tuple[str, ...]]] = {name: [] for name in _QUESTIONS}
    for each in volumes:
        report = write_report(each.person, seed, split, each.index, each.scan)
        reports.append((each.name, report.clinical, report.technique, report.findings, report.impression))
        positive = labels_of(set(report.said))
        labels.append((each.name, *(positive[label] for label in CT_RATE_LABELS)))
        metadata.append(_metadata(each, shape))
        if each.reconstruction == 1:  # the only ones that RadGenome asks about
            answers = region_answers(each.person, np.random.default_rng([seed, STREAMS[split], each.index, 3]))
            for name, rows in questions.items():
                rows += [(each.name, *row) for row in getattr(answers, name)]
    long = {"train": "train", "valid": "validation"}[split]
    columns = ["VolumeName", "ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN"]
    _save(home / "radiology_text_reports" / f"{long}_reports.csv", reports, columns)
    _save(home / "multi_abnormality_labels" / f"{split}_predicted_labels.csv", labels, ["VolumeName", *CT_RATE_LABELS])
    pd.DataFrame(metadata).to_csv(home / "metadata" / f"{long}_metadata.csv", index=False)
    (home / "metadata" / f"no_chest_{split}.txt").write_text("", encoding="utf-8")
    for name, names in _QUESTIONS.items():
        _save(home / "radgenome_files" / f"{long}_vqa_{name}.csv", questions[name], names)


def _save(path: Path, rows: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> None:
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, index=False)


def _metadata(each: _Volume, shape: tuple[int, int, int]) -> dict[str, Any]:
    x, y, z = (extent / n for extent, n in zip(FIELD, shape, strict=True))
    return {
        "VolumeName": each.name,
        "Manufacturer": "phantom; not a person",
        "PatientSex": "F" if each.person.body.female else "M",
        "PatientAge": f"{each.person.body.age:03d}Y",
        "RescaleIntercept": each.intercept,
        "RescaleSlope": 1,
        "NumberofSlices": shape[2],
        "XYSpacing": f"[{x:.6f}, {y:.6f}]",
        "ZSpacing": round(z, 6),
    }
