"""The phantom of T1, PET and diffusion as ADNI's archive would hand it out: numbered images, search table, ADNIMERGE.

PET is made three weeks after T1, as the archive's dates of one visit differ. The archive has no masks of reference
regions, so neither has this tree.
"""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medgraft.benchmarks.phantoms.brain.layouts import ADNIMERGE_COLUMNS, SEARCH_COLUMNS
from medgraft.benchmarks.phantoms.brain.writing import save_volume

Array = NDArray[Any]

DESCRIPTIONS = {
    "t1": ("MRI", "MT1; GradWarp; N3m"),
    "pet": ("PET", "Coreg, Avg, Std Img and Vox Siz, Uniform Resolution"),
    "FA": ("DTI", "DTI FA"),
    "MD": ("DTI", "DTI MD"),
    "AD": ("DTI", "DTI AD"),
    "RD": ("DTI", "DTI RD"),
}
"""Kind of image -> modality and description."""
PET_LATER = dt.timedelta(days=21)
_FIRST_DAY = dt.date(2012, 1, 10)
_CODES = ("bl", "m12")


class LoniTree:
    """Writes one cohort."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._search: list[dict[str, Any]] = []
        self._merge: list[dict[str, Any]] = []

    def write_visit(
        self, index: int, visit: int, facts: Mapping[str, Any], images: Mapping[str, Array], affine: Array
    ) -> None:
        """Writes the images of a visit and keeps its rows of the tables.

        Args:
            index: Number of the person.
            visit: 0, or 1 for that after a year.
            facts: Of the person: ``age``, ``sex`` (F or M), ``site``, ``diagnosis`` and ``head_size`` (mm3).
            images: Kind of :data:`DESCRIPTIONS` -> ``float32 [n, n, n]``.
            affine: Voxels to mm, ``[4, 4]``.
        """
        subject, day = ptid(index), _FIRST_DAY + dt.timedelta(days=index % 700 + 365 * visit)
        for place, (kind, (modality, description)) in enumerate(DESCRIPTIONS.items()):
            if kind not in images:
                continue
            uid = 9_000_000 + 20 * index + 10 * visit + place
            when = day + PET_LATER if kind == "pet" else day
            path = self.root / image_path(subject, modality, description, when, uid)
            save_volume(path, np.asarray(images[kind], np.float32), affine)
            self._search.append(
                {
                    "Image Data ID": f"I{uid}",
                    "Subject": subject,
                    "Group": facts["diagnosis"],
                    "Sex": facts["sex"],
                    "Age": int(facts["age"]) + visit,
                    "Visit": _CODES[visit],
                    "Modality": modality,
                    "Description": description,
                    "Type": "Processed",
                    "Acq Date": f"{when.month}/{when.day:02d}/{when.year}",
                    "Format": "NiFTI",
                }
            )
        self._merge.append(
            {
                "RID": int(subject[-4:]),
                "PTID": subject,
                "VISCODE": _CODES[visit],
                "SITE": facts["site"],
                "EXAMDATE": day.isoformat(),
                "AGE": facts["age"],
                "PTGENDER": {"F": "Female", "M": "Male"}[facts["sex"]],
                "DX": {"AD": "Dementia"}.get(facts["diagnosis"], facts["diagnosis"]),
                "ICV": facts["head_size"],
                "M": 12 * visit,
                "update_stamp": "phantom",
            }
        )

    def write_tables(self) -> None:
        """Writes the search table and ADNIMERGE."""
        self.root.mkdir(parents=True, exist_ok=True)
        search = pd.DataFrame(self._search, columns=pd.Index(SEARCH_COLUMNS))
        search.to_csv(self.root / "ADNI_phantom_search.csv", index=False, quoting=csv.QUOTE_ALL)
        merge = pd.DataFrame(self._merge, columns=pd.Index(ADNIMERGE_COLUMNS))
        merge.to_csv(self.root / "ADNIMERGE.csv", index=False)


def ptid(index: int) -> str:
    """A person's name, of a site that ADNI does not have.

    Args:
        index: From 0, below 9,000.

    Example:
        >>> ptid(3), ptid(1_002)
        ('999_S_9003', '998_S_8002')
    """
    thousands = 9 - index // 1000
    return f"{990 + thousands}_S_{thousands}{index % 1000:03d}"


def image_path(subject: str, modality: str, description: str, day: dt.date, uid: int) -> Path:
    """Where the archive puts an image, below the folder of a download."""
    folder = description.replace("; ", "__").replace(" ", "_")
    kind = "PT" if modality == "PET" else "MR"
    file = f"ADNI_{subject}_{kind}_{folder}_Br_{day:%Y%m%d}093000000_S{uid % 1_000_000}_I{uid}.nii"
    return Path("ADNI", subject, folder, f"{day:%Y-%m-%d}_09_30_00.0", f"I{uid}", file)
