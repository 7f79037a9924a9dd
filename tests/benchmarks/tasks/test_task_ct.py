"""Tasks on CT volumes: what is read of CT-RATE, RadGenome and M3D, what is left out, and what an encoder sees."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.ct.hounsfield import load_stack, windowed
from medgraft.benchmarks.tasks.ct.ct_rate import CtRate
from medgraft.benchmarks.tasks.ct.m3d import M3dCap, M3dVqa
from medgraft.benchmarks.tasks.ct.questions import CtRateQuestions
from medgraft.benchmarks.tasks.ct.reports import CtRateReports
from medgraft.cohort import write_phantom
from medgraft.encoders.m3d import prepare_volume
from medgraft.encoders.slices import spaced, take_slices
from medgraft.errors import DataError

REPORTS = "dataset/radiology_text_reports/train_reports.csv"


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    root = tmp_path_factory.mktemp("ct") / "cohort"
    write_phantom("ct_rate", root, {"train": 14, "valid": 5, "size": 16, "slices": 8, "seed": 1})
    return root


@pytest.fixture(scope="module")
def m3d(tmp_path_factory):
    root = tmp_path_factory.mktemp("m3d") / "cohort"
    write_phantom("m3d", root, {"train": 5, "validation": 2, "test": 3, "size": 16, "seed": 1})
    return root


@pytest.fixture
def mine(ct, tmp_path):
    return shutil.copytree(ct, tmp_path / "mine")


def edit(root, name, change):
    table = pd.read_csv(root / name)
    change(table).to_csv(root / name, index=False)


def test_labels_are_tested_on_the_published_split(ct):
    data = CtRate().load(ct)
    tested = set(data.subjects[data.splits["test"]])
    assert all(subject.startswith("valid_") for subject in tested)
    assert not tested & set(data.subjects[data.splits["train"]]) | tested & set(data.subjects[data.splits["val"]])
    assert data.targets.shape[1] == len(data.classes) == 18
    assert data.given_test and data.phantom
    volume = data.inputs["volume"].read(0)
    assert volume.shape == (16, 16, 8)
    assert 0 <= volume.min() < 0.1 and volume.max() <= 1
    everything = CtRate(CtRate.Config(reconstructions="all")).load(ct)
    assert len(everything.subjects) > len(data.subjects)


def test_windows_are_those_that_were_published():
    hu = spaced(np.linspace(-1100, 3000, 4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6), (1, 1, 2))
    clipped = np.asarray(windowed(hu, "ct_clip"))
    assert clipped.min() == -1 and clipped.max() == 1
    assert np.asarray(windowed(hu, "hu")) == pytest.approx((np.clip(hu, -1000, 1000) + 1000) / 2000)
    assert windowed(hu, "lung").spacing == (1, 1, 2)
    m3d = windowed(hu, "m3d")
    assert m3d.shape == (256, 256, 32) and m3d.min() >= 0 and m3d.max() <= 1
    assert np.array_equal(np.asarray(m3d).T, prepare_volume(np.asarray(hu).T, (32, 256, 256))[0].numpy())


def test_reports_come_with_what_is_true(ct):
    data = CtRateReports().load(ct).check()
    truths = [json.loads(text) for text in data.columns["truth"]]
    assert all(len(truth) >= 19 for truth in truths)
    assert len(set(data.columns["prompt"])) == 1
    both = CtRateReports(CtRateReports.Config(parts="both")).load(ct)
    assert len(both.columns["reference"][0]) > len(data.columns["reference"][0])


def test_what_cannot_be_learned_from_is_left_out_and_counted(mine):
    table = pd.read_csv(mine / REPORTS)
    table = table[~table["VolumeName"].str.contains("_2.nii")].reset_index(drop=True)
    faults = [
        "Not given.",
        "FINAL REPORT. Electronically signed by ___.",
        "Sin derrame pleural ni neumotórax en el tórax.",
    ]
    for row, text in enumerate(faults):
        table.loc[row, ["Findings_EN", "Impressions_EN"]] = [text, "Not given."]
    gone = table["VolumeName"][4]
    for path in mine.rglob(gone):
        path.unlink()
    (mine / "dataset/metadata/no_chest_train.txt").write_text(f"/x/{table['VolumeName'][5]}\n")
    table.loc[6, "VolumeName"] = "scan.nii.gz"
    table.to_csv(mine / REPORTS, index=False)
    counted = CtRateReports().load(mine).provenance["reader"]["skipped"]
    expected = ("text empty", "text is only boilerplate", "text not English", "volume missing", "no name of a volume")
    assert {counted[reason] for reason in expected} == {1}
    assert counted["not a chest, by the published list"] == 1


def test_reports_of_another_language_only_are_refused_in_one_sentence(mine):
    for name in (REPORTS, REPORTS.replace("train_", "validation_")):
        edit(
            mine, name, lambda table: table.assign(Findings_EN="Kein Erguss und keine Stauung, der Befund ist normal.")
        )
    with pytest.raises(DataError, match=r"text not English.*set language: any"):
        CtRateReports().load(mine)


def test_the_corrected_release_is_taken_for_hounsfield_units(mine):
    before = np.asarray(CtRate().load(mine).inputs["volume"].read(0))
    (mine / "dataset/train").rename(mine / "dataset/train_fixed")
    after = np.asarray(CtRate().load(mine).inputs["volume"].read(0))
    assert after.min() > before.min(), "stored values without the intercept are far above air"


@pytest.mark.parametrize("missing", ["dataset/radiology_text_reports", "dataset/multi_abnormality_labels"])
def test_a_copy_without_its_tables_is_refused(mine, missing):
    shutil.rmtree(mine / missing)
    with pytest.raises(DataError, match=missing.split("/")[1]):
        CtRate().load(mine)


def test_questions_ask_for_the_smallest_region_and_have_their_options(mine):
    extra = pd.DataFrame(
        [
            ["train_900001_a_1.nii.gz", anatomy, "mass", "12 mm"]
            for anatomy in ("lung", "lung/lung", "lung/lung/left lung")
        ],
        columns=["Volumename", "Anatomy", "Abnormality", "Size"],
    )
    edit(mine, "dataset/radgenome_files/train_vqa_size.csv", lambda table: pd.concat([table, extra]))
    data = CtRateQuestions().load(mine).check()
    assert "What is the approximate size of the mass in the left lung?" in set(data.columns["prompt"])
    assert data.provenance["reader"]["skipped"]["region around a smaller one"] == 2
    closed = data.columns["kind"] == "closed:presence"
    assert set(data.columns["choices"][closed]) == {'["Yes.", "No."]'}
    answers = dict(zip(data.columns["reference"][closed], data.columns["answer"][closed], strict=True))
    assert answers == {"Yes.": "A", "No.": "B"}
    assert set(data.columns["choices"][~closed]) == {""}


def test_m3d_asks_as_m3d_does(m3d):
    data = M3dVqa().load(m3d).check()
    row = list(data.columns["kind"]).index("closed:plane")
    assert data.columns["prompt"][row].startswith("In which plane is this image displayed? Choices: A. ")
    assert data.columns["reference"][row].startswith(f"{data.columns['answer'][row]}. ")
    options = json.loads(data.columns["choices"][row])
    assert data.columns["reference"][row][3:] == options["ABCD".index(data.columns["answer"][row])]
    assert sum(kind.startswith("open") for kind in data.columns["kind"]) * 2 == len(data.columns["kind"])
    captions = M3dCap().load(m3d).check()
    assert {len(json.loads(text)) >= 19 for text in captions.columns["truth"]} == {True}


def test_an_encoder_of_m3d_sees_the_stored_array(m3d):
    path = next(m3d.rglob("Axial*.npy"))
    stored = np.load(path)
    assert np.array_equal(load_stack(path).T, stored[0])


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((1, 4, 5, 6), np.float32), "same value"),
        (np.full((4, 5, 6), np.nan), "NaN"),
        (np.zeros((2, 4, 5, 6)), "shape"),
        (np.array([{"a": 1}], object), "cannot be read"),
    ],
)
def test_arrays_that_are_no_stacks_are_refused(tmp_path, array, why):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=why):
        load_stack(tmp_path / "x.npy")


def test_paths_that_lead_out_of_the_folder_are_refused(m3d, tmp_path):
    root = shutil.copytree(m3d, tmp_path / "copy")
    listing = root / "M3D_Cap_npy/M3D_Cap.json"
    listed = json.loads(listing.read_text())
    listed["train"][0]["image"] = "../../x.npy"
    listing.write_text(json.dumps(listed))
    with pytest.raises(DataError, match="leads out of"):
        M3dCap().load(root)


def test_more_slices_than_positions_are_bounded():
    volume = np.random.default_rng(0).random((6, 7, 400), np.float32)
    assert len(take_slices(volume, 2, 8, None)) == 8
    assert len(take_slices(spaced(volume, (1, 1, 1)), 2, 8, 5.0)) == 8
    assert prepare_volume(volume.T, (32, 16, 16)).shape == (1, 32, 16, 16)
