"""Tangent connectivity: the formula, what training runs alone decide, and runs that lack a region."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from medgraft.benchmarks.cohorts.fmri.tangent import tangent_connectivity
from medgraft.benchmarks.tasks.fmri.abide import Abide
from medgraft.testing.phantoms import small_phantom


def series(count: int = 12, regions: int = 4, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((count, regions, regions))
    return [50 + rng.standard_normal((40 + k, regions)) @ mix[k] for k in range(count)]


def test_vectors_are_logarithms_as_seen_from_the_mean():
    """Of ``W C W`` with the whitening ``W`` at the geometric mean, which is where those of training runs cancel."""
    from nilearn.connectome import vec_to_sym_matrix
    from sklearn.covariance import ledoit_wolf

    runs, train = series(), np.arange(8)
    values, regions = tangent_connectivity(runs, train)
    assert values.shape == (12, 10) and regions == 4
    np.testing.assert_allclose(values[train].mean(axis=0), 0, atol=1e-5)  # the definition of the geometric mean
    logs = np.asarray(vec_to_sym_matrix(values))
    scaled = [(each - each.mean(axis=0)) / each.std(axis=0) for each in runs]
    covariances = [ledoit_wolf(each)[0] for each in scaled]
    # Distances between the whitened matrices are those between the covariances, whatever the reference.
    for i, j in ((0, 1), (3, 10)):
        whitened = [_exponential(logs[k]) for k in (i, j)]
        here = np.linalg.eigvals(np.linalg.solve(whitened[0], whitened[1]))
        there = np.linalg.eigvals(np.linalg.solve(covariances[i], covariances[j]))
        np.testing.assert_allclose(np.sort(here.real), np.sort(there.real), rtol=1e-6)


def _exponential(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.exp(values)) @ vectors.T


def test_test_runs_do_not_move_the_reference():
    runs, train = series(), np.arange(8)
    before, _ = tangent_connectivity(runs, train)
    others = [*runs[:8], *series(seed=9)[8:]]
    after, _ = tangent_connectivity(others, train)
    np.testing.assert_array_equal(before[:8], after[:8])
    assert not np.allclose(before[8:], after[8:])


def test_brightness_plays_no_part():
    runs = series()
    louder = [(1 + k) * each + 100 * k for k, each in enumerate(runs)]
    np.testing.assert_allclose(*(tangent_connectivity(each, np.arange(8))[0] for each in (runs, louder)), atol=1e-6)


def test_a_region_that_many_lack_is_left_out_and_a_run_that_lacks_another_has_no_numbers():
    runs = series()
    for each in runs[:3]:
        each[:, 1] = np.nan
    runs[5][:, 2] = 7.0
    runs[6] = np.empty((0, 4))
    values, regions = tangent_connectivity(runs, np.arange(12))
    assert regions == 3 and values.shape == (12, 6)
    assert (
        np.flatnonzero(np.isnan(values).all(axis=1)).tolist() == [5, 6]
        and np.isfinite(np.delete(values, [5, 6], 0)).all()
    )


@pytest.mark.parametrize("left", [0, 1])
def test_too_few_training_runs_give_no_numbers(left):
    runs = [each if k < left else np.empty((0, 4)) for k, each in enumerate(series())]
    assert tangent_connectivity(runs, np.arange(12))[0].shape == (12, 0)


def test_it_stands_beside_the_rows_where_it_is_asked_for():
    data = Abide(Abide.Config(tangent=True)).load(small_phantom("abide"))
    told = data.provenance["table_baselines"]
    assert set(told) == {"age, sex", "functional connectivity", "tangent connectivity"}
    assert "at the mean of the training runs" in told["tangent connectivity"]["fields"][0]
    assert 0 <= told["tangent connectivity"]["auc_macro"][0] <= 1
    with pytest.raises(ValidationError, match="set baseline: true"):
        Abide.Config(tangent=True, baseline=False)
