"""Reads RadGenome-Chest CT's tables of questions on CT-RATE's volumes.

Zhang et al., "RadGenome-Chest CT", 2024 (arXiv 2404.16754). Names and columns are those of the tables in its
repository, where a subset lies::

    radgenome_files/{train,validation}_vqa_abnormality.csv   Volumename, Anatomy, Abnormality
    radgenome_files/{train,validation}_vqa_presence.csv      Volumename, Anatomy, Finding, Presence ("Yes." or "No.")
    radgenome_files/{train,validation}_vqa_location.csv      Volumename, Anatomy, Abnormality
    radgenome_files/{train,validation}_vqa_size.csv          Volumename, Anatomy, Abnormality, Size

``Anatomy`` is a path, such as ``lung/lung/left lung/left lung lower lobe``; empty, it is the whole scan. Questions are
made of templates; each kind has one here, worded as the first of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medgraft.benchmarks.cohorts.tables.reading import ReadReport, read_table
from medgraft.errors import DataError

QuestionKind = Literal["abnormality", "presence", "location", "size"]
KINDS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "abnormality": (
        ("Volumename", "Anatomy", "Abnormality"),
        "What are the abnormalities in the {region}?",
        "Abnormality",
    ),
    "presence": (
        ("Volumename", "Anatomy", "Finding", "Presence"),
        "Can {finding} be identified in the {region}?",
        "Presence",
    ),
    "location": (("Volumename", "Anatomy", "Abnormality"), "Where is the {finding} located in the image?", ""),
    "size": (
        ("Volumename", "Anatomy", "Abnormality", "Size"),
        "What is the approximate size of the {finding} in the {region}?",
        "Size",
    ),
}
"""Kind -> columns, question, and the column of the answer; a location's answer is the region."""
YES_NO = ("Yes.", "No.")
WHOLE = "whole scan"
_LONG = {"train": "train", "valid": "validation"}


@dataclass(frozen=True)
class RegionQuestion:
    """One question on one volume.

    Attributes:
        volume: Name of the volume.
        kind: Kind of question.
        question: The question.
        answer: The right answer in words.
    """

    volume: str
    kind: str
    question: str
    answer: str


def read_radgenome(root: Path, split: str, kinds: tuple[QuestionKind, ...], report: ReadReport) -> list[RegionQuestion]:
    """The questions of a split.

    A finding that stands in a region and in the regions around it is asked for in the smallest one, since each outer
    path repeats its row.

    Args:
        root: Folder with ``radgenome_files``, or that with ``dataset``.
        split: ``train`` or ``valid``.
        kinds: Kinds of questions.
        report: Where rows without an answer are counted.

    Raises:
        DataError: A table is missing.
    """
    folder = radgenome_folder(root)
    asked: list[RegionQuestion] = []
    for kind in kinds:
        columns, wording, answer = KINDS[kind]
        path = folder / f"{_LONG[split]}_vqa_{kind}.csv"
        records = read_table(path, columns).to_dict("records")
        rows = [{name: _text(record.get(name)) for name in columns} for record in records]
        finding = "Finding" if kind == "presence" else "Abnormality"
        regions: dict[tuple[str, str], set[str]] = {}
        for row in rows:
            regions.setdefault((row["Volumename"], row[finding]), set()).add(row["Anatomy"])
        for row in rows:
            outer = any(
                other != row["Anatomy"] and other.startswith(row["Anatomy"] + "/") or not row["Anatomy"] and other
                for other in regions[row["Volumename"], row[finding]]
            )
            if kind != "abnormality" and outer:
                report.skip("region around a smaller one")
                continue
            region = row["Anatomy"].split("/")[-1] or WHOLE
            said = row[answer] if answer else region
            if not said or not row[finding] or (kind == "presence" and said not in YES_NO):
                report.skip("question without an answer")
                continue
            question = wording.format(region=region, finding=row[finding])
            asked.append(RegionQuestion(row["Volumename"], kind, question, said))
    return asked


def _text(value: object) -> str:
    return "" if value is None or value != value else " ".join(str(value).split())


def radgenome_folder(root: Path) -> Path:
    """The folder of the tables.

    Raises:
        DataError: There is none.
    """
    for folder in (root / "radgenome_files", root / "dataset" / "radgenome_files", root.parent / "radgenome_files"):
        if folder.is_dir():
            return folder
    raise DataError(
        f"{root} has no folder radgenome_files; put RadGenome-Chest CT's tables there, beside CT-RATE's folders"
    )
