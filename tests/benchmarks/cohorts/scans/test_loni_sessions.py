"""Sessions of ADNI's archive, by trees made by hand: images of one day, maps of one fit, tracers left open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.scans.fits import newest_fit
from medgraft.benchmarks.cohorts.scans.reader import read_scans
from medgraft.benchmarks.cohorts.scans.table import Scans
from medgraft.benchmarks.phantoms.brain.writing import save_volume

SUBJECT = "002_S_0001"
COREG = "Coreg, Avg, Std Img and Vox Siz, Uniform Resolution"
AN_IMAGE = np.ones((4, 4, 4), np.float32)


class Tree:
    """A download of one person, whose tables are written when it is read."""

    def __init__(self, root: Path) -> None:
        self.root, self.images, self.visits = root, [], []

    def image(self, number: int, modality: str, description: str, day: str, series: int = 0) -> Path:
        name = description.replace(" ", "_").replace(";", "_")
        file = f"ADNI_{SUBJECT}_MR_{name}_S{series or number}_I{number}.nii"
        path = self.root / "ADNI" / SUBJECT / name / f"{day}_09_30_00.0" / f"I{number}" / file
        save_volume(path, AN_IMAGE, np.eye(4))
        of = {"Image Data ID": f"I{number}", "Subject": SUBJECT, "Group": "CN", "Sex": "F", "Age": 70, "Visit": "m06"}
        self.images.append({**of, "Modality": modality, "Description": description, "Acq Date": day})
        return path

    def visit(self, code: str, day: str, dx: str = "", image: int | str = "") -> None:
        of = {"PTID": SUBJECT, "VISCODE": code, "EXAMDATE": day, "DX": dx, "AGE": 70, "PTGENDER": "Female"}
        self.visits.append({**of, "IMAGEUID": image})

    def read(self, tracer: str = "one") -> Scans:
        pd.DataFrame(self.images).to_csv(self.root / "search.csv", index=False)
        pd.DataFrame(self.visits).to_csv(self.root / "ADNIMERGE.csv", index=False)
        return read_scans(self.root, reference="global", tracer=tracer)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


# -- one day, one session ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [10, ""])
def test_images_of_one_day_are_one_session_though_the_visit_has_no_diagnosis(tree, named):
    """Whether ADNIMERGE names the T1 of the visit or leaves it to the date; the label is that of the nearest one."""
    tree.visit("bl", "2012-01-10", "CN")
    tree.visit("m06", "2012-07-10", "", named)
    tree.visit("m12", "2012-09-01", "MCI")
    t1 = tree.image(10, "MRI", "MT1; GradWarp; N3m", "2012-07-12")
    pet = tree.image(11, "PET", COREG, "2012-07-12")
    maps = [tree.image(12 + i, "DTI", f"DTI {name}", "2012-07-12") for i, name in enumerate(("FA", "MD"))]
    later = tree.image(20, "PET", COREG, "2012-09-02")
    scans = tree.read()
    assert scans.frame["session"].tolist() == ["m06", "m12"] and scans.frame["dx"].tolist() == ["MCI", "MCI"]
    assert scans.t1 == [t1, None] and scans.dmri == [tuple(maps), None]
    assert scans.pet == [(pet, None), (later, None)] and not scans.report.skipped


def test_a_day_is_of_the_visit_whose_image_adnimerge_names_on_it(tree):
    """Though another visit's date is nearer."""
    tree.visit("m06", "2012-05-20", "CN", 10)
    tree.visit("m12", "2012-07-20", "AD")
    t1 = tree.image(10, "MRI", "MT1; N3m", "2012-07-12")
    pet = tree.image(11, "PET", COREG, "2012-07-12")
    another = tree.image(12, "PET", COREG, "2012-07-19")
    scans = tree.read()
    assert scans.frame[["session", "dx"]].to_numpy().tolist() == [["m06", "CN"], ["m12", "AD"]]
    assert scans.t1 == [t1, None] and scans.pet == [(pet, None), (another, None)]


def test_a_t1_alone_keeps_its_label(tree):
    tree.visit("m06", "2012-07-10")
    tree.visit("m12", "2012-09-01", "AD")
    tree.image(10, "MRI", "MT1; N3m", "2012-07-12")
    assert tree.read().frame["dx"].tolist() == ["AD"]


# -- maps of one fit --------------------------------------------------------------------------------------------------


def fit_of(*images: tuple[int, str, str, int]) -> list[int] | None:
    """Numbers of the newest fit of images by number, map, description and series."""
    by_map: dict[str, list[dict[str, object]]] = {"FA": [], "MD": []}
    for number, name, description, series in images:
        by_map[name].append({"uid": number, "description": description, "image": f"x_S{series}_I{number}.nii"})
    fit = newest_fit(by_map)
    return None if fit is None else [image["uid"] for image in fit]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([(1, "FA", "DTI FA", 1), (2, "MD", "DTI MD", 2)], [1, 2]),
        ([(1, "FA", "Fractional Anisotropy", 1), (2, "MD", "DTI; Mean Diffusivity", 2)], [1, 2]),
        ([(1, "FA", "DTI FA", 1), (2, "MD", "DTI MD", 1), (3, "FA", "DTI FA", 1), (4, "MD", "DTI MD", 1)], [3, 4]),
        # The newer fit has no MD, so it is none.
        ([(1, "FA", "DTI FA", 1), (2, "MD", "DTI MD", 1), (9, "FA", "DTI FA", 1)], [1, 2]),
        ([(1, "MD", "DTI MD", 1), (8, "FA", "DTI FA", 1), (9, "MD", "DTI MD", 1)], [8, 9]),
        # One processing each, so that nothing belongs together.
        ([(1, "FA", "DTI FA", 1), (2, "MD", "DTI Eddy MD", 1)], None),
        ([(1, "FA", "DTI FA", 1), (2, "MD", "DTI MD", 1), (3, "FA", "DTI Eddy FA", 1)], [1, 2]),
        ([(1, "FA", "DTI Eddy FA", 1), (2, "MD", "DTI MD", 1), (3, "FA", "DTI FA", 1), (4, "MD", "Eddy DTI MD", 1)],
         [2, 3]),
        # Two series: the number in the name tells what the image ids do not.
        ([(1, "FA", "DTI FA", 5), (2, "FA", "DTI FA", 6), (3, "MD", "DTI MD", 5)], [1, 3]),
    ],
)  # fmt: skip
def test_maps_of_one_fit_belong_together_and_the_newest_whole_one_counts(images, expected):
    assert (None if expected is None else sorted(expected)) == (sorted(f) if (f := fit_of(*images)) else None)


def test_maps_of_two_fits_of_a_day_are_not_mixed(tree):
    tree.visit("bl", "2012-01-10", "CN")
    day = "2012-01-10"
    old = [tree.image(10 + i, "DTI", f"DTI {name}", day, series=1) for i, name in enumerate(("FA", "MD"))]
    tree.image(20, "DTI", "DTI Eddy MD", day, series=1)
    scans = tree.read()
    assert scans.dmri == [tuple(old)]
    assert scans.report.skipped == {"diffusion maps: map of another fit of the same scan": 1}
    new = tree.image(21, "DTI", "DTI Eddy FA", day, series=1)
    scans = tree.read()
    assert scans.dmri and scans.dmri[0] and scans.dmri[0][0] == new and "Eddy_MD" in scans.dmri[0][1].name
    assert scans.report.skipped == {"diffusion maps: map of another fit of the same scan": 2}


def test_maps_of_no_whole_fit_count_as_missing(tree):
    tree.visit("bl", "2012-01-10", "CN")
    tree.image(9, "MRI", "MT1; N3m", "2012-01-10")
    tree.image(10, "DTI", "DTI FA", "2012-01-10")
    tree.image(11, "DTI", "DTI Eddy MD", "2012-01-10")
    scans = tree.read()
    assert scans.dmri == [None]
    assert scans.report.notes == {"diffusion maps of different fits; the scan counts as missing": 1}


def test_a_whole_fit_of_a_later_day_of_the_visit_counts(tree):
    tree.visit("bl", "2012-01-10", "CN")
    tree.image(10, "DTI", "DTI FA", "2012-01-10")
    whole = [tree.image(20 + i, "DTI", f"DTI {name}", "2012-01-15") for i, name in enumerate(("FA", "MD"))]
    scans = tree.read()
    assert scans.dmri == [tuple(whole)] and not scans.report.notes


# -- tracers ----------------------------------------------------------------------------------------------------------


def test_any_reads_images_whose_tracer_nothing_tells_and_others_do_not(tree):
    tree.visit("bl", "2012-01-10", "CN")
    tree.visit("m12", "2013-01-10", "CN")
    told = tree.image(10, "PET", COREG, "2012-01-10")
    untold = tree.image(11, "PET", f"XYZ {COREG}", "2013-01-10")
    assert tree.read(tracer="any").pet == [(told, None), (untold, None)]
    scans = tree.read()
    assert scans.pet == [(told, None)]
    assert scans.report.skipped["PET images: PET image whose tracer nothing tells"] == 1


@pytest.mark.parametrize("tracer", ["one", "FDG", "any"])
def test_an_image_that_names_two_tracers_is_left_out_by_name_and_is_not_fdg(tree, tracer):
    tree.visit("bl", "2012-01-10", "CN")
    tree.visit("m12", "2013-01-10", "CN")
    clear = tree.image(10, "PET", COREG, "2012-01-10")
    tree.image(11, "PET", f"{COREG}, AV45 FBB", "2013-01-10")
    scans = tree.read(tracer=tracer)
    assert scans.pet == [(clear, None)]
    assert scans.report.skipped == {"PET image whose tracer is ambiguous, AV45 or FBB": 1}
