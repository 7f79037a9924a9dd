"""Tangent connectivity: how far each run's covariance between regions is from the mean of the training runs.

Varoquaux et al., "Detection of brain functional-connectivity difference in post-stroke patients using group-level
covariance modeling", MICCAI 2010, by nilearn's ``ConnectivityMeasure(kind="tangent")``: covariances with Ledoit-Wolf
shrinkage, their geometric mean over training runs, and the logarithm of each as seen from it. Dadi et al.,
"Benchmarking functional connectome-based predictive models for resting-state fMRI", NeuroImage 192 (2019), found it the
best of connectivities. Series are z-scored first, so that the brightness of a scanner plays no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_LACKING = 0.1
"""Share of the training runs that may lack a region that is read; a run without one of these has no numbers."""


def tangent_connectivity(series: Sequence[Array], train: Array) -> tuple[Array, int]:
    """Tangent vectors of runs at the geometric mean of the training runs.

    Args:
        series: ``[T, R]`` of each run, ``nan`` or constant in a region that it lacks; ``[0, R]`` of one without any.
        train: Numbers of the training runs, ``int64 [m]``.

    Returns:
        ``float64 [n, D]`` with ``D = R' (R' + 1) / 2`` of the ``R'`` regions that are read, ``nan`` in rows of runs
        that lack one of them; and ``R'``. ``[n, 0]`` where fewer than two training runs have two regions.
    """
    from nilearn.connectome import ConnectivityMeasure
    from threadpoolctl import threadpool_limits

    there = np.stack([_has(each) for each in series])
    some = train[there[train].any(axis=1)]
    if not len(some):
        return np.empty((len(series), 0)), 0
    lacking = np.mean(~there[some], axis=0)
    regions = np.flatnonzero(lacking <= MOST_LACKING)
    whole = np.all(there[:, regions], axis=1)
    fitted = train[whole[train]]
    if len(regions) < 2 or len(fitted) < 2:
        return np.empty((len(series), 0)), len(regions)
    scaled = {i: _scaled(series[i][:, regions]) for i in np.flatnonzero(whole).tolist()}
    measure = ConnectivityMeasure(kind="tangent", vectorize=True)
    with threadpool_limits(1):  # threads of so small matrices wait for each other
        measure.fit([scaled[int(i)] for i in fitted])
        rows = np.asarray(measure.transform(list(scaled.values())))
    values = np.full((len(series), rows.shape[1]), np.nan)
    values[list(scaled)] = rows
    return values, len(regions)


def _has(series: Array) -> Array:
    """Which regions a run has, ``bool [R]``."""
    if len(series) < 2:
        return np.zeros(series.shape[1], bool)
    spread = np.asarray(series, np.float64).std(axis=0)
    return np.isfinite(spread) & (spread > 1e-6 * np.abs(series).max(axis=0))


def _scaled(series: Array) -> Array:
    values = np.asarray(series, np.float64)
    return (values - values.mean(axis=0)) / values.std(axis=0)
