"""Reads CT-RATE: chest CTs with reports, labels that were read from these, and metadata.

Hamamci et al., "CT-RATE", 2024 (arXiv 2403.17834). Names of folders, files and columns are those that CT-CLIP's own
scripts and several public readers use; no copy of the data was at hand::

    dataset/train/train_1/train_1_a/train_1_a_1.nii.gz        split, patient, scan, reconstruction
    dataset/train_fixed/...                                   the corrected release; read first where it is there
    dataset/radiology_text_reports/{train,validation}_reports.csv
    dataset/multi_abnormality_labels/{train,valid}_predicted_labels.csv
    dataset/metadata/{train,validation}_metadata.csv, no_chest_{train,valid}.txt

In the first release the voxels are as the scanner gave them, and headers say neither HU nor spacing: these stand in the
metadata (``RescaleSlope``, ``RescaleIntercept``, ``XYSpacing``, ``ZSpacing``) and are applied as CT-CLIP applies them.
Files of the corrected release are taken for HU with a sound header, which is recalled and was not checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from medgraft.benchmarks.cohorts.ct.hounsfield import load_hounsfield
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, generator_of, is_phantom, read_table, years_of
from medgraft.encoders.slices import SpacedVolume
from medgraft.errors import DataError

CT_RATE_LABELS = (
    *("Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion"),
    *("Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema", "Atelectasis"),
    *("Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion", "Mosaic attenuation pattern"),
    *("Peribronchial thickening", "Consolidation", "Bronchiectasis", "Interlobular septal thickening"),
)
"""Columns of the label tables behind ``VolumeName``, in the order of CT-CLIP's scripts."""

NAME = re.compile(r"(?P<split>train|valid)_(?P<patient>\d+)_(?P<scan>[a-z]+)_(?P<reconstruction>\d+)\.nii\.gz")
TRUTH_FILE = "phantom_truth.csv"
_LONG = {"train": "train", "valid": "validation"}
NOT_GIVEN = ("not given.", "not given", "nan")
"""What stands in a report's columns where there is no text."""


@dataclass(frozen=True)
class Scaling:
    """How the values of a file become HU.

    Attributes:
        slope: HU per unit.
        intercept: HU of 0.
        spacing: Millimetres per voxel, or ``None`` for the header's.
    """

    slope: float = 1.0
    intercept: float = 0.0
    spacing: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class CtRateTable:
    """What was read.

    Attributes:
        home: The folder ``dataset``.
        frame: A row for each volume: ``name``, ``path``, ``split``, ``subject``, ``findings``, ``impression``, ``sex``
            and ``age`` where the metadata say them, and ``truth``, the statements of a phantom as JSON or empty.
        scaling: How each volume's values become HU.
        report: What was left out, and why.
        phantom: Whether the copy was generated.
        generator: Version of the generator, ``None`` for a real copy.
    """

    home: Path
    frame: pd.DataFrame
    scaling: list[Scaling]
    report: ReadReport
    phantom: bool
    generator: str | None

    def read(self, row: int) -> SpacedVolume:
        """The volume of a row in HU, ``float32 [x, y, z]``."""
        how = self.scaling[row]
        return load_hounsfield(
            str(self.frame["path"].iloc[row]), slope=how.slope, intercept=how.intercept, spacing=how.spacing
        )

    def labels(self) -> pd.DataFrame:
        """The eighteen labels of each volume, 0 or 1; missing ones are NaN.

        Raises:
            DataError: A table of labels is missing, or has something else than 0 and 1.
        """
        parts = []
        for split in self.frame["split"].unique():
            path = self.home / "multi_abnormality_labels" / f"{split}_predicted_labels.csv"
            parts.append(read_table(path, ("VolumeName", *CT_RATE_LABELS)))
        whole = pd.concat(parts).drop_duplicates("VolumeName").set_index("VolumeName")
        found = whole.reindex(self.frame["name"])[list(CT_RATE_LABELS)].apply(pd.to_numeric, errors="coerce")
        if not (found.isna() | found.isin([0, 1])).all(axis=None):
            raise DataError(f"labels in {self.home / 'multi_abnormality_labels'} must be 0 or 1")
        return found.reset_index(drop=True)


def ct_rate_home(root: Path) -> Path:
    """The folder ``dataset`` of a copy: ``root`` itself, or below it.

    Raises:
        DataError: There is none.
    """
    for home in (root / "dataset", root):
        if (home / "radiology_text_reports").is_dir():
            return home
    raise DataError(
        f"{root} is no copy of CT-RATE: it has no folder radiology_text_reports, nor dataset/radiology_text_reports; "
        "name the folder that was downloaded"
    )


def read_ct_rate(root: Path, reconstructions: Literal["first", "all"] = "first") -> CtRateTable:
    """Reads the tables and finds the volumes.

    Left out and counted are names that are none of CT-RATE's, volumes that the lists ``no_chest_*.txt`` name, volumes
    whose file is not there, and with ``first`` the further reconstructions of a scan, which share its report.

    Raises:
        DataError: A table is missing, or no volume is left.
    """
    home, report = ct_rate_home(root), ReadReport()
    rows: list[dict[str, object]] = []
    scaling: list[Scaling] = []
    truths = _truths(home)
    for split in ("train", "valid"):
        table = read_table(
            home / "radiology_text_reports" / f"{_LONG[split]}_reports.csv",
            ("VolumeName", "Findings_EN", "Impressions_EN"),
        ).drop_duplicates("VolumeName")
        metadata = _metadata(home, split)
        elsewhere = _not_chest(home, split)
        seen: set[str] = set()
        for record in table.sort_values("VolumeName", kind="stable").to_dict("records"):
            name = str(record["VolumeName"]).strip()
            match = NAME.fullmatch(name)
            if match is None or match["split"] != split:
                report.skip("no name of a volume")
                continue
            scan = f"{split}_{match['patient']}_{match['scan']}"
            if name in elsewhere:
                report.skip("not a chest, by the published list")
            elif reconstructions == "first" and scan in seen:
                report.skip("further reconstruction of a scan")
            elif (found := _file(home, split, match, name)) is None:
                report.skip("volume missing", name)
            else:
                seen.add(scan)
                path, corrected = found
                facts = metadata.get(name, {})
                if not corrected and not facts:
                    report.note("no metadata: values taken as they are")
                scaling.append(Scaling() if corrected else _scaling(facts))
                rows.append(
                    {
                        "name": name,
                        "path": str(path),
                        "split": split,
                        "subject": f"{split}_{match['patient']}",
                        "findings": _text(record["Findings_EN"]),
                        "impression": _text(record["Impressions_EN"]),
                        "sex": {"M": "male", "F": "female"}.get(str(facts.get("PatientSex", "")).strip().upper()),
                        "age": years_of(str(facts.get("PatientAge", ""))),
                        "truth": truths.get(name, ""),
                    }
                )
    if not rows:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in report.skipped.most_common())
        raise DataError(f"{home} has no volume of any report ({reasons or 'the tables are empty'})")
    report.used = len(rows)
    return CtRateTable(home, pd.DataFrame(rows), scaling, report, is_phantom(home), generator_of(home))


def _text(value: object) -> str:
    text = "" if value is None or value != value else " ".join(str(value).split())
    return "" if text.lower() in NOT_GIVEN else text


def _file(home: Path, split: str, match: re.Match[str], name: str) -> tuple[Path, bool] | None:
    """The file of a volume, and whether it is of the corrected release."""
    patient = f"{split}_{match['patient']}"
    inside = Path(patient) / f"{patient}_{match['scan']}" / name
    for folder, corrected in ((f"{split}_fixed", True), (split, False)):
        if (path := home / folder / inside).is_file():
            return path, corrected
    return None


def _metadata(home: Path, split: str) -> dict[str, dict[str, object]]:
    """Name of a volume -> its row of the metadata; empty without a table."""
    path = home / "metadata" / f"{_LONG[split]}_metadata.csv"
    if not path.is_file():
        return {}
    table = read_table(path, ("VolumeName", "RescaleSlope", "RescaleIntercept"))
    table["VolumeName"] = table["VolumeName"].astype(str).str.strip()
    records = table.drop_duplicates("VolumeName").to_dict("records")
    return {str(record["VolumeName"]): {str(key): value for key, value in record.items()} for record in records}


def _scaling(facts: dict[str, object]) -> Scaling:
    slope, intercept = _number(facts.get("RescaleSlope")), _number(facts.get("RescaleIntercept"))
    plane = [_number(part) for part in re.findall(r"[\d.]+", str(facts.get("XYSpacing", "")))]
    z = _number(facts.get("ZSpacing"))
    sizes = (plane[0], plane[-1], z) if plane else (None, None, None)
    whole = all(size is not None and size > 0 for size in sizes)
    return Scaling(
        1.0 if not slope else slope,
        0.0 if intercept is None else intercept,
        (float(sizes[0] or 0), float(sizes[1] or 0), float(sizes[2] or 0)) if whole else None,
    )


def _number(value: object) -> float | None:
    number = pd.to_numeric(value, errors="coerce")  # pyright: ignore[reportArgumentType, reportCallIssue]
    return None if pd.isna(number) else float(number)


def _not_chest(home: Path, split: str) -> set[str]:
    path = home / "metadata" / f"no_chest_{split}.txt"
    if not path.is_file():
        return set()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    names = {line.strip().split("/")[-1] for line in lines if line.strip()}
    return {name if name.endswith(".nii.gz") else f"{name}.nii.gz" for name in names}


def _truths(home: Path) -> dict[str, str]:
    """Name of a phantom's volume -> its statements as JSON; nothing of a real copy."""
    path = home / TRUTH_FILE
    if not is_phantom(home) or not path.is_file():
        return {}
    table = read_table(path, ("VolumeName", "Statements"))
    return dict(zip(table["VolumeName"].astype(str), table["Statements"].astype(str), strict=True))
