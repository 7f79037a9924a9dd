"""DeLong's test of paired areas under the ROC curve, for one sample per subject and for several.

The areas and their covariance are those of DeLong, DeLong and Clarke-Pearson ("Comparing the areas under two or more
correlated receiver operating characteristic curves", Biometrics 44, 1988), from ranks as in Sun and Xu ("Fast
implementation of DeLong's algorithm", IEEE Signal Processing Letters 21, 2014). With several samples per subject the
covariance is that of Obuchowski ("Nonparametric analysis of clustered ROC curve data", Biometrics 53, 1997); with one
it is DeLong's.
"""

from __future__ import annotations

import numpy as np

from medgraft.metric import Array


def auc_covariance(scores: Array, positive: Array, groups: Array) -> tuple[Array, Array]:
    """Areas under ``K`` curves of the same samples, and their covariance.

    Args:
        scores: ``float64 [n, K]``.
        positive: ``bool [n]``.
        groups: ``int64 [n]`` subject of each sample.

    Returns:
        Areas ``[K]`` and covariance ``[K, K]``; ``nan`` with fewer than two subjects on either side.
    """
    from scipy.stats import rankdata

    positive = np.asarray(positive, bool)
    cases, controls = scores[positive], scores[~positive]
    m, n, K = len(cases), len(controls), scores.shape[1]
    of_cases, of_controls = groups[positive], groups[~positive]
    if min(len(np.unique(of_cases)), len(np.unique(of_controls))) < 2:
        return np.full(K, np.nan), np.full((K, K), np.nan)
    everyone = rankdata(np.concatenate([cases, controls]), axis=0)
    case_places = (everyone[:m] - rankdata(cases, axis=0)) / n
    control_places = 1 - (everyone[m:] - rankdata(controls, axis=0)) / m
    areas = case_places.mean(axis=0)
    S = int(groups.max()) + 1
    by_case = np.zeros((S, K))
    np.add.at(by_case, of_cases, case_places - areas)
    by_control = np.zeros((S, K))
    np.add.at(by_control, of_controls, control_places - areas)
    ones, twos, all_of = len(np.unique(of_cases)), len(np.unique(of_controls)), len(np.unique(groups))
    within_cases = by_case.T @ by_case * ones / ((ones - 1) * m)
    within_controls = by_control.T @ by_control * twos / ((twos - 1) * n)
    across = by_case.T @ by_control * all_of / (all_of - 1)
    return areas, within_cases / m + within_controls / n + (across + across.T) / (m * n)


def delong_p(first: Array, second: Array, positive: Array, groups: Array) -> float:
    """Two-sided p-value of equal areas; of several seeds, of equal means over them, as they were trained.

    Args:
        first: ``float64 [n, s]``, scores of each seed of one row.
        second: ``float64 [n, t]``, of the other.
        positive: ``bool [n]``.
        groups: ``int64 [n]`` subject of each sample.

    Returns:
        1 where nothing differs, ``nan`` where the test cannot be had.
    """
    from scipy.special import ndtr

    areas, covariance = auc_covariance(np.hstack([first, second]), positive, groups)
    contrast = np.concatenate(
        [np.full(first.shape[1], 1 / first.shape[1]), np.full(second.shape[1], -1 / second.shape[1])]
    )
    difference, variance = float(contrast @ areas), float(contrast @ covariance @ contrast)
    if np.isnan(difference):
        return float("nan")
    if variance <= 1e-18:
        return 1.0 if abs(difference) < 1e-12 else 0.0
    return float(2 * ndtr(-abs(difference) / np.sqrt(variance)))
