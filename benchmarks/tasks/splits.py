"""Options of a split by subject, for tasks whose data name none; and whole sites held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from medgraft.errors import DataError
from medgraft.options import Seed
from medgraft.task import TaskConfig, subject_split


class SplitConfig(TaskConfig):
    """Shares of the subjects.

    Attributes:
        test_fraction: Share of subjects in the test split.
        val_fraction: Share of subjects in the validation split.
        split_seed: Defines the split, for all seeds of a sweep.
    """

    test_fraction: float = Field(0.3, gt=0, lt=1)
    val_fraction: float = Field(0.1, gt=0, lt=1)
    split_seed: Seed = 0

    @model_validator(mode="after")
    def _some_train(self) -> SplitConfig:
        if self.test_fraction + self.val_fraction >= 1:
            raise ValueError("test_fraction and val_fraction leave no subject for training")
        return self

    @property
    def fractions(self) -> dict[str, float]:
        """Share of the subjects in each split."""
        train = 1 - self.test_fraction - self.val_fraction
        return {"train": train, "val": self.val_fraction, "test": self.test_fraction}


class SiteSplitConfig(SplitConfig):
    """Shares of the subjects, or whole sites in the test split.

    Attributes:
        holdout: ``site`` puts whole sites into the test split, of which training and validation then have nobody.
        site: The test sites of ``holdout: site``, by their names in the data; where none is named, sites are drawn
            until they have about ``test_fraction`` of the subjects.
    """

    later: ClassVar[Mapping[str, Any]] = MappingProxyType({"holdout": "none", "site": []})

    holdout: Literal["none", "site"] = "none"
    site: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _named_sites(self) -> SiteSplitConfig:
        if self.site and self.holdout != "site":
            raise ValueError("site names test sites, which needs holdout: site")
        return self

    def split(self, subjects: np.ndarray, strata: np.ndarray, sites: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Split -> sample numbers ``int64 [m]``.

        Args:
            subjects: Subject of each sample, ``[n]``.
            strata: By which the rest is stratified, ``[n]``.
            sites: Site of each sample, ``[n]``, ``None`` where unknown; a subject is of the site of its first sample.

        Raises:
            DataError: Sites are to be held out, and a sample has none, or there is one site only, or a named one does
                not exist.
        """
        if self.holdout == "none":
            return subject_split(subjects, strata, self.fractions, self.split_seed)
        if sites is None:
            raise DataError("the data say nothing of sites, so none can be held out; use holdout: none")
        frame = pd.DataFrame({"subject": subjects, "site": sites})
        return site_split(frame, np.asarray(strata), self.fractions, self.split_seed, self.site)

    def said_of_split(self) -> dict[str, str]:
        """What a result says of it."""
        return {"split_by": "site" if self.holdout == "site" else "subject"}


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
        raise DataError(f"{homeless} rows have no site, so sites cannot be held out; split by subject instead")
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
