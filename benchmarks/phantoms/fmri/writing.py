"""The fMRI phantom as files: ABIDE as nilearn lays it out, or fMRIPrep's derivatives, of any study or of ADNI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from medgraft.benchmarks.phantoms.fmri.images import Made, brain_mask, make_run
from medgraft.benchmarks.phantoms.fmri.people import STEPS, Person, best_scores, people_of
from medgraft.cohort import PHANTOM_MARKER

GENERATOR_VERSION = "rest-1"
Layout = Literal["abide", "fmriprep", "adni"]
EXTENT = 192.0
"""Edge of the image in mm, however many voxels it has."""

SIX = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
SPACE = "space-MNI152NLin2009cAsym_res-2"


def write_rest(
    out: Path,
    *,
    n_subjects: int,
    n_sites: int,
    n_runs: int,
    volumes: int,
    size: int,
    seed: int,
    layout: Layout,
    regions: bool,
) -> None:
    """Writes a cohort and its marker.

    Args:
        out: The folder.
        n_subjects: People.
        n_sites: Sites.
        n_runs: Runs of each; ABIDE's layout has one.
        volumes: Of each run.
        size: Voxels along each axis.
        seed: Defines every file.
        layout: Of the files.
        regions: Write series by region beside ABIDE's runs.
    """
    people = people_of(n_subjects, n_sites, seed)
    out.mkdir(parents=True, exist_ok=True)
    runs = 1 if layout == "abide" else n_runs
    for person in people:
        for run in range(runs):
            made = make_run(person, size, volumes, seed, run)
            if layout == "abide":
                _abide_run(out, person, made, size, regions=regions)
            else:
                _fmriprep_run(out, _parts(person, layout, run if runs > 1 else None), person, made, size)
    {"abide": _abide_table, "fmriprep": _participants, "adni": _merge}[layout](out, people)
    best = best_scores(volumes)
    marker = {
        "generator": GENERATOR_VERSION,
        "seed": seed,
        "config": {
            "n_subjects": n_subjects, "n_sites": n_sites, "n_runs": runs, "volumes": volumes, "size": size,
            "layout": layout, "regions": regions,
        },
        "bayes": {name: round(value, 4) for name, value in best.items()},
        "statement": "generated; no person",
    }  # fmt: skip
    (out / PHANTOM_MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def file_id(person: Person) -> str:
    """Name of a person's files in ABIDE's layout, as no real one is called."""
    return f"Site{person.site + 1}_009{person.number:04d}"


def _save(path: Path, values: Any, size: int, step: float) -> None:
    from nibabel.loadsave import save
    from nibabel.nifti1 import Nifti1Image

    edge = EXTENT / size
    affine = np.diag([edge, edge, edge, 1.0])
    affine[:3, 3] = -EXTENT / 2 + edge / 2
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Nifti1Image(values, affine)
    header: Any = image.header
    header.set_sform(affine, 4)  # MNI
    header["descrip"] = b"phantom; not a person"
    header.set_xyzt_units("mm", "sec")
    if values.ndim == 4:
        header.set_zooms((edge, edge, edge, step))
    save(image, path)


def _abide_run(out: Path, person: Person, made: Made, size: int, *, regions: bool) -> None:
    stem = f"{out / 'cpac' / 'nofilt_noglobal' / file_id(person)}_"
    _save(Path(f"{stem}func_preproc.nii.gz"), made.values, size, STEPS[person.site % len(STEPS)])
    _save(Path(f"{stem}func_mask.nii.gz"), brain_mask(size).astype(np.int16), size, 0)
    if regions:
        names = "#" + "\t#".join(str(k + 1) for k in range(made.regions.shape[1]))
        np.savetxt(f"{stem}rois_cc200.1D", made.regions, fmt="%.4f", delimiter="\t", header=names, comments="")


def _abide_table(out: Path, people: list[Person]) -> None:
    columns = {
        "SUB_ID": [90_000 + person.number for person in people],
        "subject": [90_000 + person.number for person in people],
        "SITE_ID": [f"SITE{person.site + 1}" for person in people],
        "FILE_ID": [file_id(person) for person in people],
        "DX_GROUP": [1 if person.autism else 2 for person in people],
        "DSM_IV_TR": [1 if person.autism else 0 for person in people],
        "AGE_AT_SCAN": [person.age for person in people],
        "SEX": [2 if person.female else 1 for person in people],
        "FIQ": [-9999 for _ in people],
    }
    pd.DataFrame(columns).to_csv(out / "Phenotypic_V1_0b_preprocessed1.csv")


def ptid(person: Person) -> str:
    """A person in ADNI's layout, as no real one is called; see :mod:`medgraft.benchmarks.cohorts.files.made_up`."""
    thousand, number = divmod(person.number, 1000)
    return f"{999 - thousand}_S_{9000 - 1000 * thousand + number}"


def _parts(person: Person, layout: Layout, run: int | None) -> list[str]:
    """Parts of a run's name, the folders that it lies in first."""
    if layout == "adni":
        names = [f"sub-ADNI{ptid(person).replace('_', '')}", "ses-M000"]
    else:
        names = [f"sub-90{person.number:04d}"]
    return [*names, "task-rest", *([] if run is None else [f"run-{run + 1}"])]


def _fmriprep_run(out: Path, parts: list[str], person: Person, made: Made, size: int) -> None:
    stem = "_".join(parts)
    folder = out.joinpath(*(part for part in parts if part.startswith(("sub-", "ses-")))) / "func"
    step = STEPS[person.site % len(STEPS)]
    _save(folder / f"{stem}_{SPACE}_desc-preproc_bold.nii.gz", made.values, size, step)
    _save(folder / f"{stem}_{SPACE}_desc-brain_mask.nii.gz", brain_mask(size).astype(np.int16), size, 0)
    sidecar = {"RepetitionTime": step, "SkullStripped": False, "TaskName": "rest"}
    (folder / f"{stem}_{SPACE}_desc-preproc_bold.json").write_text(json.dumps(sidecar) + "\n")
    table = pd.DataFrame({"framewise_displacement": made.displacement})
    for k, name in enumerate(SIX):
        table[name] = made.motion[:, k]
        table[f"{name}_derivative1"] = np.diff(made.motion[:, k], prepend=np.nan)
    place = folder / f"{stem}_desc-confounds_timeseries.tsv"
    table.to_csv(place, sep="\t", index=False, na_rep="n/a", float_format="%.6f")


def _merge(out: Path, people: list[Person]) -> None:
    """ADNIMERGE, with Alzheimer's disease in the place of autism and ages 48 years higher."""
    columns = {
        "RID": [int(ptid(person)[-4:]) for person in people],
        "PTID": [ptid(person) for person in people],
        "VISCODE": "bl",
        "SITE": [999 - person.site for person in people],
        "EXAMDATE": "2011-05-02",
        "AGE": [round(person.age + 48, 2) for person in people],
        "PTGENDER": ["Female" if person.female else "Male" for person in people],
        "DX": ["Dementia" if person.autism else "CN" for person in people],
        "Month": 0,
    }
    pd.DataFrame(columns).to_csv(out / "ADNIMERGE.csv", index=False)


def _participants(out: Path, people: list[Person]) -> None:
    columns = {
        "participant_id": [f"sub-90{person.number:04d}" for person in people],
        "age": [person.age for person in people],
        "sex": ["F" if person.female else "M" for person in people],
        "group": ["autism" if person.autism else "control" for person in people],
        "site": [f"SITE{person.site + 1}" for person in people],
    }
    pd.DataFrame(columns).to_csv(out / "participants.tsv", sep="\t", index=False)
    facts = {
        "Name": "phantom of fMRIPrep's derivatives; no person",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
    }
    (out / "dataset_description.json").write_text(json.dumps(facts, indent=1) + "\n")
