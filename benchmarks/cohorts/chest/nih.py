"""Reader of NIH ChestX-ray14.

Wang et al., "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised Classification and
Localization of Common Thorax Diseases", CVPR 2017, with the 14 findings of the 2017 release. Images lie in
``images_001/images/`` to ``images_012/images/`` or in one folder; ``train_val_list.txt`` and ``test_list.txt`` hold the
official split, which is by patient.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.images.load import find_home, index_images, located
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, generator_of, is_phantom, read_table, years_of
from medgraft.errors import DataError

TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
NO_FINDING = "No Finding"

NIH_14: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""The 14 findings in the order of the paper, spelt as in the table."""


@dataclass(frozen=True)
class NihTable:
    """The images of a copy.

    Attributes:
        frame: One row per image: ``subject`` (``00000001``), ``image`` (absolute path), ``split`` (``train``, ``test``
            or empty where the copy has no lists), ``sex`` (F, M or empty), ``age`` (years, NaN if unknown), ``view``
            (AP, PA or empty), and the 14 findings as floats 0 or 1.
        report: How many images were used and left out, and why.
        phantom: Whether the copy was generated.
        generator: Version of the generator, None for a real copy.
    """

    frame: pd.DataFrame
    report: ReadReport
    phantom: bool
    generator: str | None

    def labels(self) -> np.ndarray:
        """The findings as floats ``[N, 14]``."""
        return self.frame[list(NIH_14)].to_numpy(float)


def read_nih(root: Path) -> NihTable:
    """Reads a copy's findings and its official split; images are opened later.

    Args:
        root: The folder with ``Data_Entry_2017.csv``, or the folder that holds it.

    Returns:
        The images that exist. Rows with an unknown finding, with ``No Finding`` beside a finding, without a patient, or
        of an earlier row's image, and images on neither list where there are lists, are left out and counted.

    Raises:
        DataError: There is no such table, it lacks a column, only one of the lists is there, a patient is on both, or
            not one image can be used.
    """
    home, path = find_home(root, TABLES, "NIH ChestX-ray14")
    table = read_table(path, ("Image Index", "Finding Labels", "Patient ID"))
    report = ReadReport()
    lists = _lists(home)
    rows, labels, splits = [], [], []
    seen: set[str] = set()
    torn = _torn(table)
    columns = zip(table["Image Index"], table["Finding Labels"], table["Patient ID"], strict=True)
    for row, (name, findings, patient) in enumerate(columns):
        name = str(name).strip()
        vector = _findings(findings)
        split = "" if lists is None else lists.get(name)
        reason = (
            ("two rows for the image that differ" if name in torn else "")
            or ("duplicate row" if name in seen else "")
            or ("" if _patient(patient) else "patient missing")
            or ("" if vector is not None else "finding unknown or contradictory")
            or ("" if split is not None else "on neither list")
        )
        if reason:
            report.skip(reason, name)
            continue
        seen.add(name)
        rows.append(row)
        labels.append(vector)
        splits.append(split)
    if not rows:
        raise DataError(f"{path} has no usable row; left out: {dict(report.skipped)}")
    used = table.iloc[rows].reset_index(drop=True)
    stems = [Path(str(name).strip()).stem for name in used["Image Index"]]
    images = index_images(home, "images", report)
    there = located(stems, images, report, lambda stem: str(home / "images_001" / "images" / f"{stem}.png"))
    frame = _frame(used, [images.get(stem, "") for stem in stems], splits).join(
        pd.DataFrame(np.array(labels, float), columns=list(NIH_14))
    )
    frame = frame.iloc[there].reset_index(drop=True)
    _disjoint(frame, path)
    report.used = len(frame)
    phantom = is_phantom(home) or made_up("nih", frame["subject"])
    return NihTable(frame, report, phantom, generator_of(home))


def _torn(table: pd.DataFrame) -> set[str]:
    """Images with rows of different findings or patients, whatever the order in which findings are named."""
    findings = ["|".join(sorted(part.strip() for part in str(each).split("|"))) for each in table["Finding Labels"]]
    rows = pd.DataFrame({"name": [str(each).strip() for each in table["Image Index"]], "findings": findings})
    rows = rows.assign(patient=[_patient(each) for each in table["Patient ID"]]).drop_duplicates()
    return set(rows.loc[rows["name"].duplicated(), "name"])


def _frame(table: pd.DataFrame, images: list[str], splits: list[str | None]) -> pd.DataFrame:
    def words(column: str) -> list[str]:
        if column not in table:
            return [""] * len(table)
        return ["" if pd.isna(value) else str(value).strip().upper() for value in table[column]]

    return pd.DataFrame(
        {
            "subject": [_patient(patient) for patient in table["Patient ID"]],
            "image": images,
            "split": splits,
            "sex": words("Patient Gender") if "Patient Gender" in table else words("Patient Sex"),
            # The first release has ages of 148 and more.
            "age": [_age(word) for word in words("Patient Age")],
            "view": words("View Position"),
        }
    )


def _age(word: str) -> float:
    """Years of ``058Y``, ``006M`` or ``58``; NaN for anything else, and beyond 120."""
    years = years_of(word)
    if years is None and re.fullmatch(r"\d+(\.0)?", word):
        years = float(word)
    return years if years is not None and years <= 120 else np.nan


def _patient(value: object) -> str:
    """The patient's number as file names have it; empty where there is none."""
    try:
        return f"{int(float(str(value))):08d}"
    except ValueError:
        return ""


def _findings(value: object) -> np.ndarray | None:
    """``"Effusion|Mass"`` as 0 and 1 ``[14]``; ``None`` for a name that is none or for a contradiction."""
    names = {part.strip().replace(" ", "_") for part in str(value).split("|")}
    if names == {NO_FINDING.replace(" ", "_")}:
        return np.zeros(len(NIH_14))
    if not names <= set(NIH_14):
        return None
    return np.array([float(name in names) for name in NIH_14])


def _lists(home: Path) -> dict[str, str] | None:
    """Image -> split by the official lists; ``None`` where the copy has neither."""
    paths = {split: home / name for split, name in LISTS.items() if (home / name).is_file()}
    if not paths:
        return None
    if len(paths) < len(LISTS):
        missing = next(name for split, name in LISTS.items() if split not in paths)
        raise DataError(f"{home} has no {missing} beside the other list; the split needs both or neither")
    lists = {
        split: {line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()}
        for split, path in paths.items()
    }
    if both := lists["train"] & lists["test"]:
        raise DataError(f"{len(both)} images are on both lists of {home}; the official lists share none")
    return {name: split for split, names in lists.items() for name in names}


def _disjoint(frame: pd.DataFrame, path: Path) -> None:
    both = set(frame.loc[frame["split"] == "train", "subject"]) & set(frame.loc[frame["split"] == "test", "subject"])
    if both:
        raise DataError(f"{len(both)} patients of {path} are on both lists; the official lists share none")
