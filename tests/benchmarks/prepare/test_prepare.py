"""``medgraft prepare``: what it undoes, what it refuses, and how it goes on after a stop."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medgraft.benchmarks.cohorts.adni.reader import load_volume, read_adni
from medgraft.benchmarks.cohorts.places import cohort_at
from medgraft.benchmarks.phantoms.brain.cohort import write_cohort
from medgraft.benchmarks.phantoms.brain.template import template_t1
from medgraft.benchmarks.prepare.cohort import find_sources, prepare_cohort
from medgraft.benchmarks.prepare.volume import PrepareConfig, prepare_volume
from medgraft.errors import ConfigError, DataError

pytest.importorskip("SimpleITK")
COARSE = PrepareConfig.model_validate({"spacing": 6.0})
PHANTOMS: dict[str, Any] = {"n_subjects": 2, "seed": 3, "spacing": 4.0, "max_visits": 1}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "cohort"
    write_cohort(root, form="raw", cache_dir=tmp_path_factory.getbasetemp() / "brain-template", **PHANTOMS)
    return root


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "cohort"
    report = prepare_cohort(raw, out, PrepareConfig.model_validate({"spacing": 4.0}))
    assert (report.made, report.kept, report.failed) == (2, 0, {})
    return out


def same_grid(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shape = tuple(slice(min(p, q)) for p, q in zip(a.shape, b.shape, strict=True))
    return a[shape].ravel(), b[shape].ravel()


# --- one volume -------------------------------------------------------------------------------------------------------


def test_a_raw_phantom_needs_preparing_and_gets_it(raw, prepared, tmp_path_factory):
    root = tmp_path_factory.mktemp("processed") / "cohort"
    write_cohort(root, cache_dir=tmp_path_factory.getbasetemp() / "brain-template", **PHANTOMS)
    frames = [read_adni(path).frame for path in (root, raw, prepared)]
    for goal, before, after in zip(*(frame["image"] for frame in frames), strict=True):
        assert nib.aff2axcodes(nib.load(before).affine) == ("P", "I", "R")
        goal, before, after = (load_volume(path)[0] for path in (goal, before, after))
        assert np.corrcoef(*same_grid(goal, after))[0, 1] > 0.9 > np.corrcoef(*same_grid(goal, before))[0, 1]


@pytest.mark.slow
def test_the_template_comes_back_to_itself_from_a_tilted_shaded_copy(tmp_path):
    from scipy.spatial.transform import Rotation

    t1, affine = template_t1()
    coarse = t1[::2, ::2, ::2]
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", (8, -10, 6), degrees=True).as_matrix()
    pose[:3, 3] = (20, -30, 45)
    shading = 1 + 0.3 * np.linspace(-1, 1, coarse.shape[1])[None, :, None]
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image((7 * coarse * shading).astype(np.int16), pose @ affine @ np.diag([2, 2, 2, 1])), path)
    found = prepare_volume(path, PrepareConfig.model_validate({"spacing": 2.0}))
    assert found.similarity > 0.95 and found.volume.shape == (96, 112, 96) and found.volume.dtype == np.float32
    assert nib.aff2axcodes(found.affine) == ("R", "A", "S") and found.volume.min() == 0


def test_the_mask_cuts_what_lies_outside_the_brain(raw):
    path = Path(read_adni(raw).frame["image"][0])
    whole, cut = (
        prepare_volume(path, PrepareConfig.model_validate({"spacing": 6.0, "n4": False, "mask": mask})).volume
        for mask in (False, True)
    )
    assert (cut > 0).sum() <= (whole > 0).sum() and np.array_equal(cut[cut > 0], whole[cut > 0])
    assert cut[0].max() == 0


def test_noise_is_no_head(tmp_path):
    noise = np.random.default_rng(0).integers(1, 1000, (24, 24, 24)).astype(np.int16)
    nib.save(nib.Nifti1Image(noise, np.diag([8.0, 8.0, 8.0, 1.0])), tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"a\.nii (was not|cannot be) registered"):
        prepare_volume(tmp_path / "a.nii", COARSE)


def test_a_sheared_affine_is_refused(tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 0.5
    image = nib.Nifti1Image(np.ones((8, 8, 8), np.float32), affine)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(DataError, match="shears"):
        prepare_volume(tmp_path / "a.nii", COARSE)


def test_without_simple_itk_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ConfigError, match=r"pip install 'medgraft\[prepare\]'"):
        prepare_cohort(tmp_path, tmp_path / "out", COARSE)


# --- a cohort ---------------------------------------------------------------------------------------------------------


def test_the_copy_is_read_like_the_original_and_is_another_revision(raw, prepared):
    before, after = read_adni(raw), read_adni(prepared)
    columns = ["subject", "session", "dx", "image_id", "description"]
    assert before.frame[columns].equals(after.frame[columns]) and after.phantom
    assert all(path.endswith(".nii.gz") for path in after.frame["image"])
    assert cohort_at("adni", raw).id.revision != cohort_at("adni", prepared).id.revision
    assert json.loads((prepared / "PHANTOM").read_text())["prepared"]["spacing"] == 4.0


def test_only_what_is_missing_or_outdated_is_made_again(raw, prepared, tmp_path):
    out = Path(shutil.copytree(prepared, tmp_path / "copy"))
    config = PrepareConfig.model_validate({"spacing": 4.0})
    first, second = sorted(out.rglob("*.nii.gz"))
    expected = first.read_bytes()
    first.unlink()
    stamp = second.stat().st_mtime_ns
    report = prepare_cohort(raw, out, config)
    assert (report.made, report.kept) == (1, 1) and second.stat().st_mtime_ns == stamp
    assert first.read_bytes() == expected, "the bytes depend on nothing but the volume and the steps"
    os.utime(second, ns=(0, 0))
    assert prepare_cohort(raw, out, config).made == 1
    with (out / "prepared_report.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["status"] for row in rows} == {"prepared"} and all(float(row["similarity"]) > 0.6 for row in rows)
    assert not [path for path in out.rglob(".*") if path.is_file()], "nothing half-made is left"


def test_other_steps_need_another_folder(raw, prepared):
    with pytest.raises(DataError, match="name another --out"):
        prepare_cohort(raw, prepared, COARSE)


def test_a_folder_in_use_and_a_folder_in_the_cohort_are_refused(raw, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is in use"):
        prepare_cohort(raw, tmp_path, COARSE)
    with pytest.raises(ConfigError, match="in one another"):
        prepare_cohort(raw, raw / "out", COARSE)


def test_what_fails_is_reported_and_the_rest_is_made(raw, tmp_path, medgraft):
    root = Path(shutil.copytree(raw, tmp_path / "raw"))
    broken = min(root.rglob("*.nii"))
    broken.write_bytes(broken.read_bytes()[:400])
    out = tmp_path / "out"
    result = medgraft("prepare", "adni", "--in", str(root), "--out", str(out), "--spacing", "6", "--jobs", "2")
    assert result.exit_code == 1 and "1 volumes prepared, 0 kept from before, 1 failed" in result.output
    assert "cannot be read as an image" in result.output and broken.name not in result.output
    with (out / "prepared_report.csv").open(newline="") as handle:
        rows = {Path(row["volume"]).name: row for row in csv.DictReader(handle)}
    assert (
        rows[f"{broken.name}.gz"]["status"] == "failed" and "download it again" in rows[f"{broken.name}.gz"]["reason"]
    )
    assert read_adni(out).report.skipped == {"image file missing": 1}


def test_sources_of_every_layout(tmp_path):
    def touch(*names: str) -> None:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")

    with pytest.raises(DataError, match=r"holds no \.nii"):
        find_sources(tmp_path)
    slices = [f"loni/ADNI/002_S_0295/MPRAGE/2006-04-18_08_20_30.0/S1/ADNI_002_S_0295_{i}_S1_I77.dcm" for i in range(3)]
    touch(*slices, "loni/ADNI/a_I5.nii", "bids/sub-1/ses-M000/anat/sub-1_ses-M000_T1w.nii", "bids/sub-1/x_FLAIR.nii.gz")
    found = {source.target.as_posix(): source.path for source in find_sources(tmp_path / "loni")}
    series = "ADNI/002_S_0295/MPRAGE/2006-04-18_08_20_30.0/S1/002_S_0295_I77.nii.gz"
    assert set(found) == {"ADNI/a_I5.nii.gz", series} and found[series].is_dir()
    (only,) = find_sources(tmp_path / "bids")
    assert only.target.name == "sub-1_ses-M000_T1w.nii.gz"
    (single,) = find_sources(tmp_path / "loni/ADNI/a_I5.nii")
    assert single.target == Path("a_I5.nii.gz")
