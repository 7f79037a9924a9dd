"""What plain features of EEG predict: band powers, and tangent spaces of covariances, with logistic regressions.

They are fitted on the windows of training subjects and judged on the windows of the test subjects that a task's rows
are judged on. Band powers are the logarithms of relative powers by Welch's method. The tangent space is that of
Barachant et al., "Multiclass brain-computer interface classification by Riemannian geometry", IEEE Transactions on
Biomedical Engineering 59 (2012), by pyriemann: covariances with OAS shrinkage, one for each band as in the filter bank
of Sabbagh et al., "Predictive regression modeling with MEG/EEG", NeuroImage 222 (2020), whose reference is their
Riemannian mean over the training windows. Foundation models of EEG are often not better than these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.eeg.libraries import demanded
from medgraft.benchmarks.cohorts.tables.tabular import regression_scores, table_baselines
from medgraft.benchmarks.prefix_cache.store import entry
from medgraft.errors import DataError
from medgraft.modalities.signal import Recording

BANDS = {"delta": (1.0, 4.0), "theta": (4.0, 8.0), "alpha": (8.0, 13.0), "beta": (13.0, 30.0), "gamma": (30.0, 45.0)}
"""Name -> lowest and highest frequency in Hz."""
SEGMENT = 2.0
"""Seconds of Welch's segments, Hann windows that overlap by half."""
LEAST_POWER = 1e-12
"""Relative power below which a logarithm is that of this."""
BASELINES_VERSION = 1
POWERS, TANGENT = "band powers", "Riemannian tangent space"


def relative_powers(values: np.ndarray, rate: float) -> np.ndarray:
    """Share of each band in the power of each channel from 1 to 45 Hz, by Welch's method.

    Args:
        values: ``[C, T]``.
        rate: Samples per second.

    Returns:
        ``float64 [C, 5]``, rows that sum to 1; ``nan`` for flat channels.
    """
    from scipy.signal import welch

    size = min(round(SEGMENT * rate), values.shape[1])
    frequencies, density = welch(np.asarray(values, np.float64), fs=rate, nperseg=size, axis=1)
    parts = [density[:, (frequencies >= low) & (frequencies < high)].sum(axis=1) for low, high in BANDS.values()]
    powers = np.stack(parts, axis=1)
    total = powers.sum(axis=1, keepdims=True)
    return np.divide(powers, total, out=np.full_like(powers, np.nan), where=total > 0)


def band_covariances(values: np.ndarray, rate: float) -> np.ndarray:
    """Covariance of the channels in each band, shrunk by OAS, in the squared unit of the values.

    Args:
        values: ``[C, T]``.
        rate: Samples per second.

    Returns:
        ``float64 [5, C, C]``, symmetric and positive definite.
    """
    from scipy.signal import butter, sosfiltfilt

    estimation = demanded("pyriemann.estimation")
    filtered = []
    for low, high in BANDS.values():
        edges = (low, min(high, 0.45 * rate))
        if edges[1] <= edges[0]:
            raise DataError(f"a recording of {rate:g} Hz has no frequencies from {low:g} Hz up", "too low a rate")
        filtered.append(sosfiltfilt(butter(4, edges, "bandpass", fs=rate, output="sos"), values, axis=1))
    found = estimation.Covariances(estimator="oas").transform(np.stack(filtered))
    power = np.trace(found, axis1=1, axis2=2)[:, None, None] / len(values)
    return found + 1e-9 * power * np.eye(len(values))  # of a channel that is another's copy


@dataclass(frozen=True)
class Samples:
    """Windows and what the baselines must know of them.

    Attributes:
        read: Number of a window -> recording.
        channels: Channels that the baselines read; windows without one of them are left out of the baselines.
        frame: Columns ``subject``, ``age`` and ``sex``, ``n`` rows.
        targets: ``int64 [n]``.
        splits: ``train`` and ``test`` -> numbers of windows.
        classes: Names.
        fingerprint: Digest of what ``read`` gives.
        variants: Metrics beside those of classes.
    """

    read: Callable[[int], Recording]
    channels: tuple[str, ...]
    frame: pd.DataFrame
    targets: np.ndarray
    splits: Mapping[str, np.ndarray]
    classes: Sequence[str]
    fingerprint: str
    variants: tuple[str, ...]


def handcrafted_baselines(samples: Samples) -> dict[str, Any]:
    """Age and sex, band powers, and tangent spaces; kept in the cache, since reading every window takes its time.

    Returns:
        As :func:`medgraft.benchmarks.cohorts.tables.tabular.table_baselines`; a baseline of signals that cannot be had,
        such as one of fewer than two common channels, is ``unavailable`` with why.
    """
    demanded("mne")  # says what to install
    told = hashlib.sha256()
    for part in (samples.targets, samples.splits["train"], samples.splits["test"]):
        told.update(np.ascontiguousarray(part).tobytes())
    told.update(samples.frame[["subject", "age", "sex"]].to_csv(index=False).encode())
    facts = {
        "kind": "baselines of EEG",
        "version": BASELINES_VERSION,
        "windows": samples.fingerprint,
        "rows": told.hexdigest(),
        "classes": list(samples.classes),
        "variants": list(samples.variants),
        "channels": list(samples.channels),
        "libraries": [version(name) for name in ("pyriemann", "scikit-learn", "scipy")],
    }

    def build(folder: Path) -> None:
        (folder / "baselines.json").write_text(json.dumps(_fitted(samples)), encoding="utf-8")

    found = entry(facts, build, needs=("baselines.json",))
    return json.loads((found.folder / "baselines.json").read_text(encoding="utf-8"))


def _fitted(samples: Samples) -> dict[str, Any]:
    classes, splits = samples.classes, samples.splits
    people = {"age, sex": ("age", "female")}
    out = table_baselines(samples.frame, samples.targets, splits, classes, people, samples.variants)
    if len(samples.channels) < 2:
        return out | _unavailable("two channels that nearly all recordings have")
    rows, powers, covariances = _features(samples)
    kept = {name: np.flatnonzero(np.isin(rows, splits[name])) for name in ("train", "test")}
    targets, subjects = samples.targets[rows], samples.frame["subject"].to_numpy(str)[rows]
    missing = sum(len(splits[name]) for name in kept) - len(rows)
    if any(len(np.unique(targets[part])) < 2 for part in kept.values()):
        return out | _unavailable("windows of two classes that can be read")

    def scores(train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
        found = regression_scores(train, test, targets, subjects, kept, classes, samples.variants)
        return found | ({"windows_left_out": missing} if missing else {})

    fit, judge = powers[kept["train"]], powers[kept["test"]]
    out[POWERS] = {"fields": list(BANDS), **scores(fit, judge)}
    tangents = _tangents(covariances[kept["train"]], covariances[kept["test"]])
    out[TANGENT] = {"fields": [f"covariance, {name}" for name in BANDS], **scores(*tangents)}
    return out


def _unavailable(why: str) -> dict[str, Any]:
    return {name: {"unavailable": [why]} for name in (POWERS, TANGENT)}


def _features(samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows of the training and test subjects that can be read, their band powers, and their covariances."""
    rows, powers, covariances = [], [], []
    for i in np.sort(np.concatenate([samples.splits["train"], samples.splits["test"]])):
        try:
            recording = samples.read(int(i))
            if not set(samples.channels) <= set(recording.channels):
                continue
            values = recording.values[[recording.channels.index(name) for name in samples.channels]]
            covariance = band_covariances(values, recording.rate)
        except DataError:  # counted where an encoder reads it
            continue
        rows.append(int(i))
        powers.append(np.log(np.maximum(relative_powers(values, recording.rate), LEAST_POWER)).ravel())
        covariances.append(covariance)
    if not rows:
        raise DataError("no window of the recordings can be read; see the reasons that were counted")
    return np.array(rows), np.stack(powers), np.stack(covariances)


def _tangents(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariances ``[n, 5, C, C]`` at the tangent spaces of the training windows' means, ``[n, 5 C (C + 1) / 2]``."""
    from threadpoolctl import threadpool_limits

    tangentspace = demanded("pyriemann.tangentspace")
    parts = []
    with threadpool_limits(1):  # threads of so small matrices wait for each other
        for k in range(train.shape[1]):
            space = tangentspace.TangentSpace(metric="riemann").fit(train[:, k])
            parts.append((space.transform(train[:, k]), space.transform(test[:, k])))
    return np.concatenate([a for a, _ in parts], axis=1), np.concatenate([b for _, b in parts], axis=1)
