"""How files of each kind are read, to train on and to predict."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from medgraft.benchmarks.cohorts.eeg.windows import load_recording
from medgraft.benchmarks.cohorts.images.load import load_photograph, load_radiograph
from medgraft.benchmarks.cohorts.volumes.load import load_spaced

READERS: dict[str, Callable[[str], Any]] = {
    "image": load_radiograph,
    "signal": load_recording,
    "volume": functools.partial(load_spaced, analyze=True),
}
"""Modality -> reads a raw sample from a file; raises :class:`medgraft.errors.DataError` for one that cannot be used."""


def reader_of(modality: str, *, colour: bool) -> Callable[[str], Any]:
    """What reads files of a modality.

    Args:
        modality: A key of :data:`READERS`.
        colour: Images are read in colour; nothing else has any.
    """
    return load_photograph if colour and modality == "image" else READERS[modality]
