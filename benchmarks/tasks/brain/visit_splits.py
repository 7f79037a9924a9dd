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
from medgraft.errors import DataError
from medgraft.task import subject_split


def strata_of(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """One word per row, ``[n]``, that joins its values of some columns; a missing value is a stratum of its own."""
    if not names:
        return np.full(len(frame), "all")
    columns = [frame[name].astype("string").fillna("?") for name in names]
    return np.array(["|".join(values) for values in zip(*columns, strict=True)])


def site_split(
    frame: pd.DataFrame, strata: np.ndarray, fractions: Mapping[str, float], seed: int, held_out: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Whole sites in the test split; subjects of the others in training and validation: split -> rows ``[m]``.

    A subject belongs to the site of its first visit, and takes all its visits there.

    Args:
        frame: Rows with ``subject`` and ``site``, first visits first within a subject.
        strata: Stratum of each row, for training against validation.
        fractions: Shares of ``train``, ``val`` and ``test``; with ``held_out`` the share of test is whatever they hold.
        seed: Decides which sites are held out, and the rest of the split.
        held_out: The test sites, by their names in the tables; empty to draw them.

    Raises:
        DataError: A row has no site, a named site is not there, or there are not sites enough.
    """
    site = pd.Series(frame.groupby("subject")["site"].transform("first"), dtype="string")
    if homeless := int(site.isna().to_numpy().sum()):
        raise DataError(f"{homeless} rows have no site, so sites cannot be held out; use split: subject")
    sizes: dict[str, int] = frame.assign(site=site).groupby("site")["subject"].nunique().to_dict()
    if unknown := sorted(set(held_out) - sizes.keys()):
        raise DataError(f"no subject is of site {', '.join(unknown)}; the cohort has: {', '.join(sorted(sizes))}")
    test = set(held_out) or _drawn_sites(sizes, fractions["test"], seed)
    if not test or test == sizes.keys():
        raise DataError(f"the cohort has {len(sizes)} site(s); holding some out needs at least one on either side")
    inside = site.isin(list(test)).to_numpy(bool)
    rest = {name: fractions[name] / (fractions["train"] + fractions["val"]) for name in ("train", "val")}
    others = np.flatnonzero(~inside)
    parts = subject_split(frame["subject"].to_numpy(str)[others], strata[others], rest, seed)
    return {**{name: others[index] for name, index in parts.items()}, "test": np.flatnonzero(inside)}


def _drawn_sites(sizes: Mapping[str, int], share: float, seed: int) -> set[str]:
    """Sites in random order, each taken if that brings the number of their subjects nearer to the share."""
    target, taken = share * sum(sizes.values()), 0
    chosen: set[str] = set()
    for name in np.random.default_rng([seed, 5]).permutation(sorted(sizes)):
        if abs(taken + sizes[name] - target) < abs(taken - target):
            chosen.add(str(name))
            taken += sizes[name]
    return chosen


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
