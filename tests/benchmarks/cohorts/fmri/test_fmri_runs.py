"""A run as it is read: masked, cleaned, and refused in one sentence where it is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from nibabel.loadsave import save
from nibabel.nifti1 import Nifti1Image

from medgraft.benchmarks.cohorts.fmri.confounds import SIX, kept_volumes, motion_of
from medgraft.benchmarks.cohorts.fmri.runs import Cleaning, RunFiles, read_run, steps_of
from medgraft.benchmarks.cohorts.volumes.load import load_volume
from medgraft.encoders.swift import prepare_run
from medgraft.errors import DataError

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def write(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE, step: float = 2.0) -> str:
    image = Nifti1Image(values, affine)
    header: Any = image.header
    header.set_xyzt_units("mm", "sec")
    if values.ndim == 4:
        header["pixdim"][4] = step
    save(image, path)
    return str(path)


def some_run(volumes: int = 20) -> np.ndarray:
    values = 500 + 10 * np.random.default_rng(0).standard_normal((6, 7, 5, volumes))
    values[0] = 0
    return values.astype(np.float32)


@pytest.fixture
def files(tmp_path) -> RunFiles:
    values = some_run()
    table = pd.DataFrame({name: np.random.default_rng(k).standard_normal(20) for k, name in enumerate(SIX)})
    table["framewise_displacement"] = [np.nan, *[0.1] * 16, 0.9, 0.8, 0.1]
    table.to_csv(tmp_path / "confounds.tsv", sep="\t", na_rep="n/a", index=False)
    mask = write(tmp_path / "mask.nii.gz", (values[..., 0] > 0).astype(np.int16))
    return RunFiles(write(tmp_path / "run.nii.gz", values), mask, str(tmp_path / "confounds.tsv"))


def test_a_run_is_volumes_first_and_zero_outside_its_brain(files):
    run = read_run(files, Cleaning())
    assert run.values.shape == (20, 6, 7, 5) and run.values.dtype == np.float32
    np.testing.assert_array_equal(run.values, np.moveaxis(some_run(), -1, 0))
    assert not run.values[:, 0].any() and run.brain.sum() == 5 * 7 * 5 and steps_of(files) == 2.0


@pytest.mark.parametrize("flip", [(1, 0), (-1, 1), (1, 2)])
def test_axes_point_right_front_and_top(tmp_path, flip):
    sign, axis = flip
    values, affine = some_run(), AFFINE.copy()
    affine[axis, axis] *= sign
    run = read_run(RunFiles(write(tmp_path / "run.nii.gz", values, affine)), Cleaning())
    expected = np.flip(values, axis) if sign < 0 else values
    np.testing.assert_array_equal(run.values, np.moveaxis(expected, -1, 0))


def test_what_motion_explains_is_gone_and_the_mean_stays(tmp_path, files):
    motion = pd.read_csv(files.confounds, sep="\t")[list(SIX)].to_numpy()
    values = some_run()
    values[1:] += (40 * motion[:, 0] + 15 * motion[:, 4]).astype(np.float32)
    moved = RunFiles(write(tmp_path / "moved.nii.gz", values), files.mask, files.confounds)
    before, after = (read_run(moved, Cleaning(confounds=which)) for which in ("none", "6"))
    still = read_run(files, Cleaning(confounds="6"))
    np.testing.assert_allclose(after.values.mean(axis=0), before.values.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(
        after.values - after.values.mean(axis=0), still.values - still.values.mean(axis=0), atol=2e-3
    )
    design = np.column_stack([np.ones(20), motion])
    expected = values[2, 3, 2] - design @ np.linalg.lstsq(design, values[2, 3, 2], rcond=None)[0]
    np.testing.assert_allclose(after.values[:, 2, 3, 2] - values[2, 3, 2].mean(), expected, atol=2e-3)


def test_a_trend_goes_and_a_filter_needs_the_time_between_volumes(tmp_path):
    values = some_run()
    values[1:] += 30 * np.arange(20, dtype=np.float32)
    run = RunFiles(write(tmp_path / "run.nii.gz", values, step=0.0))
    found = read_run(run, Cleaning(detrend=True)).values[:, 2, 2, 2]
    assert abs(np.polyfit(np.arange(20), found, 1)[0]) < 1e-3
    assert steps_of(run) == 0
    with pytest.raises(DataError, match="no repetition time"):
        read_run(run, Cleaning(high_pass=0.01))
    read_run(RunFiles(run.image, step=2.0), Cleaning(high_pass=0.01))


def test_scrubbed_volumes_are_cut_out_and_too_few_are_refused(files):
    run = read_run(files, Cleaning(scrub=0.5))
    assert len(run.values) == 18 and run.cut == 2
    np.testing.assert_array_equal(run.values, np.moveaxis(np.delete(some_run(), [17, 18], axis=3), -1, 0))
    assert len(read_run(files, Cleaning(scrub=0.5, confounds="6", detrend=True)).values) == 18
    with pytest.raises(DataError, match="18 of 20 volumes") as error:
        read_run(files, Cleaning(scrub=0.5, least_kept=0.95))
    assert error.value.reason == "too few volumes without motion"


def test_what_leaves_nothing_of_a_run_is_refused(files):
    """Twenty volumes minus a mean and 24 parameters would be zeros, scaled up to noise by whoever standardises them."""
    with pytest.raises(DataError, match="25 of 20 volumes") as error:
        read_run(files, Cleaning(confounds="24"))
    assert error.value.reason == "too few volumes to clean"


def test_displacement_is_powers_where_the_table_has_none():
    table = pd.DataFrame(np.zeros((4, 6)), columns=pd.Index(SIX))
    table.loc[2:, "trans_y"], table.loc[3, "rot_z"] = 0.3, 0.01  # 0.3 mm, then 0.5 mm on a sphere of 50 mm
    assert kept_volumes(table, 0.4, "").tolist() == [0, 1, 2]
    assert kept_volumes(table, 0.2, "").tolist() == [0, 1]
    assert motion_of(table, "24", "").shape == (4, 24)  # pyright: ignore[reportOptionalMemberAccess]


def test_resampling_keeps_the_place_of_the_image(tmp_path):
    axis = np.arange(12, dtype=np.float32)
    ramp = np.broadcast_to(100 + axis[:, None, None, None], (12, 12, 12, 3)).astype(np.float32)
    run = read_run(RunFiles(write(tmp_path / "run.nii.gz", ramp)), Cleaning(spacing=6.0))
    assert run.values.shape == (3, 6, 6, 6)
    np.testing.assert_allclose(run.values[0, :, 2, 2], 100.5 + 2 * np.arange(6), atol=1e-4)  # centres of two voxels
    np.testing.assert_allclose(run.affine @ [0, 0, 0, 1], [1.5, 1.5, 1.5, 1])
    same = read_run(RunFiles(str(tmp_path / "run.nii.gz")), Cleaning(spacing=3.0))
    np.testing.assert_array_equal(same.affine, AFFINE)


def with_hole(values: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
    values[place] = np.nan
    return values


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (some_run(1), "one volume and no run"),
        (some_run()[..., 0], "not four axes"),
        (np.zeros((6, 7, 5, 20), np.float32), "zero in every voxel"),
        (with_hole(some_run(), (2, 2, 2, 5)), "voxels that are NaN"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, files, values, reason):
    image = write(tmp_path / "bad.nii.gz", values)
    with pytest.raises(DataError) as error:
        read_run(RunFiles(image, files.mask), Cleaning())
    assert error.value.reason == reason and "\n" not in str(error.value)


def test_holes_outside_the_brain_are_background(tmp_path, files):
    image = write(tmp_path / "hole.nii.gz", with_hole(some_run(), (0, 2, 2)))
    assert not read_run(RunFiles(image, files.mask), Cleaning()).values[:, 0].any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mask": lambda at: write(at, np.ones((5, 7, 6), np.int16))}, "a mask of another shape"),
        (
            {"mask": lambda at: write(at, np.ones((6, 7, 5), np.int16), np.diag([2.0, 2, 2, 1]))},
            "a mask of another place",
        ),
        ({"confounds": lambda at: ""}, "no table of confounds"),
        ({"image": lambda at: str(at)}, "no such file"),
    ],
)
def test_what_does_not_belong_to_the_run_is_refused(tmp_path, files, change, reason):
    parts = vars(files) | {name: make(tmp_path / "other.nii.gz") for name, make in change.items()}
    with pytest.raises(DataError) as error:
        read_run(RunFiles(**parts), Cleaning(confounds="6"))
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda table: table.iloc[:-1], "confounds of another length"),
        (lambda table: table.drop(columns="rot_y"), "confounds without motion"),
        (lambda table: table.assign(trans_x=["n/a"] * 20), "confounds with gaps"),
    ],
)
def test_confounds_that_do_not_fit_are_refused(files, spoil, reason):
    spoil(pd.read_csv(files.confounds, sep="\t")).to_csv(files.confounds, sep="\t", index=False)
    with pytest.raises(DataError) as error:
        read_run(files, Cleaning(confounds="24", scrub=0.5))
    assert error.value.reason == reason


def test_a_run_shorter_than_a_window_is_refused_by_its_encoder(tmp_path):
    run = read_run(RunFiles(write(tmp_path / "run.nii.gz", some_run(3))), Cleaning())
    with pytest.raises(DataError, match="shorter than a window"):
        prepare_run(run.values, (16, 16, 16), 4, 1)


def test_a_file_that_is_cut_is_refused_and_a_run_is_no_volume(tmp_path):
    path = tmp_path / "run.nii"
    write(path, some_run())
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(DataError, match="it is cut"):
        read_run(RunFiles(str(path)), Cleaning())
    with pytest.raises(DataError, match="one 3D volume"):
        load_volume(write(tmp_path / "whole.nii", some_run()))
    assert steps_of(RunFiles(str(tmp_path / "nowhere.nii"))) == 0


def test_a_run_of_more_voxels_than_allowed_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_MAX_SERIES_VOXELS", "4000")
    with pytest.raises(DataError, match="MEDGRAFT_MAX_SERIES_VOXELS"):
        read_run(RunFiles(write(tmp_path / "run.nii.gz", some_run())), Cleaning())
