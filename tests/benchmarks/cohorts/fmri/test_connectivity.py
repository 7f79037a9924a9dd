"""Functional connectivity: the formula, the regions, and what a run without it becomes."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.loadsave import load, save
from nibabel.nifti1 import Nifti1Image

from medgraft.benchmarks.cohorts.fmri.connectivity import (
    connectivity,
    fisher_z,
    labelled_blocks,
    read_regions,
    region_means,
)
from medgraft.benchmarks.cohorts.fmri.runs import Cleaning, Run, RunFiles
from medgraft.benchmarks.phantoms.fmri.people import best_scores, network_signals, people_of
from medgraft.errors import DataError


def test_fisher_z_is_the_formula_on_numpys_correlations():
    series = np.random.default_rng(0).standard_normal((30, 5)) @ np.random.default_rng(1).standard_normal((5, 5))
    correlations: np.ndarray = np.corrcoef(series.T)
    upper = correlations[np.triu_indices(5, 1)]
    np.testing.assert_allclose(fisher_z(series), 0.5 * np.log((1 + upper) / (1 - upper)), rtol=1e-9)
    assert np.isfinite(fisher_z(np.column_stack([series[:, 0], 3 * series[:, 0] + 1]))).all()
    with pytest.raises(DataError, match="need 4 volumes"):
        fisher_z(series[:3])


@pytest.mark.parametrize("shape", [(16, 16, 16), (61, 73, 61), (5, 9, 4)])
def test_blocks_part_every_grid(shape):
    labels = labelled_blocks(shape, 4)
    assert labels.shape == shape and set(np.unique(labels)) == set(range(1, 65))
    assert np.bincount(labels.ravel())[1:].max() <= np.prod([-(-n // 4) for n in shape])


def test_means_are_of_the_brain_alone():
    values = np.random.default_rng(0).random((5, 8, 8, 8)).astype(np.float32)
    brain = np.zeros((8, 8, 8), bool)
    brain[:4, :2, :3] = True  # blocks of 2 x 2 x 2, those cut to two layers of three have four voxels or none
    labels = labelled_blocks(brain.shape, 4)
    means = region_means(Run(values, brain, np.eye(4)), labels, 64)
    np.testing.assert_allclose(means[:, 0], values[:, :2, :2, :2].mean(axis=(1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(means[:, 1], values[:, :2, :2, 2].mean(axis=(1, 2)), rtol=1e-6)
    assert np.isnan(means[:, 4:16]).all() and np.isnan(means[:, 32:]).all()


@pytest.fixture
def runs(tmp_path) -> list[RunFiles]:
    rng, made = np.random.default_rng(0), []
    for k in range(3):
        values = (100 + rng.standard_normal((8, 8, 8, 12))).astype(np.float32)
        path = tmp_path / f"{k}.nii.gz"
        save(Nifti1Image(values, np.diag([24.0, 24, 24, 1])), path)
        made.append(RunFiles(str(path)))
    return made


def test_a_run_that_cannot_be_read_has_none_and_is_counted(runs, tmp_path):
    odd = [*runs, RunFiles(str(tmp_path / "nowhere.nii.gz"))]
    found = connectivity(odd, [""] * 4, Cleaning(), tmp_path)
    assert found.values.shape == (4, 64 * 63 // 2) and found.reasons == {"no such file": 1}
    assert np.isfinite(found.values[:3]).all() and np.isnan(found.values[3]).all() and "no atlas" in found.regions
    again = connectivity(odd, [""] * 4, Cleaning(), tmp_path)
    np.testing.assert_array_equal(found.values, again.values)


def test_an_atlas_in_the_folder_names_the_regions(runs, tmp_path):
    labels = np.zeros((16, 16, 16), np.int16)  # at half the voxel size, so it must be brought to the runs' grid
    labels[:8], labels[8:, :8], labels[8:, 8:] = 1, 2, 3
    affine = np.diag([12.0, 12, 12, 1])
    affine[:3, 3] = -6.0
    save(Nifti1Image(labels, affine), tmp_path / "atlas.nii.gz")
    found = connectivity(runs, ["", "", ""], Cleaning(), tmp_path, tmp_path / "atlas.nii.gz")
    values: np.ndarray = np.asarray(load(runs[0].image).dataobj, float)  # pyright: ignore
    parts = [values[:4], values[4:, :4], values[4:, 4:]]
    series = np.stack([part.reshape(-1, 12).mean(axis=0) for part in parts], axis=1)
    np.testing.assert_allclose(found.values[0], fisher_z(series), rtol=1e-5)
    assert found.regions == "3 regions of an atlas"


def test_tables_are_read_where_all_runs_have_one(runs, tmp_path):
    series = np.random.default_rng(0).standard_normal((3, 12, 4))
    series[0, :, 2] = 0  # a region outside the field of view
    paths = [str(tmp_path / f"{k}.1D") for k in range(3)]
    for path, values in zip(paths, series, strict=True):
        np.savetxt(path, values, header="1\t2\t3\t4", comments="#")
    found = connectivity(runs, paths, Cleaning(), tmp_path)
    assert found.regions == "4 regions of the tables beside the runs"
    assert np.isnan(found.values[0]).tolist() == [False, True, False, True, False, True]
    np.testing.assert_allclose(found.values[1], fisher_z(series[1]))
    np.savetxt(paths[2], series[2, :, :3])
    (tmp_path / "1.1D").write_text("no numbers")
    odd = connectivity(runs, paths, Cleaning(), tmp_path)
    assert odd.reasons == {"no table of regions": 1, "another number of regions": 1}
    assert connectivity(runs, [paths[0], "", paths[2]], Cleaning(), tmp_path).values.shape[1] == 64 * 63 // 2
    with pytest.raises(DataError, match="cannot be read"):
        read_regions(paths[1])


def test_the_phantoms_best_score_is_what_its_rule_reaches_on_its_own_signals():
    """The rule that knows each class's mean correlation, on signals of the generator, comes near and stays below."""
    best = best_scores(60)
    people = people_of(1200, 3, 0)
    right = []
    for person in people:
        a, b = network_signals(person, 60, 0, 0)[:, :2].T
        right.append((float(a @ b) < 0) == person.autism)
    assert best["f1_macro"] - 0.03 < np.mean(right) < best["f1_macro"] + 0.02  # a standard error of 0.007
    assert best_scores(12)["f1_macro"] < best["f1_macro"] < best["auc"] < 1
    assert np.mean([person.autism for person in people]) == np.mean([person.female for person in people]) == 0.5
    assert best["f1_macro"] == pytest.approx(0.9546, abs=0.02)  # of the couplings themselves: Phi(1.2 / (2 * 0.35))
