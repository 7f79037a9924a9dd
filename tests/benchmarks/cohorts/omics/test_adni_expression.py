"""ADNI's blood arrays: what of the tables a row is made of, and what it must not know."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.omics.adni_blood import find_profile, read_profile
from medgraft.benchmarks.phantoms.omics.blood import APOE4, bayes_macro_f1, ptid
from medgraft.benchmarks.tasks.brain.adni_expression import AdniExpression
from medgraft.cohort import cohort_class
from medgraft.errors import DataError
from medgraft.testing.phantoms import small_phantom

PROFILE = "ADNI_Gene_Expression_Profile.csv"


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(small_phantom("adni_expression"), tmp_path / "adni"))


def task(**options) -> AdniExpression:
    return AdniExpression(AdniExpression.Config(**options))


def rows_of(data) -> np.ndarray:
    return np.stack([data.inputs["table"].read(i) for i in range(data.inputs["table"].count)])


def test_a_profile_on_its_side_is_a_row_for_each_person(folder):
    table, samples = read_profile(find_profile(folder))
    assert table.values.shape == (60, 80) and len(set(table.genes)) == 80
    assert list(samples["subject"]) == [ptid(i) for i in range(60)] and samples["rin"].between(6.5, 8.5).all()
    assert table.report.skipped == {"a further column of a gene; the one with the highest mean is kept": 20}


def test_rows_are_scaled_by_training_subjects_alone(folder):
    data = task(genes=30).load(folder)
    rows, train = rows_of(data), data.splits["train"]
    assert rows.shape == (60, 32) and rows.dtype == np.float32
    np.testing.assert_allclose(rows[train].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(rows[train].std(axis=0), 1, atol=1e-4)
    lines = (folder / PROFILE).read_text().splitlines()
    of_test = {3 + int(i) for i in data.splits["test"]}
    moved = [
        ",".join(str(float(cell) * 3) if k in of_test else cell for k, cell in enumerate(line.split(",")))
        if line.split(",")[0].endswith("_at") else line
        for line in lines
    ]  # fmt: skip
    (folder / PROFILE).write_text("\n".join(moved))
    other = rows_of(task(genes=30).load(folder))
    np.testing.assert_array_equal(rows[train], other[train])
    assert not np.allclose(rows[data.splits["test"]], other[data.splits["test"]])


def test_the_genotype_may_be_hidden(folder):
    shown, hidden = rows_of(task().load(folder)), rows_of(task(genotype=False).load(folder))
    assert np.isfinite(shown).all() and np.isnan(hidden[:, -2:]).all()
    np.testing.assert_array_equal(shown[:, :-2], hidden[:, :-2])


def test_without_scores_the_last_number_is_missing_and_the_baseline_says_so(folder):
    (folder / "polygenic_scores.csv").unlink()
    data = task().load(folder)
    assert np.isnan(rows_of(data)[:, -1]).all()
    assert data.provenance["table_baselines"]["APOE, polygenic score"] == {"unavailable": ["prs"]}


def test_the_visits_diagnosis_is_taken_and_what_is_left_out_is_counted(folder):
    data = task(contrast="CN-AD", least_rin=7.0).load(folder)
    assert set(data.provenance["dx_source"]) == {"the sample's visit", "the first visit"}
    left_out = data.provenance["left_out"]
    assert left_out["no diagnosis of the contrast"] > 0 and left_out["RNA integrity too low"] > 0
    assert len(data.targets) + sum(left_out.values()) == 60


def test_a_plain_table_gives_what_the_profile_gives(folder):
    table, samples = read_profile(find_profile(folder))
    before = rows_of(task().load(folder))
    plain = pd.DataFrame(table.values, columns=pd.Index(table.genes), index=pd.Index(samples["subject"], name="PTID"))
    (folder / PROFILE).unlink()
    plain.to_csv(folder / "expression.csv")
    np.testing.assert_allclose(rows_of(task().load(folder)), before, atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda root: (root / PROFILE).unlink(), "holds no table of expression"),
        (lambda root: (root / "ADNIMERGE.csv").unlink(), "no ADNIMERGE"),
        (lambda root: shutil.copy(root / PROFILE, root / f"other_{PROFILE}"), "keep one"),
        (lambda root: (root / PROFILE).write_text("Phase,,,ADNI2\nVisit,,,bl\n"), "no row ProbeSet"),
        (lambda root: (root / PROFILE).write_text("ProbeSet,LocusLink,Symbol,\n1_at,L,G,1\n"), "no row SubjectID"),
    ],
)
def test_what_is_missing_is_named(folder, spoil, why):
    spoil(folder)
    with pytest.raises(DataError, match=why):
        task().load(folder)


def test_another_diagnosis_is_another_revision(folder):
    cohort = cohort_class("adni_expression")()
    before = cohort.revision(folder)
    merge = folder / "ADNIMERGE.csv"
    merge.write_text(merge.read_text().replace("Dementia", "MCI", 1))
    assert cohort.revision(folder) not in ("", before)


def test_the_best_score_is_that_of_the_generators_numbers():
    found = bayes_macro_f1(100_000)
    assert found["genotype"] < found["expression"] < found["both"]
    assert found == pytest.approx({"expression": 0.583, "genotype": 0.433, "both": 0.611}, abs=0.01)
    np.testing.assert_allclose(APOE4.sum(axis=1), 1)
