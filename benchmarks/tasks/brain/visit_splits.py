"""Splits of ADNI: by subject always, stratified, or with whole sites held out.

Validation and test hold the first visit only, in its preferred processing, as Wen et al., "Convolutional neural
networks for classification of Alzheimer's disease", Medical Image Analysis 2020, recommend. Visits and processed
variants of one person are on one side, whatever the split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.tables.visit_table import baseline_only


def strata_of(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """One word per row, ``[n]``, that joins its values of some columns; a missing value is a stratum of its own."""
    if not names:
        return np.full(len(frame), "all")
    columns = [frame[name].astype("string").fillna("?") for name in names]
    return np.array(["|".join(values) for values in zip(*columns, strict=True)])


def first_visits_only(
    frame: pd.DataFrame, splits: Mapping[str, np.ndarray], *, training_too: bool
) -> dict[str, np.ndarray]:
    """The splits, name -> rows ``[m]``, with one row per subject in validation and test.

    Args:
        frame: The table.
        splits: Split -> row numbers.
        training_too: Hold training to first visits as well; all processed variants of them stay.
    """
    rows = baseline_only(frame.assign(_row=np.arange(len(frame))))["_row"].to_numpy()
    first = np.zeros(len(frame), bool)
    first[rows] = True
    scans = frame["scan"].isin(frame["scan"].iloc[rows]).to_numpy(bool)
    keep = {"val": first, "test": first, "train": scans if training_too else np.ones(len(frame), bool)}
    return {name: index[keep[name][index]] for name, index in splits.items()}


def describe_sites(frame: pd.DataFrame, splits: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Sites and field strengths of each split (rows ``[m]``), in numbers; sites that test shares with training."""
    sites = {name: set(frame["site"].iloc[index].dropna().astype(str)) for name, index in splits.items()}
    fields = {
        name: {f"{tesla:g} T": int(n) for tesla, n in frame["field_strength"].iloc[index].value_counts().items()}
        for name, index in splits.items()
    }
    return {
        "n": {name: len(names) for name, names in sites.items()},
        "test_shares_with_train": len(sites["test"] & sites["train"]),
        "field_strength": fields,
    }
