"""Reader of CheXpert copies as people have them, and of phantom cohorts, which have the same layout.

CheXpert (Irvin et al. 2019) is distributed as ``CheXpert-v1.0/``, ``CheXpert-v1.0-small/`` and, from the AIMI portal,
as a folder of batches. All label columns are addressed by name. A blank label means "not mentioned in the report".
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.chest.chexpert_labels import (
    BEST_POLICY,
    CHEXPERT_14,
    COMPETITION_5,
    POLICIES,
    apply_uncertainty,
    exclusive_class,
)
from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.images.pictures import load_image
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, generator_of, is_phantom, read_table, years_of
from medgraft.errors import DataError, UnknownNameError

__all__ = [
    "BEST_POLICY",
    "CHEXPERT_14",
    "COMPETITION_5",
    "POLICIES",
    "VIEWS",
    "ChexpertTable",
    "apply_uncertainty",
    "exclude_subjects",
    "exclusive_class",
    "load_image",
    "read_chexpert",
    "select_5x200",
]

VIEWS = ("Frontal", "Lateral")

_TABLES = {
    "train": ("train.csv",),
    "valid": ("valid.csv", "val_labels.csv", "valid_labels.csv", "val.csv"),
    "test": ("test.csv", "test_labels.csv"),
    "5x200": ("chexpert_5x200.csv",),
}
_SECTION = {"val": "valid"}
_PATH = re.compile(
    r"(?:(?:^|/)(?P<section>train|valid|val|test)/)?(?P<subject>patient\d+)/(?P<study>study\d+)/(?P<file>[^/]+)$"
)
_SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG", ".PNG")


@dataclass(frozen=True)
class ChexpertTable:
    """One split of a CheXpert copy.

    Attributes:
        frame: One row per image: ``subject`` (``patient00001``), ``study`` (``patient00001/study1``), ``view`` (Frontal
            or Lateral), ``image`` (absolute path), ``sex`` (Female, Male or empty), ``age`` (years, NaN if unknown),
            ``ap_pa`` (AP, PA, LL, RL or empty), ``report`` (text or empty), and the 14 labels as floats: 1 present, 0
            absent, -1 uncertain, NaN not mentioned.
        report: How many rows were used and left out, and why.
        phantom: Whether the copy was generated.
        generator: Version of the generator, None for a real copy.
    """

    frame: pd.DataFrame
    report: ReadReport
    phantom: bool
    generator: str | None

    def labels(self, names: Sequence[str] = CHEXPERT_14) -> np.ndarray:
        """The labels of those names as floats ``[N, len(names)]``."""
        return self.frame[list(names)].to_numpy(float)


def read_chexpert(
    root: Path,
    split: Literal["train", "valid", "test", "5x200"],
    *,
    views: Sequence[str] = ("Frontal",),
    reports: bool = True,
) -> ChexpertTable:
    """Reads one split of a CheXpert copy.

    Args:
        root: The folder with the tables, or the folder that holds it.
        split: Which table to read; ``5x200`` is the published five-class set of GLoRIA.
        views: Which of ``VIEWS`` to keep.
        reports: Whether to join the reports of CheXpert Plus, where its table (``df_chexpert_plus*.csv``) is there.

    Returns:
        The rows whose image exists. Rows with a view that was not asked for, a label other than 1, 0, -1 or blank, a
        strange path, a missing image, or the path of an earlier row are left out and counted.

    Raises:
        DataError: There is no such table, it lacks a column, or no row of it can be used.
        UnknownNameError: ``split`` or a view is not one of those above.
    """
    if split not in _TABLES:
        raise UnknownNameError("CheXpert split", split, _TABLES)
    for view in views:
        if view not in VIEWS:
            raise UnknownNameError("view", view, VIEWS)
    folders = _folders(Path(root))
    path = _find_table(Path(root), folders, split)
    table = read_table(path, ("Path", *CHEXPERT_14))
    report = ReadReport()
    places = [_place(text, "train" if split == "5x200" else split) for text in _words(table, "Path")]
    rows = _usable(table, places, views, report)
    if not rows:
        raise DataError(f"{path} has no usable row; left out: {dict(report.skipped)}")
    # Images are first looked for beside the table: a full and a small copy may share one parent.
    images = _images([places[row] for row in rows], sorted(folders, key=lambda folder: folder != path.parent))
    if not any(images):
        raise DataError(
            f"none of the {len(rows)} images of {path.name} is under {root}; they should lie there as "
            f"{places[rows[0]].section}/patient.../study1/view1_frontal.jpg. Unpack the images beside the table"
        )
    indexed = [i for i, image in enumerate(images) if image]
    if len(indexed) < len(rows):
        report.skip("image missing", count=len(rows) - len(indexed))
    rows = [rows[i] for i in indexed]
    frame = _frame(table.iloc[rows], [places[row] for row in rows], _plus_reports(folders) if reports else {}, report)
    frame.insert(3, "image", [images[i] for i in indexed])
    report.used = len(frame)
    phantom = is_phantom(path.parent) or made_up("chexpert", frame["subject"])
    return ChexpertTable(frame, report, phantom, generator_of(path.parent))


def _frame(table: pd.DataFrame, places: Sequence[_Place], plus: Mapping[str, str], report: ReadReport) -> pd.DataFrame:
    """The columns of ``ChexpertTable.frame`` but the image, for rows that are all usable.

    Sex, age and projection are taken as far as the copy has them; odd values become unknown and are counted.
    """
    sex = [{"m": "Male", "f": "Female"}.get(word[:1].lower(), "") for word in _words(table, "Sex")]
    age = np.array([_age(word) for word in _words(table, "Age")], float)
    age[~((age >= 0) & (age <= 120))] = np.nan
    impressions = _words(table, "Report Impression")
    texts = [text or plus.get(place.key, "") for text, place in zip(impressions, places, strict=True)]
    for reason, usable, count in (
        ("sex unknown", "Sex" in table, sex.count("")),
        ("age unknown", "Age" in table, int(np.isnan(age).sum())),
        ("without report", bool(plus), texts.count("")),
    ):
        if usable and count:
            report.note(reason, count)
    frame = pd.DataFrame(
        {
            "subject": [place.subject for place in places],
            "study": [f"{place.subject}/{place.study}" for place in places],
            "view": _views(table, places),
            "sex": sex,
            "age": age,
            "ap_pa": [word.upper() for word in _words(table, "AP/PA")],
            "report": texts,
        }
    )
    frame[list(CHEXPERT_14)] = _labels(table)
    return frame


def _folders(root: Path) -> list[Path]:
    """The root, the CheXpert folders in it down to two levels, its parent if it is one itself, and fellow batches."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; name the folder that holds a CheXpert copy")
    root = root.absolute()
    children = _chexpert_folders(root)
    folders = [root, *children, *(inner for child in children for inner in _chexpert_folders(child))]
    if root.name.lower().startswith("chexpert"):
        folders.append(root.parent)
    if " batch " in root.name:
        folders.extend(_chexpert_folders(root.parent))
    return folders


def _chexpert_folders(folder: Path) -> list[Path]:
    names = sorted(name for name in os.listdir(folder) if name.lower().startswith("chexpert"))
    return [folder / name for name in names if (folder / name).is_dir()]


def _find_table(root: Path, folders: Sequence[Path], split: str) -> Path:
    for folder in folders:
        for name in _TABLES[split]:
            if (folder / name).is_file():
                return folder / name
    raise DataError(
        f"no {' or '.join(_TABLES[split])} under {root}; the root of a CheXpert copy is the folder with these tables "
        f"(CheXpert-v1.0-small, for example) or the folder above it"
    )


class _Place(NamedTuple):
    """Where an image lies in a copy, whatever the copy is called: ``train/patient00001/study1/view1_frontal.jpg``."""

    section: str
    subject: str
    study: str
    file: str

    @property
    def key(self) -> str:
        """The image without section and suffix; CheXpert Plus names the same images with other suffixes."""
        return f"{self.subject}/{self.study}/{os.path.splitext(self.file)[0]}"

    def __str__(self) -> str:
        return "/".join(self)


_NOWHERE = _Place("", "", "", "")


def _place(path: str, section: str) -> _Place:
    """Parses a path of any copy; ``section`` is where the image is if the path does not say."""
    match = _PATH.search(path.replace("\\", "/"))
    if match is None:
        return _NOWHERE
    named = match["section"] or section
    return _Place(_SECTION.get(named, named), match["subject"], match["study"], match["file"])


def _words(table: pd.DataFrame, column: str) -> list[str]:
    """A column as stripped text, empty where it or the value is missing."""
    if column not in table:
        return [""] * len(table)
    return ["" if pd.isna(value) else str(value).strip() for value in table[column].tolist()]


def _views(table: pd.DataFrame, places: Sequence[_Place]) -> list[str]:
    """Frontal, Lateral or empty: from the table where it says so, else from the file name."""
    stated = (word.capitalize() for word in _words(table, "Frontal/Lateral"))
    named = (next((view for view in VIEWS if view.lower() in place.file.lower()), "") for place in places)
    return [word if word in VIEWS else name for word, name in zip(stated, named, strict=True)]


def _labels(table: pd.DataFrame) -> np.ndarray:
    """The 14 labels as floats ``[N, 14]``; infinity stands for a value that is no label."""
    labels = np.empty((len(table), len(CHEXPERT_14)))
    for i, name in enumerate(CHEXPERT_14):
        if pd.api.types.is_numeric_dtype(table[name]):
            labels[:, i] = table[name].to_numpy(float)
        else:
            labels[:, i] = [_number(word) for word in _words(table, name)]
    labels[~(np.isnan(labels) | np.isin(labels, (1, 0, -1)))] = np.inf
    return labels


def _number(word: str) -> float:
    try:
        return float(word or "nan")
    except ValueError:
        return math.nan if word.lower() in ("none", "na", "<na>") else math.inf


def _torn(labels: np.ndarray, places: list[str]) -> set[str]:
    """Images with rows that state different values of one label; a blank, which states nothing, differs from none."""
    rows = pd.DataFrame(labels).assign(place=places)
    rows = rows[rows["place"].duplicated(keep=False)]
    stated: Any = rows.groupby("place").nunique()
    return set(stated.index[(stated > 1).any(axis=1)])


def _age(word: str) -> float:
    years = years_of(word)
    return _number(word) if years is None else years


def _usable(table: pd.DataFrame, places: Sequence[_Place], views: Sequence[str], report: ReadReport) -> list[int]:
    """Positions of the rows to look for images of; each of the others is counted once."""
    labels = _labels(table)
    view, bad_label, seen, rows = _views(table, places), np.any(np.isinf(labels), axis=1), set(), []
    torn = _torn(labels, list(map(str, places)))
    for row, place in enumerate(places):
        if place is _NOWHERE:
            report.skip("path without patient and study")
        elif not view[row]:
            report.skip("view unknown")
        elif view[row] not in views:
            report.skip(f"{view[row].lower()} view")
        elif bad_label[row]:
            report.skip("label other than 1, 0, -1 or blank")
        elif str(place) in torn:
            report.skip("two rows for the image with different labels")
        elif place in seen:
            report.skip("duplicate row")
        else:
            seen.add(place)
            rows.append(row)
    return rows


def _images(places: Sequence[_Place], folders: Sequence[Path]) -> list[str]:
    """Absolute path of each image, empty where it is missing.

    One listing per split folder tells which patients exist; only their images are looked up, since a folder holds one
    study and listing each would cost more than asking for the file.
    """
    homes = {section: _patient_homes(folders, section) for section in {place.section for place in places}}
    return [next(_existing(homes[place.section].get(place.subject, ()), place), "") for place in places]


def _patient_homes(folders: Sequence[Path], section: str) -> dict[str, list[str]]:
    """Patient -> folders that hold it, in the order of preference."""
    homes: dict[str, list[str]] = {}
    names = [section, *(alias for alias, name in _SECTION.items() if name == section), ""]
    for home in (os.path.join(folder, name) for folder in folders for name in names):
        if os.path.isdir(home):
            for name in os.listdir(home):
                if name.startswith("patient"):
                    homes.setdefault(name, []).append(home.rstrip(os.sep))
    return homes


def _existing(homes: Iterable[str], place: _Place) -> Iterator[str]:
    """The image of that name in the first home, then under the suffixes that converted copies use."""
    stem = os.path.splitext(place.file)[0]
    for home in homes:
        for name in dict.fromkeys((place.file, *(stem + suffix for suffix in _SUFFIXES))):
            path = f"{home}/{place.subject}/{place.study}/{name}"
            if os.path.isfile(path):
                yield path


def _plus_reports(folders: Sequence[Path]) -> dict[str, str]:
    """Key of an image -> its report in CheXpert Plus: the impression, else the findings, else the whole text."""
    path = next((path for folder in folders for path in sorted(folder.glob("df_chexpert_plus*.csv"))), None)
    if path is None:
        return {}
    table = read_table(path, ("path_to_image",))
    texts: dict[str, str] = {}
    sections = (_words(table, column) for column in ("section_impression", "section_findings", "report"))
    for name, *parts in zip(_words(table, "path_to_image"), *sections, strict=True):
        texts.setdefault(_place(name, "").key, next(filter(None, parts), ""))
    return texts


def exclude_subjects(table: ChexpertTable, subjects: Iterable[str]) -> ChexpertTable:
    """Leaves out every row of the given patients, for example all patients of a test set, and counts them."""
    unwanted = set(subjects)
    keep = [row for row, subject in enumerate(table.frame["subject"]) if subject not in unwanted]
    frame = table.frame.iloc[keep].reset_index(drop=True)
    report = ReadReport(len(frame), table.report.skipped.copy(), table.report.notes.copy())
    if len(keep) < len(table.frame):
        report.skip("subject held out", count=len(table.frame) - len(keep))
    return replace(table, frame=frame, report=report)


def select_5x200(table: ChexpertTable, per_class: int = 200, seed: int = 0) -> ChexpertTable:
    """Draws a five-class set by GLoRIA's rule, for copies without the published ``chexpert_5x200.csv``.

    The published set was drawn without a known seed, so results on this one are "5x200-like" and not comparable with
    published numbers. Keep its patients, not only its images, out of training with ``exclude_subjects``.

    Args:
        table: A training split; lateral views in it are not considered.
        per_class: Images per class.
        seed: Seed of the draw, not negative.

    Returns:
        ``5 * per_class`` rows, class by class in the order of ``COMPETITION_5``.

    Raises:
        DataError: A class has fewer eligible images.
    """
    targets = np.where(table.frame["view"] == "Frontal", exclusive_class(table.frame), -1)
    counts = {name: int((targets == i).sum()) for i, name in enumerate(COMPETITION_5)}
    if min(counts.values()) < per_class:
        raise DataError(
            f"{per_class} images per class were asked for, but the table has only {counts} that are exclusive"
        )
    rng = np.random.default_rng(seed)
    rows = [np.sort(rng.permutation(np.flatnonzero(targets == i))[:per_class]) for i in range(len(COMPETITION_5))]
    frame = table.frame.iloc[np.concatenate(rows)].reset_index(drop=True)
    return replace(table, frame=frame, report=ReadReport(used=len(frame)))
