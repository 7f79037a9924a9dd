"""The OASIS phantoms: real layouts, impossible identifiers, same bytes always."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.files.made_up import made_up, made_up_paths
from medgraft.benchmarks.cohorts.plugins.oasis import Oasis
from medgraft.benchmarks.cohorts.volumes.load import is_analyze, load_volume
from medgraft.benchmarks.phantoms.brain.latents import get_setting
from medgraft.benchmarks.phantoms.brain.oasis import subject_sessions, write_oasis
from medgraft.errors import ConfigError

SETTING = get_setting("oasis")
NAMES = {
    (
        "oasis1",
        "archive",
    ): r"disc\d+/(OAS1_9\d{3}_MR[12])/PROCESSED/MPRAGE/T88_111/\1_mpr_n4_.*_t88_masked_gfc\.img",
    ("oasis2", "archive"): r"OAS2_RAW_PART[12]/OAS2_9\d{3}_MR\d/RAW/mpr-1\.nifti\.img",
    ("oasis3", "archive"): r"(OAS39\d{3})_MR_(d\d{4})/anat2/sub-\1_ses-\2_run-01_T1w\.nii\.gz",
    ("oasis1", "bids"): r"(sub-OASIS19\d{3})/ses-M000/anat/\1_ses-M000_T1w\.nii\.gz",
    ("oasis3", "bids"): r"(sub-OAS39\d{3})/(ses-M\d{3})/anat/\1_\2_run-01_T1w\.nii\.gz",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "brain-template"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, template: Path) -> dict[tuple[str, str], Path]:
    home = tmp_path_factory.mktemp("phantoms")
    for study, layout in NAMES:
        write_oasis(home / f"{study}-{layout}", study=study, n_subjects=10, seed=1, spacing=8.0, layout=layout,
                    max_visits=2, cache_dir=template)  # fmt: skip
    return {key: home / "-".join(key) for key in NAMES}


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("key", NAMES)
def test_images_lie_and_are_named_as_the_real_ones(written, key):
    images = [name for name in files(written[key]) if name.endswith((".img", ".nii.gz"))]
    assert images and all(re.fullmatch(NAMES[key], name) for name in images), images
    assert made_up_paths("oasis", files(written[key])) and Oasis.made_up(files(written[key]))
    assert not made_up_paths("oasis", [*files(written[key]), "disc1/OAS1_0001_MR1/x.img"])
    truth = json.loads((written[key] / "truth.json").read_text())
    headers = sorted(re.sub(r"\.img$", ".hdr", name) for name in images)
    assert sorted(row["image"] for row in truth) == headers


@pytest.mark.parametrize(
    ("name", "phantom"),
    [("OAS1_9000", True), ("OAS39999", True), ("OAS2_0186", False), ("OAS31473", False), ("OAS1_0457", False)],
)
def test_identifiers_are_ones_that_no_real_cohort_has(name, phantom):
    assert made_up("oasis", [name]) is phantom


def test_oasis1_is_big_endian_analyze_with_a_trailing_axis(written):
    root = written["oasis1", "archive"]
    path = sorted(root.rglob("*.hdr"))[0]
    assert is_analyze(path) and load_volume(path, analyze=True)[0].max() > 500
    head = np.frombuffer(path.read_bytes()[40:50], ">i2")
    assert head[0] == 4 and head[4] == 1


def test_tables_have_the_columns_of_the_real_ones(written):
    one: Any = pd.read_csv(written["oasis1", "archive"] / "oasis_cross-sectional.csv")
    assert list(one) == ["ID", "M/F", "Hand", "Age", "Educ", "SES", "MMSE", "CDR", "eTIV", "nWBV", "ASF", "Delay"]
    two: Any = pd.read_csv(written["oasis2", "archive"] / "oasis_longitudinal.csv")
    assert list(two) == ["Subject ID", "MRI ID", "Group", "Visit", "MR Delay", "M/F", "Hand", "Age", "EDUC", "SES",
                         "MMSE", "CDR", "eTIV", "nWBV", "ASF"]  # fmt: skip
    assert two.groupby("Subject ID")["Visit"].max().min() >= 2 and (two["MR Delay"][two["Visit"] == 1] == 0).all()
    assert set(one["CDR"].dropna()) <= {0, 0.5, 1, 2} and one.loc[one["CDR"].isna(), "MMSE"].isna().all()
    assert one["nWBV"].between(0.5, 1).all() and (one["eTIV"] * one["ASF"]).between(1750, 1760).all()
    participants = pd.read_csv(written["oasis3", "bids"] / "participants.tsv", sep="\t")
    assert list(participants) == ["participant_id", "age", "sex", "handedness", "education", "apoe"]


def test_a_larger_cohort_begins_with_the_smaller_one_and_jobs_change_nothing(written, tmp_path, template):
    small = tmp_path / "small"
    write_oasis(small, study="oasis3", n_subjects=3, seed=1, spacing=8.0, max_visits=2, jobs=2, cache_dir=template)
    whole = written["oasis3", "archive"]
    images = [name for name in files(small) if name.endswith(("_T1w.nii.gz", "_T1w.json"))]
    assert len(images) >= 6 and all((small / name).read_bytes() == (whole / name).read_bytes() for name in images)


def test_what_is_special_to_each_study_is_there():
    plans = {study: [subject_sessions(SETTING, study, 1, i, max_visits=3) for i in range(150)]
             for study in ("oasis1", "oasis2", "oasis3")}  # fmt: skip
    young = [each for each in plans["oasis1"] if each[0].dx is None]
    assert len(young) == 30 and all(each[0].subject.age < 60 for each in young)
    again = [session for each in plans["oasis1"] for session in each if session.number == 2]
    assert again and all(0 < session.day < 90 for session in again)
    converters = [each for each in plans["oasis2"] if each[0].converts]
    assert converters and all(each[0].rating == 0 < min(s.rating for s in each[1:]) for each in converters)
    assert all(each[1].atrophy[0] > each[0].atrophy[0] + 1 for each in converters), "their brains change too"
    gaps = [abs(s.day - s.clinic_day) for each in plans["oasis3"] for s in each]
    assert max(gaps) > 365 and np.mean([gap == 0 for gap in gaps]) < 0.1
    rated = [session for each in plans["oasis3"] for session in each]
    assert all(({0: (0,), 1: (0.5,), 2: (1, 2)}[s.dx]).count(s.rating) for s in rated if s.dx is not None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"study": "oasis4"}, "study 'oasis4' is unknown; choose oasis1, oasis2, oasis3"),
        ({"study": "oasis2", "layout": "bids"}, "Clinica does not convert OASIS-2"),
        ({"study": "oasis1", "form": "raw"}, "distributes processed images"),
        ({"study": "oasis2", "max_visits": 1}, "oasis2 has 2 to 5 visits"),
        ({"study": "oasis1", "n_subjects": 1001}, "has 1 to 1000 subjects"),
        ({"study": "oasis1", "layout": "loni"}, "choose archive or bids"),
        ({"study": "oasis1", "form": "cooked"}, "choose processed or raw"),
        ({"study": "oasis1", "setting": "pretrain"}, "has no diagnoses"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        write_oasis(tmp_path / "out", **{"n_subjects": 4, "seed": 0, **options})
    assert not (tmp_path / "out").exists()


def test_raw_volumes_lie_as_the_scanner_left_them(tmp_path, template):
    write_oasis(
        tmp_path, study="oasis2", n_subjects=1, seed=0, spacing=8.0, form="raw", max_visits=2, cache_dir=template
    )

    path = sorted(tmp_path.rglob("*.hdr"))[0]
    assert nib.aff2axcodes(nib.Nifti1Pair.from_filename(path).affine) == ("P", "I", "R")
    assert load_volume(path)[0].max() > 100
