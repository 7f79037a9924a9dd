"""Writes EEG files through the libraries of their formats: EEGLAB (eeglabio) and EDF (edfio)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medgraft.benchmarks.cohorts.eeg.libraries import demanded


def write_eeglab(path: Path, values: np.ndarray, channels: Sequence[str], rate: float) -> None:
    """Writes a file ``.set`` with the values in it.

    Args:
        path: Of the file.
        values: Microvolts, ``[C, T]``.
        channels: Names of the ``C`` channels.
        rate: Samples per second.

    Raises:
        ConfigError: eeglabio is not installed.
    """
    raw = demanded("eeglabio.raw")
    raw.export_set(str(path), values / 1e6, rate, list(channels))


def write_edf(
    path: Path, values: np.ndarray, channels: Sequence[str], rate: int, *, code: str, sex: str, age: int
) -> None:
    """Writes a file ``.edf`` of whole seconds as the TUH corpus has them: 16 bits, and the age among a patient's facts.

    Args:
        path: Of the file.
        values: Microvolts, ``[C, T]``; what exceeds a whole number of seconds is left out.
        channels: Names of the ``C`` channels.
        rate: Samples per second.
        code: Of the patient.
        sex: ``F`` or ``M``.
        age: In years.

    Raises:
        ConfigError: edfio is not installed.
    """
    edfio = demanded("edfio")
    whole = values[:, : values.shape[1] // rate * rate]
    limit = max(float(np.abs(whole).max()), 1.0)
    signals = [
        edfio.EdfSignal(row, rate, label=name, physical_dimension="uV", physical_range=(-limit, limit))
        for name, row in zip(channels, whole, strict=True)
    ]
    patient = edfio.Patient(code=code, sex=sex, additional=(f"Age:{age}",))
    edfio.Edf(signals, patient=patient, data_record_duration=1).write(path)
