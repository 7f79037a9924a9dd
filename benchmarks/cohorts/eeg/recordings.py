"""Files of EEG: their header, and any part of them in microvolts, through MNE or, below a BIDS folder, mne-bids.

Only channels of EEG with names of the 10-05 system are read, single electrodes or differences of two. What MNE cannot
read part by part, such as an EEGLAB file with its values inside, is kept in memory while its windows are read.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medgraft.benchmarks.cohorts.eeg.libraries import demanded
from medgraft.errors import DataError
from medgraft.files.one_file import one_file
from medgraft.modalities.eeg import AUXILIARY, FEWEST, MICROVOLTS, PLAUSIBLE, SATURATED, electrode, pair, positions
from medgraft.modalities.signal import Recording

ENDINGS = (".edf", ".bdf", ".vhdr", ".set")
"""Endings of files of EEG, in lower case: EDF, BDF, BrainVision and EEGLAB."""

Unit = Literal["file", "uV", "mV", "V"]
"""What the values of a file are in; ``file``, as it says."""

KEPT_OPEN = 2
"""Recordings that a process keeps open."""

NO_ELECTRODE, SHORT = "no electrode of the 10-05 system", "shorter than a window"


@dataclass(frozen=True)
class Header:
    """What is known of a recording before its values are read.

    Attributes:
        channels: Names of the channels that are read, in one spelling.
        rate: Samples per second.
        length: Samples.
        unknown: Names of channels of EEG that are left out, since the 10-05 system does not know them.
    """

    channels: tuple[str, ...]
    rate: float
    length: int
    unknown: tuple[str, ...] = ()

    @property
    def bipolar(self) -> bool:
        """Whether all channels are differences of two electrodes."""
        return all(pair(name) for name in self.channels)


def header(path: str, bids_root: str = "") -> Header:
    """The header of a recording, read again only where the file has changed.

    Args:
        path: The file; of BrainVision the header's.
        bids_root: The BIDS folder that it lies in, for which its sidecars count; empty for a file alone.

    Raises:
        ConfigError: A library is missing.
        DataError: The file cannot be read, or has fewer than three channels of EEG with known names.
    """
    return _header(path, bids_root, _stamp(path))


@functools.lru_cache(maxsize=4096)
def _header(path: str, bids_root: str, stamp: tuple[int, int]) -> Header:
    raw = _opened(path, bids_root, stamp)
    names, unknown = _channels(raw)
    if len(names) < FEWEST:
        said = ", ".join([*names, *unknown][:5]) or "none"
        raise DataError(
            f"{path} has {len(names)} channels of EEG with names that the 10-05 system knows, of {said}; rename its "
            "channels",
            NO_ELECTRODE,
        )
    return Header(tuple(names), float(raw.info["sfreq"]), int(raw.n_times), unknown)


def microvolts(path: str, bids_root: str, start: int, stop: int, unit: Unit = "file") -> Recording:
    """Part of a recording.

    Channels that are saturated in it are set to 0, so that encoders count them as missing.

    Args:
        path: See :func:`header`.
        bids_root: See :func:`header`.
        start: First sample.
        stop: Sample behind the last.
        unit: What the values are in; ``file``, as the file says.

    Returns:
        ``float32 [C, stop - start]`` in microvolts.

    Raises:
        DataError: The file cannot be read, or ends before ``stop``; all its channels are flat or saturated; or the
            values are none of an EEG in that unit.
    """
    facts, stamp = header(path, bids_root), _stamp(path)
    if not 0 <= start < stop <= facts.length:
        raise DataError(f"{path} has {facts.length} samples, and {start} to {stop} are asked for", SHORT)
    raw, (names, _) = _opened(path, bids_root, stamp), _channels(_opened(path, bids_root, stamp))
    with _reading(path):
        values = raw.get_data(picks=list(names.values()), start=start, stop=stop)
    values = np.asarray(values, np.float64) * _factor(unit)
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds values that are not finite; export it again", "values that are not finite")
    values[saturated(values)] = 0.0
    _check_amplitude(path, values, unit)
    return Recording(values.astype(np.float32), facts.channels, facts.rate)


def saturated(values: np.ndarray) -> np.ndarray:
    """Channels that spend a tenth of ``[C, T]`` or more at their largest or smallest value, ``bool [C]``.

    Those that never change are not among them: they are flat.
    """
    highest, lowest = values.max(axis=1, keepdims=True), values.min(axis=1, keepdims=True)
    stuck = np.maximum((values == highest).mean(axis=1), (values == lowest).mean(axis=1))
    enough = values.shape[1] * SATURATED >= 20  # of a few samples, one is a tenth
    return (stuck >= SATURATED) & (highest > lowest)[:, 0] & enough


def _factor(unit: Unit) -> float:
    """Microvolts of what MNE reads, which is volts where the file is right."""
    return MICROVOLTS["V" if unit == "file" else unit]


def _check_amplitude(path: str, values: np.ndarray, unit: Unit) -> None:
    deviations = values.std(axis=1)
    if not (deviations > 0).any():
        raise DataError(f"every channel of {path} is flat or saturated in a window", "all channels flat or saturated")
    typical, (low, high) = float(np.median(deviations[deviations > 0])), PLAUSIBLE
    if low <= typical <= high:
        return
    as_read = typical / _factor(unit)
    fits = [name for name, factor in MICROVOLTS.items() if low <= as_read * factor <= high]
    remedy = f"say unit={fits[0]}" if fits else "check the gain in the file"
    raise DataError(
        f"the median channel of {path} has a standard deviation of {typical:.3g} microvolts, and an EEG has {low:g} to "
        f"{high:g}; {remedy}",
        "not the amplitude of an EEG in that unit",
    )


def _stamp(path: str) -> tuple[int, int]:
    with one_file(path, "a recording of EEG"):
        facts = os.stat(path)
    return facts.st_size, facts.st_mtime_ns


@functools.lru_cache(maxsize=KEPT_OPEN)
def _opened(path: str, bids_root: str, stamp: tuple[int, int]) -> Any:
    """MNE's object of a file; the stamp makes it another one where the file has changed."""
    mne = demanded("mne")
    with _reading(path):
        if not bids_root:
            return mne.io.read_raw(path, preload=False, verbose="ERROR")
        mne_bids = demanded("mne_bids")
        place = mne_bids.get_bids_path_from_fname(path, check=False)
        place.update(root=bids_root, check=False)
        return mne_bids.read_raw_bids(place, verbose="ERROR")


@contextmanager
def _reading(path: str) -> Iterator[None]:
    with warnings.catch_warnings(), one_file(path, "a recording of EEG", "a file that cannot be read"):
        warnings.simplefilter("ignore")  # each flaw of a file is an error or counts for nothing here
        yield


def _channels(raw: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """Spelling of each channel that is read -> its name in the file; and the names of EEG that nobody knows."""
    found: dict[str, str] = {}
    unknown: list[str] = []
    for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True):
        spelled = electrode(name)
        if kind != "eeg" or AUXILIARY.match(spelled):
            continue
        if set(pair(spelled) or (spelled,)) <= positions().keys():
            found.setdefault(spelled, name)
        else:
            unknown.append(name)
    return found, tuple(unknown)
