"""A folder for each class, below folders for the splits or not."""

from __future__ import annotations

import os

import pytest
from own_data import picture, volume

from medgraft.benchmarks.tasks.own.folder import Folder
from medgraft.errors import DataError
from medgraft.options import checked


def folder(**options) -> Folder:
    return Folder(checked(Folder.Config, options, "options"))


def fill(root, classes, count=8, start=0):
    for c, name in enumerate(classes):
        for k in range(count):
            picture(root / name / f"{k}.png", start + 100 * c + k)


def test_names_of_folders_are_the_classes(tmp_path):
    fill(tmp_path, ["b", "a", "c/deeper"])
    data = folder().settled(tmp_path).load(tmp_path).check()
    assert data.classes == ("a", "b", "c") and len(data.targets) == 24 and data.provenance["split_by"] == "subject"


def test_folders_of_splits_are_kept_and_may_be_passed_over(tmp_path):
    fill(tmp_path / "Training", ["a", "b"])
    fill(tmp_path / "Testing", ["a", "b"], 5, start=1000)
    data = folder().load(tmp_path).check()
    assert {name: len(index) for name, index in data.splits.items()} == {"train": 14, "val": 2, "test": 10}
    again = folder(split="none").load(tmp_path).check()
    assert again.provenance["split_by"] == "subject" and len(again.targets) == 26


def test_a_download_within_a_folder_is_looked_into(tmp_path):
    fill(tmp_path / "download" / "data", ["a", "b"])
    assert folder().load(tmp_path).classes == ("a", "b")


def test_loose_files_are_counted(tmp_path):
    fill(tmp_path, ["a", "b"])
    picture(tmp_path / "overview.png", 5000)
    assert folder().load(tmp_path).provenance["reader"]["skipped"] == {"no label": 1}


def test_volumes(tmp_path):
    for k in range(12):
        volume(tmp_path / "ab"[k % 2] / f"{k}.nii.gz", k)
    assert folder().settled(tmp_path).inputs == ("volume",)


def test_links_that_lead_round_are_not_followed(tmp_path):
    fill(tmp_path, ["a", "b"])
    os.symlink(tmp_path, tmp_path / "a" / "again")
    os.symlink(tmp_path / "b", tmp_path / "a" / "b")
    assert len(folder().load(tmp_path).targets) == 16


@pytest.mark.parametrize(
    ("classes", "problem"), [([], "holds no image and no volume"), (["a"], "has 'a' class with images; two folders")]
)
def test_folders_without_two_classes(tmp_path, classes, problem):
    fill(tmp_path, classes)
    with pytest.raises(DataError, match=problem):
        folder().settled(tmp_path)


def test_images_without_folders(tmp_path):
    for k in range(6):
        picture(tmp_path / f"{k}.png", k)
    with pytest.raises(DataError, match="holds 6 images and no folder for each class; put them into folders"):
        folder().settled(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        folder().settled(picture(tmp_path / "x.png"))
