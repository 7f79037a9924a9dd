"""T1, PET and diffusion of the same people: layouts, reference regions, maps, and what is missing or damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.scans.dmri import load_maps
from medgraft.benchmarks.cohorts.scans.pet import load_uptake, suvr
from medgraft.benchmarks.cohorts.scans.reader import read_scans
from medgraft.benchmarks.cohorts.scans.table import NO_REFERENCE, confounds
from medgraft.benchmarks.phantoms.brain.scans import (
    COMMON,
    DISTANCE,
    NOISE,
    Painter,
    axial_and_radial,
    best_auc,
    best_retrieval,
    draw_person,
    write_scans,
)
from medgraft.benchmarks.phantoms.brain.writing import save_volume
from medgraft.benchmarks.tasks.brain.scans import BrainScans
from medgraft.benchmarks.tasks.brain.space import BrainSpace
from medgraft.cohort import cohort_class
from medgraft.errors import DataError
from medgraft.task import TaskData
from medgraft.task.names import build_task

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scans") / "phantom"
    write_scans(out, n_subjects=16, size=10, missing=0.25, seed=5)
    return out


@pytest.fixture
def tree(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "scans"))


def file_of(root: Path, pattern: str) -> Path:
    return sorted(root.rglob(pattern))[0]


def volume(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    save_volume(path, values.astype(np.float32), affine)
    return path


# -- uptake -----------------------------------------------------------------------------------------------------------


def test_uptake_is_relative_to_the_mean_of_the_region(tmp_path):
    rng = np.random.default_rng(0)
    image, region = rng.uniform(1, 5, (6, 7, 8)), rng.random((6, 7, 8)) < 0.3
    files = volume(tmp_path / "a_pet.nii.gz", image), volume(tmp_path / "a_mask.nii.gz", region)
    found = load_uptake(*files)
    np.testing.assert_allclose(found, image / image[region].mean(), rtol=1e-5)
    assert found[region].mean() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(load_uptake(volume(tmp_path / "b_pet.nii.gz", 37 * image), files[1]), found, rtol=1e-5)
    np.testing.assert_allclose(load_uptake(files[0], None), image, rtol=1e-6)


def test_a_region_of_an_atlas_is_named_by_its_labels(tmp_path):
    rng = np.random.default_rng(1)
    image, atlas = rng.uniform(1, 5, (5, 5, 5)), rng.integers(0, 4, (5, 5, 5))
    files = volume(tmp_path / "pet.nii.gz", image), volume(tmp_path / "dseg.nii.gz", atlas)
    expected = image / image[(atlas == 2) | (atlas == 3)].mean()
    np.testing.assert_allclose(load_uptake(*files, (2, 3)), expected, rtol=1e-5)
    with pytest.raises(DataError, match="no voxel; check its label"):
        load_uptake(*files, (9,))


@pytest.mark.parametrize(
    ("image", "region", "said"),
    [
        (np.ones((4, 4, 4)), np.ones((4, 4, 5)), r"region is \[4, 4, 5\] and the uptake \[4, 4, 4\]"),
        (np.ones((4, 4, 4)), np.zeros((4, 4, 4)), "has no voxel"),
        (np.zeros((4, 4, 4)), np.ones((4, 4, 4)), "zero in every voxel"),
        (-np.ones((4, 4, 4)), np.ones((4, 4, 4)), "must be above 0"),
        (np.full((4, 4, 4), np.nan), np.ones((4, 4, 4)), "NaN or infinite"),
    ],
)
def test_what_cannot_be_a_ratio_is_refused(tmp_path, image, region, said):
    with pytest.raises(DataError, match=said):
        load_uptake(volume(tmp_path / "pet.nii.gz", image), volume(tmp_path / "mask.nii.gz", region))


def test_a_region_elsewhere_in_space_is_refused(tmp_path):
    shifted = AFFINE.copy()
    shifted[0, 3] = 4
    files = volume(tmp_path / "p.nii", np.ones((4, 4, 4))), volume(tmp_path / "m.nii", np.ones((4, 4, 4)), shifted)
    with pytest.raises(DataError, match="up to 4 mm apart"):
        load_uptake(*files)


def test_an_empty_region_is_refused_without_files():
    with pytest.raises(DataError, match="no voxel"):
        suvr(np.ones((2, 2, 2), np.float32), np.zeros((2, 2, 2), bool))


# -- maps -------------------------------------------------------------------------------------------------------------


def test_maps_stand_side_by_side_in_order(written):
    scans = read_scans(written, maps=("MD", "FA", "RD"))
    files = next(each for each in scans.dmri if each is not None)
    maps = load_maps(files)
    assert maps.shape == (3, 10, 10, 10) and maps.dtype == np.float32
    assert maps[0].max() < 0.01 < maps[1].max() < 1  # mm2/s, and a share
    assert "param-md" in files[0].name and "param-rd" in files[2].name


def test_maps_of_other_shapes_or_places_are_refused(tmp_path):
    first = volume(tmp_path / "fa.nii.gz", np.ones((4, 4, 4)))
    with pytest.raises(DataError, match=r"different shapes: fa.nii.gz \[4, 4, 4\], md.nii.gz \[4, 5, 4\]"):
        load_maps([first, volume(tmp_path / "md.nii.gz", np.ones((4, 5, 4)))])
    with pytest.raises(DataError, match="apart"):
        load_maps([first, volume(tmp_path / "rd.nii.gz", np.ones((4, 4, 4)), 1.5 * AFFINE)])


def test_the_other_spelling_of_a_map_is_known(tree):
    for path in tree.rglob("*_dwimap.nii.gz"):
        kind = path.name.rpartition("param-")[2][:2].upper()
        path.rename(path.with_name(path.name.replace(f"model-tensor_param-{kind.lower()}", f"desc-{kind}")))
    assert sum(each is not None for each in read_scans(tree).dmri) > 5


@pytest.mark.parametrize("kind", ["fa", "ad"])
def test_tensors_have_the_anisotropy_and_the_mean_that_they_were_made_of(kind):
    rng = np.random.default_rng(0)
    fa, md = rng.uniform(0, 0.95, 50), rng.uniform(5e-4, 3e-3, 50)
    along, across = axial_and_radial(fa, md)
    spread = np.sqrt(((along - md) ** 2 + 2 * (across - md) ** 2) * 1.5) / np.sqrt(along**2 + 2 * across**2)
    found = {"fa": (spread, fa), "ad": ((along + 2 * across) / 3, md)}[kind]
    np.testing.assert_allclose(*found, rtol=1e-9)
    assert (across > 0).all()


# -- the tree ---------------------------------------------------------------------------------------------------------


def test_every_file_of_the_phantom_is_found(written):
    scans = read_scans(written)
    for kind, files, pattern in (
        ("T1", scans.t1, "*_T1w.nii.gz"),
        ("PET", scans.pet, "*_pet.nii.gz"),
        ("dMRI", scans.dmri, "*param-fa_dwimap.nii.gz"),
    ):
        there = [each for each in files if each is not None]
        assert len(there) == len(list(written.rglob(pattern))) > 8, kind
        assert len(there) < len(files) or kind == "T1"
    assert {"age", "female", "head size", "site"} == set(confounds(scans.frame)[1])


def test_visits_of_a_person_are_paired_by_their_session(written):
    scans = read_scans(written)
    for i in range(len(scans.frame)):
        stem = f"{scans.frame['subject'][i]}_{scans.frame['session'][i]}"
        files = [scans.t1[i], *(scans.pet[i] or ()), *(scans.dmri[i] or ())]
        assert all(file is None or file.name.startswith(stem) for file in files)


def test_derivatives_come_before_raw_images(tree):
    raw = file_of(tree, "*_T1w.nii.gz")
    better = tree / "derivatives" / "strip" / raw.parent.relative_to(tree) / raw.name.replace("T1w", "desc-brain_T1w")
    better.parent.mkdir(parents=True)
    shutil.copy(raw, better)
    scans = read_scans(tree)
    assert better in scans.t1 and raw not in scans.t1
    assert scans.report.notes["more than one T1 image of a session; the first is used"] == 1


def test_what_is_not_in_the_table_or_lacks_a_part_is_counted(tree):
    people = pd.read_csv(tree / "participants.tsv", sep="\t")
    gone = people["participant_id"][0]
    people[1:].to_csv(tree / "participants.tsv", sep="\t", index=False)
    file_of(tree, "*param-md_dwimap.nii.gz").unlink()
    mask = sorted(tree.rglob("*cerebellum_mask.nii.gz"))[-1]
    mask.unlink()
    scans = read_scans(tree)
    assert gone not in set(scans.frame["subject"])
    assert scans.report.skipped["session of a person who is not in participants.tsv"] >= 1
    assert scans.report.notes[NO_REFERENCE] == 1


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda root: (root / "participants.tsv").unlink(), "no participants.tsv"),
        (lambda root: (root / "participants.tsv").write_text("name\tage\nx\t3\n"), "no column participant_id"),
        (lambda root: [path.unlink() for path in root.rglob("*mask.nii.gz")], "none at all.*reference=none"),
        (lambda root: [path.unlink() for path in root.rglob("*.nii.gz")], "no scan that is named as BIDS"),
        (lambda root: (root / "participants.tsv").write_text("participant_id\nsub-x\n"), "scan of anybody in its"),
    ],
)
def test_a_folder_that_is_no_such_tree_is_said_in_a_sentence(tree, break_it, said):
    break_it(tree)
    with pytest.raises(DataError, match=said):
        read_scans(tree)


def test_a_missing_region_names_those_that_there_are(written):
    with pytest.raises(DataError, match=r"label-pons_mask beside it \(masks there are: cerebellum\)"):
        read_scans(written, reference="pons")
    assert any(each == (each[0], None) for each in read_scans(written, reference="none").pet if each)


# -- the phantom ------------------------------------------------------------------------------------------------------


def test_the_same_arguments_give_the_same_bytes_and_a_larger_cohort_begins_with_the_smaller(written, tmp_path):
    write_scans(tmp_path / "more", n_subjects=17, size=10, missing=0.25, seed=5)
    for path in written.rglob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "more" / path.relative_to(written)).read_bytes()


def test_scans_of_a_person_show_the_same_numbers_through_other_patterns():
    """With the noise off, the change of an image between two people is linear in their common numbers."""
    painter = Painter(12)
    person = draw_person(np.random.default_rng(0), 0.0)

    def scan(kind: str, common: np.ndarray) -> np.ndarray:
        return painter.scan(kind, person, common, np.random.default_rng(1)).astype(float)

    zero, step = np.zeros(COMMON), np.eye(COMMON)[0]
    for kind in ("t1", "FA", "MD"):
        once, twice = scan(kind, step) - scan(kind, zero), scan(kind, 2 * step) - scan(kind, zero)
        inside = np.abs(once) > 1e-3 * np.abs(once).max()
        assert inside.any() and np.allclose(twice[inside], 2 * once[inside], rtol=0.05)
    changes = [(scan(kind, step) - scan(kind, zero)).ravel() for kind in ("t1", "FA")]
    assert abs(np.corrcoef(changes)[0, 1]) < 0.5


def test_the_best_area_is_that_of_the_atrophy_shown():
    rng = np.random.default_rng(0)
    ill = rng.random(200_000) < 0.5
    shown = rng.normal(DISTANCE * ill, 1)[:, None] + NOISE * rng.standard_normal((200_000, 3))
    from sklearn.metrics import roc_auc_score

    for kinds in (1, 3):
        found = roc_auc_score(ill, shown[:, :kinds].mean(axis=1))
        assert best_auc(kinds) == pytest.approx(float(found), abs=0.003)  # 200,000 draws: 0.0007 is one deviation


def test_the_best_matcher_beats_a_nearest_neighbour_and_one_scan_finds_itself():
    assert best_retrieval(1, draws=3) == {1: 1.0, 5: 1.0}
    few, many = best_retrieval(20, draws=60), best_retrieval(200, draws=20)
    assert 0.5 < many[1] < few[1] < 1 and few[5] > few[1]
    rng, hits = np.random.default_rng(0), []
    for _ in range(60):
        common = rng.standard_normal((20, COMMON))
        common[:, 0] += DISTANCE * (rng.random(20) < 0.5)
        x, y = (common + NOISE * rng.standard_normal(common.shape) for _ in range(2))
        near = ((x[:, None] - y[None]) ** 2).sum(axis=-1)
        hits.append((near.argmin(axis=1) == np.arange(20)).mean())
    assert few[1] >= np.mean(hits) - 0.02


def test_the_phantom_is_known_by_its_names(written):
    cohort = cohort_class("brain_scans")
    names = [str(path.relative_to(written)) for path in written.rglob("*.nii.gz")]
    assert cohort.made_up(names) and not cohort.made_up([*names, "sub-ADNI002S0295/anat/x_T1w.nii.gz"])
    assert not cohort.made_up([])


# -- tasks ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space(written: Path) -> TaskData:
    return BrainSpace().load(written).check()


def test_a_sample_is_a_session_of_which_kinds_may_be_missing(space, written):
    for name, pattern in (("volume", "*_T1w.nii.gz"), ("pet", "*_pet.nii.gz"), ("dmri", "*param-fa_dwimap.nii.gz")):
        raw = space.inputs[name]
        present = np.ones(raw.count, bool) if raw.present is None else raw.present
        assert present.sum() == len(list(written.rglob(pattern)))
        assert raw.read(int(np.flatnonzero(present)[0])).shape[-3:] == (10, 10, 10)
        for i in np.flatnonzero(~present)[:1]:
            with pytest.raises(DataError, match=f"has no {name} scan"):
                raw.read(int(i))


def test_validation_and_test_hold_one_session_of_a_subject_the_fullest(space):
    gaps = [each.present for each in space.inputs.values() if each.present is not None]
    there = np.sum(gaps, axis=0)
    for name in ("val", "test"):
        index = space.splits[name]
        assert len(set(space.subjects[index])) == len(index)
        for i in index:
            assert there[i] == there[space.subjects == space.subjects[i]].max()


@pytest.mark.parametrize("kind", ["volume", "pet", "dmri"])
def test_one_kind_of_scan_alone_tells_a_diagnosis(written, kind):
    task = build_task("brain_scans" if kind == "volume" else f"brain_scans:{kind}", {})
    data = task.load(written).check()
    assert tuple(data.inputs) == (kind,) and data.inputs[kind].present is None
    assert data.provenance["left_out"].get(f"no {kind}", 0) + data.inputs[kind].count == 21


def test_options_are_those_of_the_losses(written):
    data = BrainSpace(BrainSpace.Config.model_validate({"common_share": 1.0, "pairs": "all", "near": 0.9})).load(
        written
    )
    assert data.alignment["pairs"] == "all" and data.alignment["near"] == 0.9
    assert build_task("brain_space:plain", {}).load(written).alignment["common_share"] == 1.0
    with pytest.raises(ValueError, match="each once"):
        BrainScans.Config.model_validate({"maps": ("FA", "FA")})


def test_people_with_a_t1_alone_are_no_space(tree):
    for pattern in ("*_pet.nii.gz", "*_dwimap.nii.gz"):
        for path in tree.rglob(pattern):
            path.unlink()
    with pytest.raises(DataError, match=r"0 people have both volume and pet scans in one session .* needs 2 at least"):
        BrainSpace().load(tree)


def test_one_person_alone_is_no_space(tree):
    keep = file_of(tree, "*_pet.nii.gz").name.split("_")[0]
    for path in tree.rglob("*_pet.nii.gz"):
        if not path.name.startswith(keep):
            path.unlink()
    with pytest.raises(DataError, match=r"1 people have both volume and pet"):
        BrainSpace().load(tree)
