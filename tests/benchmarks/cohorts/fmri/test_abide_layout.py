"""ABIDE's table and files: what becomes a sample, and what is counted and left out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.files.made_up import made_up_paths
from medgraft.benchmarks.cohorts.fmri.abide import read_abide
from medgraft.benchmarks.tasks.fmri.abide import Abide, AbideAge
from medgraft.errors import DataError
from medgraft.testing.phantoms import small_phantom

TABLE = "Phenotypic_V1_0b_preprocessed1.csv"
HOME = Path("cpac") / "nofilt_noglobal"


def made(task: Any, **options: Any) -> Any:
    """A task with options."""
    return task(task.Config(**options))


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(small_phantom("abide"), tmp_path / "ABIDE_pcp"))


def changed(folder: Path, **columns) -> None:
    table = pd.read_csv(folder / TABLE, index_col=0)
    for name, values in columns.items():
        for row, value in values.items():
            table[name] = table[name].astype(object)
            table.loc[row, name] = value
    table.to_csv(folder / TABLE)


@pytest.mark.parametrize("inside", ["", "ABIDE_pcp"])
def test_a_copy_is_read_from_its_folder_or_the_one_above(folder, inside):
    table = read_abide(folder if not inside else folder.parent)
    first = table.frame.iloc[0]
    assert len(table.frame) == 48 and table.layout == "abide" and not table.report.skipped
    assert (first["dx"], first["sex"], first["site"]) == ("control", "M", "SITE1") and 7 <= first["age"] <= 40
    assert Path(first["mask"]).is_file() and first["regions"].endswith("_rois_cc200.1D")
    assert set(table.frame["dx"].value_counts()) == {24}


def test_people_without_runs_and_runs_without_people_are_counted(folder):
    runs = sorted((folder / HOME).glob("*_func_preproc.nii.gz"))
    runs[0].unlink()
    runs[1].rename(runs[1].with_name("Elsewhere_0000001_func_preproc.nii.gz"))
    changed(folder, FILE_ID={5: "no_filename"})
    report = read_abide(folder).report
    assert report.used == 45
    assert report.skipped == {
        "a person of the table without a run": 2,
        "a person without a FILE_ID": 1,
        "a run without a row in the table": 2,
    }


def test_missing_facts_are_missing_and_no_numbers(folder):
    changed(folder, AGE_AT_SCAN={0: -9999}, SEX={1: -9999}, DX_GROUP={2: -9999}, SITE_ID={3: None})
    frame = read_abide(folder).frame.set_index("subject")
    assert np.isnan(frame.loc["Site1_0090000", "age"]) and frame.loc["Site2_0090001", "sex"] is None
    assert frame.loc["Site3_0090002", "dx"] is None and frame.loc["Site1_0090003", "site"] is None
    data = made(Abide, baseline=False).load(folder)
    assert data.provenance["left_out"] == {"no diagnosis of the task": 1} and len(data.targets) == 47
    age = made(AbideAge, baseline=False).load(folder)
    assert age.provenance["left_out"] == {"no age": 1} and np.isfinite(age.targets).all()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda root: (root / TABLE).unlink(), r"has no Phenotypic_V1_0b_preprocessed1\.csv"),
        (lambda root: shutil.rmtree(root / "cpac"), "has no <FILE_ID>_func_preproc"),
        (lambda root: shutil.copytree(root / HOME, root / "cpac" / "filt_global"), "2 pipelines or strategies"),
        (lambda root: changed(root, DX_GROUP=dict.fromkeys(range(48), 2)), "no run is of autism"),
    ],
)
def test_what_is_no_copy_is_refused_in_a_sentence(folder, spoil, why):
    spoil(folder)
    with pytest.raises(DataError, match=why) as error:
        Abide().load(folder)
    assert "\n" not in str(error.value)


def test_a_phantom_is_known_without_its_marker(folder):
    (folder / "PHANTOM").unlink()
    data = made(Abide, baseline=False).load(folder)
    assert data.phantom and "bayes_f1_macro" not in data.provenance
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.gz")]
    assert made_up_paths("abide", files)
    assert not made_up_paths("abide", [*files, "cpac/nofilt_noglobal/Pitt_0050003_func_preproc.nii.gz"])


def test_other_regions_are_another_revision_of_the_data(folder):
    before = Abide().load(folder)
    series = next((folder / HOME).glob("*.1D"))
    series.write_text(series.read_text().replace("6", "7"))
    after = Abide().load(folder)
    assert before.also_read != after.also_read
    one, other = (data.provenance["table_baselines"]["functional connectivity"] for data in (before, after))
    assert one["fields"] == other["fields"]


def test_sex_is_no_baseline_of_sex():
    for target, named in (("sex", "age"), ("diagnosis", "age, sex")):
        data = made(Abide, target=target).load(small_phantom("abide"))
        assert list(data.provenance["table_baselines"]) == [named, "functional connectivity"]
        assert data.classes == (("F", "M") if target == "sex" else ("control", "autism"))
