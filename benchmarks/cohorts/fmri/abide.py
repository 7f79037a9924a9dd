"""ABIDE I as the Preprocessed Connectomes Project distributes it and nilearn's ``fetch_abide_pcp`` lays it out.

``ABIDE_pcp/Phenotypic_V1_0b_preprocessed1.csv`` and, below a folder of the pipeline and one of the strategy (such as
``cpac/nofilt_noglobal``), ``<FILE_ID>_func_preproc.nii.gz``, ``<FILE_ID>_func_mask.nii.gz`` where it was fetched, and
series by region ``<FILE_ID>_rois_cc200.1D``. ``DX_GROUP`` is 1 for autism and 2 for controls, ``SEX`` 1 for male, and
-9999 means missing (Cameron et al., "The Neuro Bureau Preprocessing Initiative", Frontiers in Neuroinformatics, 2013).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.files.walking import walk
from medgraft.benchmarks.cohorts.fmri.table import RestTable, table_of
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, read_table
from medgraft.errors import DataError

PHENOTYPES = re.compile(r"Phenotypic_V1_0b.*\.csv", re.IGNORECASE)
NAMED = re.compile(r"(?P<id>.+)_(?P<what>func_preproc\.nii(?:\.gz)?|func_mask\.nii(?:\.gz)?|rois_[a-z0-9]+\.1D)")
GROUPS, SEXES = {1: "autism", 2: "control"}, {1: "M", 2: "F"}
REGIONS = "rois_cc200.1D"
MISSING = -9999


def find_phenotypes(root: Path) -> Path | None:
    """The table of people, in a folder, in ``ABIDE_pcp`` in it, or one level above; ``None`` where there is none."""
    for folder in (root, root / "ABIDE_pcp", root.parent):
        found = sorted(path for path in folder.glob("*.csv") if PHENOTYPES.fullmatch(path.name))
        if found:
            return found[0]
    return None


def read_abide(root: Path) -> RestTable:
    """Reads a copy.

    Args:
        root: ``ABIDE_pcp``, the folder that holds it, or the folder of one pipeline and strategy in it.

    Raises:
        DataError: There is no table of people, no run, or runs of more than one pipeline or strategy.
    """
    place = find_phenotypes(root)
    if place is None:
        raise DataError(f"{root} has no Phenotypic_V1_0b_preprocessed1.csv; nilearn's fetch_abide_pcp puts it there")
    people = read_table(place, ("FILE_ID", "SITE_ID", "DX_GROUP", "SEX", "AGE_AT_SCAN"))
    report, files = ReadReport(), _files(root)
    rows: list[dict[str, object]] = []
    seen: set[str] = set()
    for person in people.to_dict("records"):
        name = str(person["FILE_ID"]).strip()
        if name in ("", "nan", "no_filename"):
            report.skip("a person without a FILE_ID")
        elif name in seen:
            report.skip("a further row of a FILE_ID", name)
        elif "func_preproc" not in files.get(name, {}):
            report.skip("a person of the table without a run", name)
        else:
            rows.append(_row(name, person, files[name]))
        seen.add(name)
    if strangers := len({name for name, there in files.items() if "func_preproc" in there} - seen):
        report.skip("a run without a row in the table", count=strangers)
    if not rows:
        why = ", ".join(f"{count} x {reason}" for reason, count in report.skipped.items()) or "the table is empty"
        raise DataError(f"{root} has no <FILE_ID>_func_preproc.nii.gz of a person of {place.name} ({why})")
    return table_of(rows, report, "abide", root)


def _files(root: Path) -> dict[str, dict[str, str]]:
    """FILE_ID -> ``func_preproc``, ``func_mask`` and the table of regions -> path."""
    found: dict[str, dict[str, str]] = {}
    homes: set[str] = set()
    for here in walk(root):
        for name in here.files:
            match = NAMED.fullmatch(name)
            if match is None:
                continue
            what = match["what"].partition(".nii")[0]
            if what == "func_preproc":
                homes.add(here.inside)
            found.setdefault(match["id"], {}).setdefault(what, f"{here.path}/{name}")
    if len(homes) > 1:
        names = ", ".join(sorted(homes)[:4])
        raise DataError(f"{root} holds runs of {len(homes)} pipelines or strategies ({names}); name the folder of one")
    return found


def _row(name: str, person: dict[Any, Any], files: dict[str, str]) -> dict[str, object]:
    regions = files.get(REGIONS) or next((path for what, path in sorted(files.items()) if what.endswith(".1D")), "")
    age = _number(person["AGE_AT_SCAN"])
    site = str(person["SITE_ID"]).strip()
    return {
        "subject": name,
        "image": files["func_preproc"],
        "mask": files.get("func_mask", ""),
        "confounds": "",
        "regions": regions,
        "step": 0.0,
        "dx": GROUPS.get(_whole(person["DX_GROUP"])),
        "sex": SEXES.get(_whole(person["SEX"])),
        "age": age if age > 0 else np.nan,
        "site": None if site in ("", "nan", str(MISSING)) else site,
    }


def _number(value: Any) -> float:
    number: Any = pd.to_numeric(value, errors="coerce")
    return float(number)


def _whole(value: Any) -> int:
    number = _number(value)
    return int(number) if np.isfinite(number) and number == int(number) else MISSING
