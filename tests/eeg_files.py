"""Small files of EEG with values that a test knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

TEN_TWENTY = ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "F7", "F8", "T3", "T4", "T5", "T6", "Fz")


def noise(channels: int = 6, seconds: float = 8.0, rate: float = 128.0, seed: int = 0) -> np.ndarray:
    """Microvolts ``[channels, seconds * rate]``, deviation 20."""
    return 20 * np.random.default_rng(seed).standard_normal((channels, round(seconds * rate)))


def write(
    path: Path, values: np.ndarray, names: tuple[str, ...] = TEN_TWENTY, rate: float = 128.0, factor: float = 1e-6
) -> str:
    """Writes microvolts as the format of the file's name, through MNE; another factor makes them another unit."""
    import mne

    info: Any = mne.create_info(list(names[: len(values)]), rate, "eeg")
    raw: Any = mne.io.RawArray(values * factor, info, verbose="ERROR")
    path.parent.mkdir(parents=True, exist_ok=True)
    mne.export.export_raw(path, raw, verbose="ERROR")
    return str(path)
