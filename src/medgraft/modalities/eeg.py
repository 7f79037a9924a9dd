"""What the names and values of an EEG's channels mean: electrodes, differences of two, units, amplitudes."""

from __future__ import annotations

import functools
import importlib
import re
from typing import Any, Literal

import numpy as np

Unit = Literal["uV", "mV", "V"]
MICROVOLTS = {"uV": 1.0, "mV": 1e3, "V": 1e6}
PLAUSIBLE = (0.3, 1000.0)
"""Standard deviation in microvolts between which the median channel of an EEG lies."""

SATURATED = 0.1
"""A channel that spends at least this share of its samples at its largest or its smallest value is saturated."""

TEN_TWENTY = (
    *("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz"),
    *("C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1", "O2"),
)
"""The 19 electrodes of the international 10-20 system, by their names in the 10-10 system."""

OLDER = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
"""Names of the 10-20 system, and those of the 10-10 system for the same places."""

AUXILIARY = re.compile(
    r"^(ECG|EKG|[HVLR]?EOG|EMG|STATUS|STI|TRIG|EVENT|RESP|PHOTIC|MISC|IBI|BURSTS|SUPPR|PULSE|PLETH|SPO2|SAO2|GSR|DC\d)"
)
"""Channels beside the EEG, which are left out."""

FEWEST = 3
"""Electrodes that an interpolation over the scalp needs at least."""


def electrode(name: str) -> str:
    """One spelling for an electrode: capitals, without ``EEG``, reference or dots, by its name in the 10-10 system.

    Example:
        >>> electrode("EEG T3-REF"), electrode("Fc5."), electrode("Fp1-F7")
        ('T7', 'FC5', 'FP1-F7')
    """
    bare = re.sub(r"^EEG[\s_-]+", "", name.strip().upper()).strip(". ")
    bare = re.sub(r"[\s_-]+(REF|LE|AR|AVG|AVE|CAR)$", "", bare).replace(" ", "")
    return "-".join(OLDER.get(part, part) for part in bare.split("-"))


@functools.cache
def positions() -> dict[str, np.ndarray]:
    """Places of the electrodes of the 10-05 system (MNE's template), by capitals, ``float64 [3]`` in metres."""
    library: Any = importlib.import_module("mne.channels")
    names = library.get_builtin_montages()
    montage = library.make_standard_montage(
        next(name for name in ("colin27_1005", "standard_1005") if name in names)  # the second until MNE 1.12
    )
    return {name.upper(): place for name, place in montage.get_positions()["ch_pos"].items()}


def pair(name: str) -> tuple[str, str] | None:
    """The two electrodes of a difference such as ``FP1-F7``; ``None`` for a single one."""
    first, line, second = name.partition("-")
    return (first, second) if line else None
