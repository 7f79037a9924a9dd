"""Tables of one's own: columns by name, labels of every kind, splits, and what is left out by name and count."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from own_data import picture, pictures, table, task, two_classes, volume

from medgraft.benchmarks.cohorts.own.data import OWN_SUBJECT
from medgraft.errors import ConfigError, DataError, UnknownNameError
from medgraft.modality import find_modality


def split_of(data):
    """Split of each sample."""
    where = np.empty(len(data.targets), object)
    for name, index in data.splits.items():
        where[index] = name
    return where


@pytest.mark.parametrize("image", ["image", "Path", "file", "File Name", "filepath"])
@pytest.mark.parametrize("label", ["label", "Diagnosis", "target", "dx"])
@pytest.mark.parametrize("subject", ["patient", "Subject ID", "id"])
def test_columns_are_found_by_their_names(tmp_path, image, label, subject):
    columns = {
        image: pictures(tmp_path, 12),
        label: ["ab"[k % 2] for k in range(12)],
        subject: [k // 2 for k in range(12)],
    }
    path = table(tmp_path, columns | {"age": range(12)})
    settled = task().settled(path)
    assert (settled.config.image, settled.config.label, settled.config.subject) == (image, (label,), subject)
    assert (settled.objective, settled.inputs, settled.primary) == ("multiclass", ("image",), "auc_macro")
    data = settled.load(path).check()
    assert data.classes == ("a", "b") and data.provenance["attributes"] == ["age"] and data.provenance["notes"] == []
    raw = data.inputs["image"]
    find_modality("image").check(raw.read(3))
    assert len(set(data.subjects)) == 6


def test_a_settled_task_reads_what_it_was_settled_on(tmp_path):
    path = two_classes(tmp_path, text=[f"words {k}" for k in range(12)], patient=range(12))
    settled = task().settled(path)
    again = task(**settled.config.model_dump()).settled(path)
    assert settled.config == again.config and settled.inputs == ("image", "text")
    first, second = (each.load(path).check() for each in (settled, task()))
    assert first.split_hash() == second.split_hash()


def test_an_option_says_otherwise(tmp_path):
    path = two_classes(tmp_path, grade=[k % 3 for k in range(12)], text=["x"] * 12)
    settled = task(label=("GRADE",), inputs=("image",)).settled(path)
    assert settled.config.label == ("grade",) and settled.inputs == ("image",)
    assert settled.load(path).classes == ("0", "1", "2")
    with pytest.raises(UnknownNameError, match=r"unknown column for table.label 'graed'; did you mean grade"):
        task(label=("graed",)).settled(path)


def test_every_image_is_its_own_subject_and_it_is_said(tmp_path):
    data = task().load(two_classes(tmp_path)).check()
    assert len(set(data.subjects)) == 12 and OWN_SUBJECT in data.provenance["notes"]


def test_patients_may_stand_in_the_names_of_files(tmp_path):
    names = [str(picture(tmp_path / f"sub-{k // 2:02d}_{k % 2}.png", k).name) for k in range(12)]
    path = table(tmp_path, {"file": names, "label": [k // 2 % 2 for k in range(12)]})
    data = task(subject_pattern=r"sub-\d+").load(path).check()
    assert sorted(set(data.subjects)) == [f"sub-{k:02d}" for k in range(6)]
    with pytest.raises(ConfigError, match="no regular expression"):
        task(subject_pattern="(")
    with pytest.raises(DataError, match="'pat' is in no name of a file"):
        task(subject_pattern="pat").load(path)


def test_labels_joined_by_bars(tmp_path):
    words = ["x|y", "y", "x", "none", " y | x ", None] * 4
    data = task().load(table(tmp_path, {"image": pictures(tmp_path, 24), "label": words})).check()
    assert data.classes == ("none", "x", "y") and len(data.targets) == 20
    assert {tuple(row) for row in data.targets} == {(0, 1, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0)}
    assert data.provenance["reader"]["skipped"] == {"no label": 4}


def test_labels_in_columns_of_their_own(tmp_path):
    columns = {"mass": [1, 0, None, 1] * 6, "edema": [0, "1", 1, None] * 6}
    path = table(tmp_path, {"image": pictures(tmp_path, 24), **columns})
    with pytest.raises(DataError, match=r"several of 0 and 1, such as mass, edema: --set table.label=A,B"):
        task().settled(path)
    settled = task(label=("mass", "edema")).settled(path)
    data = settled.load(path).check()
    assert settled.objective == "multilabel" and data.classes == ("mass", "edema")
    assert data.mask is not None and (~data.mask).sum() == 12
    with pytest.raises(DataError, match=r"column 'image' holds .*; a label in a column of its own is 0, 1 or blank"):
        task(label=("mass", "image")).settled(path)


def test_numbers_are_predicted_and_few_whole_ones_are_classes(tmp_path):
    ages = [50.5 + k for k in range(23)] + [None]
    path = table(tmp_path, {"image": pictures(tmp_path, 24), "target": ages, "stage": [0, 1, 2, 3] * 6})
    settled = task().settled(path)
    data = settled.load(path).check()
    assert (settled.objective, settled.primary) == ("regression", "mae") and data.classes == ()
    assert data.targets.dtype == np.float64 and set(data.targets) == set(ages[:-1])
    assert task(label=("stage",)).settled(path).objective == "multiclass"
    assert task(label=("stage",), objective="regression").load(path).targets.dtype == np.float64


def test_times_may_be_censored(tmp_path):
    columns = {"image": pictures(tmp_path, 24), "time": [k - 1.0 for k in range(24)], "event": ["yes", "no", None] * 8}
    path = table(tmp_path, columns)
    settled = task().settled(path)
    data = settled.load(path).check()
    assert (settled.objective, settled.config.time, settled.config.label) == ("survival", "time", ("none",))
    assert set(data.columns["event"]) == {0.0, 1.0} and data.targets.min() > 0
    assert data.provenance["reader"]["skipped"] == {"no time above 0": 2, "event unknown": 8}


def test_texts_alone_are_samples(tmp_path):
    texts = [f"note {k}" if k else " " for k in range(20)]
    path = table(tmp_path, {"report": texts, "label": ["ab"[k % 2] for k in range(20)]})
    settled = task().settled(path)
    data = settled.load(path).check()
    assert settled.inputs == ("text",) and data.inputs["text"].read(0) == "note 1"
    assert data.provenance["reader"]["skipped"] == {"no text": 1}


def test_volumes_and_one_among_images(tmp_path):
    names = [volume(tmp_path / f"v{k}.nii.gz", k).name for k in range(20)]
    names[4] = picture(tmp_path / "x.png").name
    path = table(tmp_path, {"scan": names, "label": ["ab"[k % 2] for k in range(20)], "patient": range(20)})
    settled = task().settled(path)
    data = settled.load(path).check()
    assert settled.inputs == ("volume",) and data.provenance["reader"]["skipped"] == {"an image among volumes": 1}
    raw = data.inputs["volume"].read(0)
    find_modality("volume").check(raw)
    assert raw.spacing == (2.0, 2.0, 2.0)


def test_as_many_images_as_volumes_are_not_chosen_between(tmp_path):
    names = pictures(tmp_path, 6) + [volume(tmp_path / f"v{k}.nii", k).name for k in range(6)]
    path = table(tmp_path, {"file": names, "label": ["ab"[k % 2] for k in range(12)]})
    with pytest.raises(DataError, match=r"names 6 images and 6 volumes; say which are meant: --set table.inputs=image"):
        task().settled(path)
    assert task(inputs=("volume",)).settled(path).inputs == ("volume",)


def test_the_splits_of_the_table_are_kept(tmp_path):
    words = ["Training"] * 12 + ["valid"] * 4 + ["TEST"] * 6 + [None] * 2
    path = two_classes(tmp_path, 24, Split=words, patient=range(24))
    data = task().load(path).check()
    assert {name: len(index) for name, index in data.splits.items()} == {"train": 12, "val": 4, "test": 6}
    assert data.provenance["split_by"] == "the data" and data.provenance["reader"]["skipped"] == {"no split named": 2}


def test_validation_is_taken_from_training_subjects(tmp_path):
    patients = [k // 2 for k in range(40)]
    path = two_classes(tmp_path, 40, split=["train"] * 30 + ["test"] * 10, patient=patients)
    data = task(val_fraction=0.2).load(path).check()
    assert len(data.splits["test"]) == 10 and 0 < len(data.splits["val"]) < len(data.splits["train"])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["train"] * 6 + ["fold 2"] * 6, "says 'fold 2'; a split is train, val or test; leave the column out"),
        (["train"] * 6 + ["val"] * 6, "column 'split' has no row for test"),
    ],
)
def test_splits_that_say_something_else(tmp_path, words, problem):
    path = two_classes(tmp_path, split=words)
    with pytest.raises(DataError, match=problem):
        task().settled(path)
    assert task(split="none").load(path).check().provenance["split_by"] == "subject"


def test_a_patient_in_two_splits_is_refused_or_left_out(tmp_path):
    patients = [k // 2 for k in range(24)]
    patients[23] = 0
    path = two_classes(tmp_path, 24, split=["train"] * 12 + ["val"] * 4 + ["test"] * 8, patient=patients)
    with pytest.raises(
        DataError, match=r"1 subject, or a file of one, is in two splits, which leaks; --set table.shared=drop"
    ):
        task().settled(path)
    data = task(shared="drop").load(path).check()
    assert list(data.provenance["reader"]["skipped"].values()) == [2] and len(data.splits["train"]) == 10


def test_equal_files_are_never_parted(tmp_path):
    path = two_classes(tmp_path, 24)
    for k in range(0, 24, 2):  # each pair of rows has one content and two names
        (tmp_path / f"x{k + 1}.png").write_bytes((tmp_path / f"x{k}.png").read_bytes())
    frame = pd.read_csv(path)
    frame["label"] = ["ab"[k // 2 % 2] for k in range(24)]
    frame.to_csv(path, index=False)
    data = task().load(path).check()
    where = split_of(data)
    assert all(where[k] == where[k + 1] for k in range(0, 24, 2)) and len(set(data.subjects)) == 12
    frame["split"] = ["train"] * 15 + ["test"] * 9
    frame.to_csv(path, index=False)
    with pytest.raises(DataError, match="a file of one, is in two splits"):
        task().settled(path)


@pytest.mark.parametrize("header", [["label", "diagnosis"], ["image", "path"]])
def test_two_columns_that_could_be_it_are_not_chosen_between(tmp_path, header):
    path = two_classes(tmp_path, **{header[1]: ["q"] * 12})
    with pytest.raises(DataError, match=f"{header[0]} and {header[1]} could both be the {header[0]}; say which: --set"):
        task().settled(path)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"a": [1, 2], "b": ["x", "y"]}, "no column is called label, diagnosis or target"),
        ({"label": ["x", "y"], "b": [3, 4]}, "no column of files or texts that is known by its name"),
        ({"label": [f"text {k}" for k in range(5000)], "text": ["x"] * 5000}, "5,000 different values in 5,000 rows"),
        ({"label": ["x"] * 9, "text": ["x"] * 9}, "every row has the label 'x'; there is nothing to tell apart"),
        ({"label": [None] * 9, "text": ["x"] * 9}, "column 'label' is empty in every row"),
        ({"label": ["x", "y"], "text": ["x", "z"]}, "fewer than 2 of the classes x, y have 3 subjects"),
        ({"label": ["x", "y"], "path": ["no.png", "none.png"]}, "none of the 2 files .* is there, such as 'no.png'"),
        ({"label": ["x", "y"], "path": ["no.docx", "none.docx"]}, "none of the 2 files"),
        ({"label": [], "text": []}, "has a header and no row"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, columns, problem):
    with pytest.raises(DataError, match=problem):
        task().settled(table(tmp_path, columns))


def test_rows_are_left_out_by_name_and_count(tmp_path):
    path = two_classes(tmp_path, 24, patient=[None, *range(1, 24)])
    frame = pd.read_csv(path)
    frame.loc[1, "label"], frame.loc[2, "label"], frame.loc[3, "image"] = None, "rare", "gone.png"
    frame.loc[4, "image"] = None
    (tmp_path / "notes.txt").write_text("no image")
    frame.loc[5, "image"] = "notes.txt"
    frame.to_csv(path, index=False)
    assert task().load(path).check().provenance["reader"]["skipped"] == {
        "no label": 1,
        "no patient": 1,
        "no such file": 1,
        "no file named": 1,
        "a file that is no image": 1,
        "class 'rare', which 1 of the subjects has": 1,
    }


@pytest.mark.parametrize(
    "write",
    [
        str,
        lambda name: name.removesuffix(".png"),
        lambda name: f"./{name}",
        lambda name: f"images\\{name}",
        lambda name: f"D:\\study\\images\\{name}",
        lambda name: f"/home/somebody/study/images/{name}",
        lambda name: f"images/{name.replace(' ', '%20')}",
        lambda name: f"file:///data/images/{name}",
        lambda name: f"../study/images/{name}",
    ],
    ids=["name", "stem", "dot", "backslash", "drive", "elsewhere", "percent", "address", "parent"],
)
def test_files_are_found_however_they_are_written(tmp_path, write):
    names = [f"a film {k}.png" for k in range(12)]
    for k, name in enumerate(names):
        picture(tmp_path / "study" / "images" / name, k)
    path = table(tmp_path / "study", {"path": [write(name) for name in names], "label": ["a", "b"] * 6})
    data = task().load(path).check()
    assert len(data.targets) == 12 and data.provenance["reader"]["skipped"] == {}


def test_two_files_of_a_name_are_not_chosen_between(tmp_path):
    path = table(tmp_path, {"image": ["x", *pictures(tmp_path / "one", 12)], "label": ["a", "b"] * 6 + ["a"]})
    picture(tmp_path / "one" / "x.png"), picture(tmp_path / "two" / "x.png")
    assert task().load(path).check().provenance["reader"]["skipped"] == {"no such file": 1}


def test_the_cell_of_a_broken_file_is_counted(tmp_path):
    path = two_classes(tmp_path)
    (tmp_path / "x4.png").write_bytes(b"\x89PNG no more")
    data = task().load(path).check()
    with pytest.raises(DataError):
        data.inputs["image"].read(4)


def test_the_table_may_be_the_only_one_of_a_folder(tmp_path):
    two_classes(tmp_path)
    assert len(task().load(tmp_path).targets) == 12
    (tmp_path / "other.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"holds 2 tables \(cohort.csv, other.csv\); name one of them"):
        task().load(tmp_path)
    with pytest.raises(DataError, match="does not exist; name a table"):
        task().load(tmp_path / "gone.csv")


def test_other_columns_are_attributes(tmp_path):
    path = two_classes(tmp_path, 24, patient=range(24), sex=["f", "m"] * 12, age=range(24))
    data = task().load(path).check()
    assert list(data.attributes) == ["sex", "age"] and data.attributes["sex"].tolist() == ["f", "m"] * 12
