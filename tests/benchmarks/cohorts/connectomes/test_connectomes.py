"""Connectomes as files: whose they are, what of them cannot be used, and what a regression makes of the phantom."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from medgraft.benchmarks.cohorts.connectomes.reader import read_connectomes, upper, whole
from medgraft.benchmarks.cohorts.connectomes.weights import A_COPY, OTHER_ATLAS, read_weights
from medgraft.benchmarks.phantoms.brain.connectomes import best_scores, write_connectomes
from medgraft.benchmarks.tasks.brain.connectomes import ConnectomeTask
from medgraft.cohort import cohort_class
from medgraft.errors import DataError
from medgraft.modalities.graph import read_graph
from medgraft.task import TaskData


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("connectomes") / "phantom"
    write_connectomes(out, n_subjects=24, regions=8, kinds="both", seed=1)
    return out


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "cohort"))


def load(root: Path, **options: Any) -> TaskData:
    options = {"kinds": ("correlation",), "baseline": False, **options}
    return ConnectomeTask(ConnectomeTask.Config.model_validate(options)).load(root)


def matrix(root: Path, number: int, kind: str = "correlation") -> Path:
    name = f"sub-PHANTOM{number:04d}"
    return root / name / "connectivity" / f"{name}_meas-{kind}_relmat.tsv"


def write(path: Path, values: np.ndarray) -> None:
    np.savetxt(path, values, delimiter="\t")


def people(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "participants.tsv", sep="\t")


# -- whose they are ---------------------------------------------------------------------------------------------------


def test_a_sample_is_what_the_file_says(written):
    data = load(written)
    assert data.inputs["graph"].count == 24 and data.classes == ("AD", "CN") and data.phantom
    for i in (0, 23):
        number = int(data.subjects[i].removeprefix("sub-PHANTOM"))
        np.testing.assert_allclose(data.inputs["graph"].read(i), read_graph(matrix(written, number)), atol=1e-6)
    assert data.provenance["regions"] == 8 and not data.provenance["left_out"]
    assert data.provenance["bayes_f1_macro"] == round(best_scores(("correlation",))["f1_macro"], 4)


def test_kinds_stand_in_the_order_that_is_asked_for(written):
    both = load(written, kinds=("streamlines", "correlation")).inputs["graph"].read(3)
    expected = read_graph([matrix(written, 3, "streamlines"), matrix(written, 3)])
    assert both.shape == (2, 8, 8) and both[0].max() > 10 > 1 > np.abs(both[1]).max()
    np.testing.assert_allclose(both, expected, rtol=1e-5)


def test_several_matrices_ask_for_kinds_and_name_them(written):
    with pytest.raises(DataError, match=r"set kinds to a word .* \(they differ by: correlation, streamlines\)"):
        load(written, kinds=())
    with pytest.raises(DataError, match=r"has the word 'counts', which kinds asks for; words there are: .*streamlines"):
        load(written, kinds=("counts",))


@pytest.mark.parametrize(
    "names",
    [
        "{id}.npy",
        "{id}_fc.csv",
        "functional/{id}.csv",
        "{id}/matrix.tsv",
        "sub-{id}/sub-{id}_relmat.dense.tsv",
        "sub-{id}_ses-01_seg-x_relmat.tsv",
    ],
)
def test_names_of_files_say_whose_they_are(tmp_path, names):
    rng = np.random.default_rng(0)
    ids = ["01", "01_b", "1", "002_S_0295"]
    for name in ids:
        values = rng.random((4, 4))
        path = tmp_path / names.format(id=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, values + values.T)
        else:
            np.savetxt(path, values + values.T, delimiter="," if path.suffix == ".csv" else "\t")
    table = pd.DataFrame({"participant_id": ids, "group": ["a", "b", "a", "b"]})
    table.to_csv(tmp_path / "participants.csv", index=False)
    found = read_connectomes(tmp_path)
    assert sorted(found.frame["subject"]) == sorted(ids)
    for subject, (path,) in zip(found.frame["subject"], found.files, strict=True):
        assert path == tmp_path / names.format(id=subject)
    assert set(found.frame["session"]) == {"01" if "ses-" in names else ""}


def test_other_tables_of_a_person_are_passed_over_where_names_say_relmat(folder):
    (matrix(folder, 0).parent / "sub-PHANTOM0000_scans.tsv").write_text("filename\nx\n")
    (folder / "stranger_relmat.csv").write_text("0,1\n1,0\n")
    found = read_connectomes(folder, kinds=("correlation",))
    assert found.report.skipped == {"matrix of nobody in the table": 1} and len(found.frame) == 24


# -- what cannot be used ----------------------------------------------------------------------------------------------


def _not_square(values: np.ndarray) -> np.ndarray:
    return values[:, :5]


def _asymmetric(values: np.ndarray) -> np.ndarray:
    return values + np.triu(np.ones_like(values), 1)


def _missing(values: np.ndarray) -> np.ndarray:
    values[2, 5] = values[5, 2] = np.nan
    return values


def _fewer(values: np.ndarray) -> np.ndarray:
    return values[:6, :6]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_not_square, "not square"),
        (_asymmetric, "not symmetric"),
        (_missing, "weights that are not finite"),
        (_fewer, OTHER_ATLAS),
    ],
)
def test_a_matrix_that_is_none_is_left_out_and_counted(folder, spoil, reason):
    write(matrix(folder, 5), spoil(np.loadtxt(matrix(folder, 5), delimiter="\t")))
    data = load(folder)
    assert data.provenance["left_out"] == {reason: 1}
    assert len(data.targets) == 23 and "sub-PHANTOM0005" not in set(data.subjects)


def test_a_text_and_a_matrix_of_two_people_are_left_out(folder):
    matrix(folder, 2).write_text("0\tx\ny\t0\n")
    shutil.copy(matrix(folder, 7), matrix(folder, 8))
    data = load(folder)
    assert data.provenance["left_out"] == {"no matrix of weights": 1, A_COPY: 2}
    assert not {"sub-PHANTOM0002", "sub-PHANTOM0007", "sub-PHANTOM0008"} & set(data.subjects)


def test_where_no_matrix_can_be_used_the_first_flaw_is_told(tmp_path):
    (tmp_path / "a.csv").write_text("1,2,3\n4,5,6\n")
    with pytest.raises(DataError, match=r"not one matrix can be used; the first: .*a.csv holds \[1, 2, 3\]"):
        read_weights([(tmp_path / "a.csv",)], ["a"], tmp_path)


def test_people_that_stand_twice_count_once_or_not_at_all(folder):
    table = people(folder)
    changed = table.iloc[[3]].assign(diagnosis="CN")
    pd.concat([table, table.iloc[[1]], changed]).to_csv(folder / "participants.tsv", sep="\t", index=False)
    data = load(folder)
    assert "sub-PHANTOM0003" not in set(data.subjects) and list(data.subjects).count("sub-PHANTOM0001") == 1
    skipped = data.provenance["reader"]["skipped"]
    assert skipped["person twice in the table with different facts; they are not used"] == 1


def test_two_matrices_of_a_kind_are_not_chosen_between(folder):
    shutil.copy(matrix(folder, 4), matrix(folder, 4).with_name("sub-PHANTOM0004_desc-x_meas-correlation_relmat.tsv"))
    matrix(folder, 6).unlink()
    data = load(folder)
    skipped = data.provenance["reader"]["skipped"]
    assert skipped == {"session with more than one matrix of a kind": 1, "session without a matrix of each kind": 1}
    assert len(data.targets) == 22


@pytest.mark.parametrize(
    ("break_it", "options", "said"),
    [
        (lambda root: (root / "participants.tsv").unlink(), {}, "has no participants.tsv or participants.csv"),
        (
            lambda root: (root / "participants.tsv").write_text("x\ty\n1\t2\n"),
            {},
            "no column participant_id; it has: x, y",
        ),
        (lambda root: None, {"column": "group"}, "has no column group; it has: participant_id"),
        (lambda root: None, {"classes": ("CN", "MCI")}, "no usable connectome is of class MCI"),
        (lambda root: None, {"column": "participant_id"}, "24 different words; name another column"),
        (lambda root: [path.unlink() for path in root.rglob("*relmat.tsv")], {}, "no matrix of each kind of anybody"),
    ],
)
def test_a_folder_that_is_no_such_cohort_is_said_in_a_sentence(folder, break_it, options, said):
    break_it(folder)
    with pytest.raises(DataError, match=said):
        load(folder, **options)


def test_other_classes_are_counted(folder):
    table = people(folder)
    table.loc[0, "diagnosis"] = "MCI"
    table.loc[1, "diagnosis"] = None
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    assert load(folder, classes=("CN", "AD")).provenance["left_out"] == {"no diagnosis of the task": 2}


# -- the phantom ------------------------------------------------------------------------------------------------------


def test_the_triangle_and_the_matrix_are_one():
    weights = np.random.default_rng(0).random((2, 6, 6)).astype(np.float32)
    weights = (weights + weights.swapaxes(1, 2)) * (1 - np.eye(6, dtype=np.float32))
    np.testing.assert_array_equal(whole(upper(weights)), weights)


def test_the_same_arguments_give_the_same_numbers_and_a_larger_cohort_begins_with_the_smaller(written, tmp_path):
    write_connectomes(tmp_path / "more", n_subjects=25, regions=8, kinds="both", seed=1)
    for path in written.rglob("*.tsv"):
        if path.name != "participants.tsv":
            assert path.read_bytes() == (tmp_path / "more" / path.relative_to(written)).read_bytes()


@pytest.mark.parametrize("kinds", [("correlation",), ("correlation", "streamlines")])
def test_the_best_score_is_what_the_rule_reaches_that_knows_the_generator(kinds):
    from medgraft.benchmarks.phantoms.brain.connectomes import DISTANCE

    rng = np.random.default_rng(0)
    ill = rng.random(100_000) < 0.5
    along = sum(DISTANCE[k] * (rng.standard_normal(100_000) + DISTANCE[k] * (ill - 0.5)) for k in kinds)
    found = float(((along > 0) == ill).mean())
    assert best_scores(kinds)["f1_macro"] == pytest.approx(found, abs=0.005)  # a standard error of 0.0013
    d = 2**0.5 * norm.ppf(best_scores(kinds)["auc"])
    assert norm.cdf(d / 2) == pytest.approx(best_scores(kinds)["f1_macro"], abs=1e-9)


def test_a_regression_on_the_triangle_stands_beside_the_rows_and_stays_below_the_best(tmp_path):
    write_connectomes(tmp_path / "c", n_subjects=160, regions=12, kinds="both", seed=2)
    data = load(tmp_path / "c", kinds=("streamlines", "correlation"), baseline=True)
    told = data.provenance["table_baselines"]
    assert told["upper triangle"]["fields"] == ["2 x 66 weights above the diagonal; logarithms of kind 1"]
    value = told["upper triangle"]["auc_macro"][0]
    assert 0.7 < value < best_scores(("correlation", "streamlines"))["auc"] + 0.04  # 48 test people: 0.04 a deviation
    assert set(told) == {"age, sex", "upper triangle"}
    assert data.provenance["bayes_f1_macro"] == round(best_scores(("correlation", "streamlines"))["f1_macro"], 4)
    assert set(load(tmp_path / "c", target="sex").provenance["table_baselines"]) == {"age"}


def test_the_phantom_is_known_by_its_names():
    cohort = cohort_class("connectomes")
    names = ["sub-PHANTOM0001/connectivity/sub-PHANTOM0001_relmat.tsv"]
    assert cohort.made_up(names) and not cohort.made_up([*names, "sub-01/x.tsv"]) and not cohort.made_up([])
