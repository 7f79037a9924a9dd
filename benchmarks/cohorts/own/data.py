"""Somebody's own samples, understood: files, texts, labels, subjects and splits, and what was left out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.own.labels import Targets

OWN_SUBJECT = "no column of patients: each sample is a subject of its own, and intervals may be too narrow"


@dataclass(frozen=True)
class OwnData:
    """Samples that are used, and what is known of them.

    Attributes:
        files: ``[n]`` absolute paths; empty for texts alone.
        texts: ``[n]``; empty where there are none.
        inputs: Modalities of a sample.
        targets: Labels of the ``n`` samples.
        subjects: ``[n]`` keys; equal files are of one.
        splits: Split -> sample numbers.
        digests: ``[n]`` content of each file; empty for texts alone.
        attributes: Further columns, of ``n`` rows.
        left_out: Reason -> rows that are not used.
        notes: Sentences that a reader of the results must know.
        own_split: The file's own splits were kept.
        patients: ``[n]`` as the file names them; ``None`` where it names none.
    """

    files: list[str]
    texts: list[str]
    inputs: tuple[str, ...]
    targets: Targets
    subjects: np.ndarray
    splits: Mapping[str, np.ndarray]
    digests: list[str]
    attributes: pd.DataFrame
    left_out: Counter[str]
    notes: list[str]
    own_split: bool
    patients: np.ndarray | None
