"""Hand-made OASIS folders with empty or tiny images, after the published layouts; nothing of the phantom's writer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def row1(name: str, cdr: Any = 0, **other: Any) -> dict[str, Any]:
    """A row of OASIS-1's table; ``name`` as ``0001_MR1``."""
    whole = {"ID": f"OAS1_{name}", "M/F": "F", "Hand": "R", "Age": 74, "Educ": 2, "SES": 3, "MMSE": 29, "CDR": cdr,
             "eTIV": 1344, "nWBV": 0.743, "ASF": 1.306, "Delay": None}  # fmt: skip
    return whole | other


def row2(subject: str, visit: int, cdr: Any, group: str | None, **other: Any) -> dict[str, Any]:
    """A row of OASIS-2's table."""
    whole = {"Subject ID": f"OAS2_{subject}", "MRI ID": f"OAS2_{subject}_MR{visit}", "Group": group, "Visit": visit,
             "MR Delay": 400 * (visit - 1), "M/F": "M", "Hand": "R", "Age": 80, "EDUC": 14, "SES": None, "MMSE": 27,
             "CDR": cdr, "eTIV": 1987, "nWBV": 0.696, "ASF": 0.883}  # fmt: skip
    return whole | other


def visit3(subject: str, day: int, cdr: Any, **other: Any) -> dict[str, Any]:
    """A row of OASIS-3's table of the CDR, as released today."""
    whole = {"OASISID": f"OAS3{subject}", "OASIS_session_label": f"OAS3{subject}_UDSb4_d{day:04d}",
             "days_to_visit": f"{day:04d}", "age at visit": 70 + day / 365.25, "MMSE": 28, "memory": 0, "CDRSUM": 0,
             "CDRTOT": cdr, "dx1": "Cognitively normal"}  # fmt: skip
    return whole | other


def write(path: Path, rows: Iterable[Mapping[str, Any]], sep: str = ",") -> Path:
    """A table, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(list(rows)).to_csv(path, index=False, sep=sep, na_rep="n/a" if sep == "\t" else "")
    return path


def touch(path: Path) -> Path:
    """An empty file; readers look at names until a volume is asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def t88(root: Path, name: str, disc: str = "disc1", halves: Sequence[str] = ("hdr", "img"), n: int = 4) -> Path:
    """OASIS-1's image of a session, such as ``0001_MR1``."""
    folder = root / disc / f"OAS1_{name}" / "PROCESSED" / "MPRAGE" / "T88_111"
    for half in halves:
        touch(folder / f"OAS1_{name}_mpr_n{n}_anon_111_t88_masked_gfc.{half}")
    return folder / f"OAS1_{name}_mpr_n{n}_anon_111_t88_masked_gfc.hdr"


def mpr(
    root: Path, name: str, run: int = 1, part: str = "OAS2_RAW_PART1", halves: Sequence[str] = ("hdr", "img")
) -> Path:
    """OASIS-2's scan of a session, such as ``0001_MR1``."""
    folder = root / part / f"OAS2_{name}" / "RAW"
    for half in halves:
        touch(folder / f"mpr-{run}.nifti.{half}")
    return folder / f"mpr-{run}.nifti.hdr"


def t1w(root: Path, subject: str, day: int, run: str = "", anat: str = "anat2") -> Path:
    """OASIS-3's scan of a session."""
    name = f"sub-OAS3{subject}_ses-d{day:04d}{run}_T1w.nii.gz"
    return touch(root / f"OAS3{subject}_MR_d{day:04d}" / anat / name)


def write_nifti(path: Path, image: np.ndarray | None = None) -> Path:
    """A small NIfTI file, or a pair where the name ends in ``.hdr``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4) + 1 if image is None else image
    (nib.Nifti1Pair if path.name.endswith(".hdr") else nib.Nifti1Image)(image, AFFINE).to_filename(path)
    return path


def bids_image(root: Path, participant: str, session: str = "ses-M000", run: str = "") -> Path:
    """An image of Clinica's tree."""
    return touch(root / participant / session / "anat" / f"{participant}_{session}{run}_T1w.nii.gz")
