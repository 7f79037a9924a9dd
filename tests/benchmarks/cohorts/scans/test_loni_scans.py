"""T1, PET and diffusion of ADNI's archive: whose, of which visit and tracer, and what is missing or damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.adni.series import map_of, pet_level
from medgraft.benchmarks.cohorts.scans.pet import head_mean, load_uptake
from medgraft.benchmarks.cohorts.scans.reader import read_scans
from medgraft.benchmarks.cohorts.scans.table import Scans
from medgraft.benchmarks.cohorts.scans.tracers import TRACERS, chosen_tracer, tracer_of
from medgraft.benchmarks.phantoms.brain.scans import write_scans
from medgraft.benchmarks.phantoms.brain.scans_loni import DESCRIPTIONS, ptid
from medgraft.cohort import cohort_class
from medgraft.errors import DataError
from medgraft.task.names import build_task

PET = DESCRIPTIONS["pet"][1]
SIZES = {"n_subjects": 8, "size": 8, "missing": 0.25, "seed": 5}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("loni") / "phantom"
    write_scans(out, layout="loni", **SIZES)
    return out


@pytest.fixture
def tree(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "scans"))


def read(root: Path, **options: str) -> Scans:
    return read_scans(root, **{"reference": "global", **options})  # pyright: ignore


def pets(root: Path) -> list[Path]:
    return sorted(root.rglob("*_PT_*.nii"))


def search(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "ADNI_phantom_search.csv")


def change(root: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    edit(search(root)).to_csv(root / "ADNI_phantom_search.csv", index=False)


def describe(root: Path, image: Path, words: str) -> None:
    """Gives an image another description in the table."""
    number = image.stem.rpartition("_")[2]

    def edit(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["Image Data ID"] == number, "Description"] = words
        return table

    change(root, edit)


def save(path: Path, values: np.ndarray) -> Path:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(values.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])).to_filename(path)  # pyright: ignore
    return path


# -- the tree ---------------------------------------------------------------------------------------------------------


def test_it_holds_what_the_same_people_have_in_bids(written, tmp_path):
    write_scans(tmp_path / "bids", **SIZES)
    ours, theirs = read(written), read_scans(tmp_path / "bids")
    for name in ("t1", "pet", "dmri"):
        assert [each is None for each in getattr(ours, name)] == [each is None for each in getattr(theirs, name)], name
    for name in ("dx", "sex", "site", "head_size"):
        assert ours.frame[name].tolist() == theirs.frame[name].tolist(), name
    assert ours.report.used == len(ours.frame) and not ours.report.skipped and not ours.report.notes


def test_images_of_a_visit_are_one_session_though_they_were_made_weeks_apart(written):
    scans = read(written)
    row = next(i for i in range(len(scans.frame)) if scans.t1[i] and scans.pet[i])
    days = [Path(str(file)).parts[-3][:10] for file in (scans.t1[row], *(scans.pet[row] or ())) if file]
    assert pd.Timestamp(days[1]) - pd.Timestamp(days[0]) == pd.Timedelta(days=21)
    people = [subject for subject in scans.frame["subject"] if (scans.frame["subject"] == subject).sum() == 2]
    assert people and set(scans.frame["session"]) == {"bl", "m12"}


def test_without_a_search_table_the_archives_names_say_it(tree):
    before = read(tree)
    (tree / "ADNI_phantom_search.csv").unlink()
    after = read(tree)
    assert after.t1 == before.t1 and after.pet == before.pet and after.dmri == before.dmri


def test_what_has_no_diagnosis_is_counted(tree):
    merge = pd.read_csv(tree / "ADNIMERGE.csv")
    merge[merge["PTID"] != ptid(0)].to_csv(tree / "ADNIMERGE.csv", index=False)
    change(tree, lambda table: table.assign(Visit="m12"))
    scans = read(tree)
    assert ptid(0) not in set(scans.frame["subject"])
    assert scans.report.skipped["T1 images: no diagnosis for the visit"] >= 1
    assert scans.report.skipped["PET images: no diagnosis for the visit"] >= 1


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda root: [p.unlink() for p in root.rglob("*.nii")],
            "no participants.tsv, as a BIDS tree has, and no image",
        ),
        (lambda root: [p.rename(p.with_suffix(".dcm")) for p in root.rglob("*.nii")], "DICOM series; convert it"),
        (lambda root: (root / "ADNIMERGE.csv").write_text("VISCODE,DX\nbl,CN\n"), "no column EXAMDATE"),
        (
            lambda root: change(root, lambda table: table.assign(Subject="381_S_10001")),
            "no T1, PET or diffusion image of a visit with a diagnosis .*withdrawn",
        ),
    ],
)
def test_a_folder_without_usable_images_is_said_in_a_sentence(tree, break_it, said):
    break_it(tree)
    with pytest.raises(DataError, match=said):
        read(tree)


def test_a_phantom_is_known_by_its_names_in_this_layout_too(written):
    cohort = cohort_class("brain_scans")
    names = [str(path.relative_to(written)) for path in written.rglob("*.nii")]
    assert cohort.made_up(names) and not cohort.made_up([*names, "ADNI/002_S_0295/x/y/I3/ADNI_002_S_0295_I3.nii"])


# -- processing of PET ------------------------------------------------------------------------------------------------


def test_the_best_processing_of_a_scan_is_read_and_others_are_counted(tree):
    image = pets(tree)[0]
    again = image.with_name(image.name.replace("_I90", "_I91"))
    shutil.copy(image, again)
    row = search(tree).set_index("Image Data ID").loc[image.stem.rpartition("_")[2]]
    new = {**row, "Image Data ID": again.stem.rpartition("_")[2], "Description": "Co-registered Dynamic"}
    change(tree, lambda table: pd.concat([table, pd.DataFrame([new])]))
    scans = read(tree)
    assert (image, None) in scans.pet and (again, None) not in scans.pet
    assert scans.report.skipped["PET images: other processing of the same scan"] == 1
    describe(tree, image, "Co-registered, Averaged")
    describe(tree, again, PET)
    scans = read(tree)
    assert (again, None) in scans.pet and (image, None) not in scans.pet


def test_a_second_scan_of_a_visit_is_counted_and_the_first_used(tree):
    image = pets(tree)[0]
    later = Path(str(image.parents[1]).replace("-31_", "-32_").replace("2012-01-32", "2012-02-03"))
    again = save(later / "I9900000" / image.name.replace("_I9000001", "_I9900000"), np.ones((8, 8, 8)))
    row = search(tree).set_index("Image Data ID").loc[image.stem.rpartition("_")[2]]
    new = {**row, "Image Data ID": "I9900000", "Acq Date": "2/03/2012"}
    change(tree, lambda table: pd.concat([table, pd.DataFrame([new])]))
    scans = read(tree)
    assert (image, None) in scans.pet and (again, None) not in scans.pet
    assert scans.report.skipped["PET images: another scan of the same visit"] == 1


def test_mixed_processing_is_noted(tree):
    describe(tree, pets(tree)[0], "Co-registered, Averaged")
    assert read(tree).report.notes == {"PET image of other processing than most: averaged": 1}


def test_raw_images_and_untold_tracers_are_left_out(tree):
    first, second, third = pets(tree)[:3]
    describe(tree, first, "ADNI Brain PET: Raw FDG")
    describe(tree, second, "XYZ Coreg, Avg, Std Img and Vox Siz, Uniform Resolution")
    describe(tree, third, "AV45 FBB Coreg, Avg, Std Img and Vox Siz, Uniform Resolution")
    report = read(tree).report
    assert report.skipped["PET images: raw PET image, not of co-registered frames"] == 1
    assert report.skipped["PET images: PET image whose tracer nothing tells"] == 1
    assert report.skipped["PET image whose tracer is ambiguous, AV45 or FBB"] == 1


@pytest.mark.parametrize(
    ("words", "level"),
    [
        (PET, 0),
        ("AV45_Coreg,_Avg,_Std_Img_and_Vox_Siz,_Uniform_6mm_Res", 1),
        ("Coreg, Avg, Standardized Image and Voxel Size", 2),
        ("PIB Co-registered, Averaged", 3),
        ("FBB Co-registered Dynamic", 4),
        ("ADNI Brain PET: Raw", None),
        ("MT1; GradWarp; N3m", None),
    ],
)
def test_processing_is_told_from_the_words(words, level):
    assert pet_level(words) == level


# -- tracers ----------------------------------------------------------------------------------------------------------


def test_every_tracer_is_known_by_its_name_and_by_that_of_bids():
    for name in TRACERS:
        assert tracer_of(f"{name} Coreg, Avg, Std Img and Vox Siz") == tracer_of(f"18F{name}") == name
    assert tracer_of("18F-Flortaucipir") == "AV1451" and tracer_of("Florbetaben") == "FBB"


def test_images_of_two_tracers_are_refused_unless_one_is_named(tree):
    for image in pets(tree)[:2]:
        describe(tree, image, f"AV45 {PET}")
    with pytest.raises(DataError, match=r"several tracers, .* \(AV45: 2, FDG: \d+\); set tracer to one of them"):
        read(tree)
    two, others, every = (read(tree, tracer=name) for name in ("AV45", "FDG", "any"))
    count = [sum(each is not None for each in scans.pet) for scans in (two, others, every)]
    assert count[0] == 2 and count[1] == count[2] - 2
    assert two.report.skipped["PET images: PET image of another tracer"] == count[1]
    with pytest.raises(DataError, match=r"no PET image is of tracer PIB \(there are AV45: 2"):
        read(tree, tracer="PIB")
    assert len(build_task("brain_scans", {}).load(tree).targets)  # T1 alone has nothing to do with it


def test_two_tracers_of_one_day_are_two_scans(tree):
    image = pets(tree)[0]
    again = image.with_name(image.name.replace("_I90", "_I91"))
    shutil.copy(image, again)
    row = search(tree).set_index("Image Data ID").loc[image.stem.rpartition("_")[2]]
    new = {**row, "Image Data ID": again.stem.rpartition("_")[2], "Description": f"AV45 {PET}"}
    change(tree, lambda table: pd.concat([table, pd.DataFrame([new])]))
    assert (again, None) in read(tree, tracer="AV45").pet and (image, None) in read(tree, tracer="FDG").pet


def test_a_tracer_that_the_search_table_states_counts(tree):
    stated = "Radiopharmaceutical=18F-FBB;Slices=90"
    change(tree, lambda t: t.assign(**{"Imaging Protocol": np.where(t["Modality"] == "PET", stated, "")}))
    with pytest.raises(DataError, match=r"FBB: \d+"):
        read(tree, tracer="FDG")
    assert any(read(tree, tracer="FBB").pet)


def test_tracers_of_bids_are_told_apart_too(tmp_path):
    write_scans(tmp_path / "bids", **SIZES)
    image = sorted((tmp_path / "bids").rglob("*_pet.nii.gz"))[0]
    image.rename(image.with_name(image.name.replace("trc-18FFDG", "trc-18FAV45")))
    with pytest.raises(DataError, match=r"AV45: 1, FDG: \d+"):
        read_scans(tmp_path / "bids")
    scans = read_scans(tmp_path / "bids", tracer="FDG")
    assert scans.report.notes["PET image of another tracer alone; it counts as missing"] == 1
    nameless = image.with_name(image.name.replace("trc-18FFDG_", ""))
    image.with_name(image.name.replace("trc-18FFDG", "trc-18FAV45")).rename(nameless)
    with pytest.raises(DataError, match=r"FDG: \d+, unnamed: 1"):
        read_scans(tmp_path / "bids")


def test_without_images_every_wish_is_met():
    assert chosen_tracer({}, "PIB") == chosen_tracer({"FDG": 0}, "one") == "any"


# -- diffusion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Axial_DTI_FA", "FA"),
        ("Fractional Anisotropy", "FA"),
        ("DTI; Mean Diffusivity", "MD"),
        ("dti_rd", "RD"),
        ("MPRAGE FA 9", None),
        ("Axial DTI ColFA", None),
        ("Axial DTI color FA", None),
        ("Axial DTI", None),
        ("DTI FA MD", None),
        ("Average DC", None),
    ],
)
def test_maps_are_told_from_the_words(words, name):
    assert map_of(words) == name


def test_a_scan_needs_all_maps_of_one_day(tree):
    before = sum(each is not None for each in read(tree).dmri)
    files = sorted(tree.rglob("*_DTI_MD_*.nii"))
    files[0].unlink()
    scans = read(tree)
    assert sum(each is not None for each in scans.dmri) == before - 1
    assert scans.report.notes["diffusion scan without MD; it counts as missing"] == 1
    number = files[1].stem.rpartition("_")[2]
    table = search(tree)
    day = pd.Timestamp(table.set_index("Image Data ID").loc[number]["Acq Date"]) + pd.Timedelta(days=2)
    table.loc[table["Image Data ID"] == number, "Acq Date"] = f"{day.month}/{day.day:02d}/{day.year}"
    table.to_csv(tree / "ADNI_phantom_search.csv", index=False)
    scans = read(tree)
    assert sum(each is not None for each in scans.dmri) == before - 2
    assert scans.report.notes["diffusion maps of different days; the scan counts as missing"] == 1


# -- reference and frames ---------------------------------------------------------------------------------------------


def test_the_archive_has_no_masks_and_one_put_beside_an_image_counts(tree):
    with pytest.raises(DataError, match="label-cerebellum_mask beside them; set reference=global"):
        read_scans(tree)
    image = pets(tree)[0]
    mask = save(image.with_name("x_label-cerebellum_mask.nii.gz"), np.ones((8, 8, 8)))
    assert [each for each in read_scans(tree).pet if each] == [(image, mask)]


def test_a_mask_among_several_images_is_that_of_the_image_whose_name_it_has(tree):
    image = pets(tree)[0]
    save(image.with_name("Another_PET_S9_I999.nii"), np.ones((8, 8, 8)))
    save(image.with_name("aa_label-cerebellum_mask.nii.gz"), np.ones((8, 8, 8)))
    with pytest.raises(DataError, match="label-cerebellum_mask beside them"):
        read_scans(tree)
    stem = image.name.split(".nii")[0]
    mask = save(image.with_name(f"{stem}_label-cerebellum_mask.nii.gz"), np.ones((8, 8, 8)))
    assert (image, mask) in read_scans(tree).pet


def test_the_mean_of_the_head_leaves_out_the_air_and_the_dose():
    rng = np.random.default_rng(0)
    image = np.zeros((8, 8, 8), np.float32)
    image[2:6, 2:6, 2:6] = rng.uniform(2, 6, (4, 4, 4))
    assert head_mean(image) == pytest.approx(float(image[image > 0].mean()), rel=1e-6)
    assert head_mean(37 * image) == pytest.approx(37 * head_mean(image), rel=1e-5)
    with pytest.raises(DataError, match="must be above 0"):
        head_mean(-np.ones((2, 2, 2), np.float32))


def test_frames_count_by_how_long_they_are(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.uniform(1, 5, (4, 4, 4, 3))
    image = save(tmp_path / "a_pet.nii.gz", frames)
    np.testing.assert_allclose(load_uptake(image, None), frames.mean(axis=-1), rtol=1e-5)
    (tmp_path / "a_pet.json").write_text(json.dumps({"FrameDuration": [300, 300, 600]}))
    expected = np.average(frames, axis=-1, weights=[1, 1, 2])
    np.testing.assert_allclose(load_uptake(image, None), expected, rtol=1e-5)
    found = load_uptake(image, None, whole=True)
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-5)
    with pytest.raises(DataError, match="more than one frame; set frames=mean"):
        load_uptake(image, None, frames="refuse")


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ('{"FrameDuration": [300, 300]}', "FrameDuration of 2 frames, .* the image has 3 frames"),
        ('{"FrameDuration": [300, 0, 300]}', "all of which must be above 0"),
        ('{"FrameDuration": "long"}', "cannot be read"),
        ("[1]", "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_lengths_of_frames_that_do_not_fit_are_refused(tmp_path, stated, said):
    image = save(tmp_path / "a_pet.nii.gz", np.ones((3, 3, 3, 3)))
    (tmp_path / "a_pet.json").write_text(stated)
    with pytest.raises(DataError, match=said):
        load_uptake(image, None)


@pytest.mark.parametrize(("value", "said"), [(0.0, "zero in every voxel of frame 2 of 3"), (np.nan, "NaN or infinite")])
def test_a_frame_without_numbers_is_refused(tmp_path, value, said):
    frames = np.ones((3, 3, 3, 3))
    frames[..., 1] = value
    with pytest.raises(DataError, match=said):
        load_uptake(save(tmp_path / "a_pet.nii.gz", frames), None)


@pytest.mark.parametrize("kind", ["volume", "pet", "dmri"])
def test_tasks_read_this_layout(written, kind):
    options = {"reference": "global"} if kind == "pet" else {}
    data = build_task("brain_scans" if kind == "volume" else f"brain_scans:{kind}", options).load(written)
    assert tuple(data.inputs) == (kind,) and data.phantom
    assert data.inputs[kind].read(0).shape[-3:] == (8, 8, 8)
