"""Whole sites in the test split: of runs, and of any task with the option."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medgraft.benchmarks.tasks.brain.adni_expression import AdniExpression
from medgraft.benchmarks.tasks.fmri.abide import Abide
from medgraft.benchmarks.tasks.splits import SiteSplitConfig
from medgraft.errors import DataError
from medgraft.testing.phantoms import small_phantom

SUBJECTS = np.array([f"s{k:02d}" for k in range(60)])
SITES = np.array([("A", "B", "C", "D")[k % 4] for k in range(60)], object)
STRATA = np.arange(60) // 4 % 2


def options_of(**options: Any) -> SiteSplitConfig:
    return SiteSplitConfig(**options)


def split(**options) -> dict[str, np.ndarray]:
    return options_of(holdout="site", **options).split(SUBJECTS, STRATA, SITES)


@pytest.mark.parametrize("seed", range(4))
def test_test_subjects_are_of_sites_that_nothing_else_has_seen(seed):
    parts = split(split_seed=seed)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(60))
    assert not set(SITES[parts["test"]]) & set(SITES[np.concatenate([parts["train"], parts["val"]])])
    assert len(parts["test"]) == 15 and len(parts["val"]) == pytest.approx(45 * 0.1 / 0.7, abs=2)
    np.testing.assert_array_equal(parts["test"], split(split_seed=seed)["test"])


def test_seeds_draw_different_sites_and_names_choose_them():
    assert len({SITES[split(split_seed=seed)["test"]][0] for seed in range(8)}) > 1
    assert set(SITES[split(site=("B", "D"))["test"]]) == {"B", "D"}
    assert len(split(site=("B", "D"))["test"]) == 30


@pytest.mark.parametrize(
    ("sites", "options", "why"),
    [
        (np.array(["A"] * 60, object), {}, "1 site"),
        (SITES, {"site": ("X",)}, "no subject is of site X"),
        (SITES, {"site": ("A", "B", "C", "D")}, "one on either side"),
        (np.array([None, *SITES[1:]], object), {}, "1 rows have no site"),
        (None, {}, "say nothing of sites"),
    ],
)
def test_what_cannot_be_held_out_is_said_in_a_sentence(sites, options, why):
    with pytest.raises(DataError, match=why) as error:
        options_of(holdout="site", **options).split(SUBJECTS, STRATA, sites)
    assert "\n" not in str(error.value)


def test_a_site_without_the_option_is_refused_and_results_from_before_keep_their_keys():
    with pytest.raises(ValidationError, match="holdout: site"):
        options_of(site=("A",))
    assert {"holdout", "site"}.isdisjoint(options_of().recorded())
    assert options_of(holdout="site", site=("A",)).recorded()["site"] == ["A"]


@pytest.mark.parametrize(("task", "cohort"), [(Abide, "abide"), (AdniExpression, "adni_expression")])
def test_tasks_with_sites_hold_them_out(task, cohort):
    data = task(task.Config(holdout="site")).load(small_phantom(cohort)).check()
    sites = data.attributes["site"]
    assert not set(sites[data.splits["test"]]) & set(sites[data.splits["train"]])
    assert data.provenance["split_by"] == "site"
