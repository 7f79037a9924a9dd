"""Who converts: the published rules, case by case, and what the tables alone predict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgraft.benchmarks.cohorts.adni.conversion import conversion_label, conversion_labels
from medgraft.benchmarks.cohorts.tables.tabular import PREDICTORS, baseline_lines, table_baselines


@pytest.mark.parametrize(
    ("history", "month", "horizon", "label"),
    [
        ([(0, "MCI"), (36, "MCI")], 0, 36, "sMCI"),
        ([(0, "MCI"), (24, "MCI"), (48, "MCI")], 0, 36, "sMCI"),
        ([(0, "MCI"), (48, "MCI")], 0, 36, "sMCI"),
        ([(0, "MCI"), (36, "AD")], 0, 36, "pMCI"),
        ([(0, "MCI"), (6, "AD")], 0, 36, "pMCI"),
        ([(0, "MCI"), (6, "AD")], 0, 24, "pMCI"),
        ([(0, "MCI"), (24, "MCI"), (48, "AD")], 0, 36, "unknown"),
        ([(0, "MCI"), (36, "MCI"), (48, "AD")], 0, 36, "sMCI"),
        ([(0, "MCI"), (36, "MCI"), (48, "AD")], 0, 60, "pMCI"),
        ([(0, "MCI"), (36, "MCI"), (48, "AD")], 24, 24, "pMCI"),
        ([(0, "MCI"), (24, "MCI")], 0, 36, "unknown"),
        ([(0, "MCI")], 0, 24, "unknown"),
        ([(0, "MCI"), (36, None)], 0, 36, "unknown"),
        ([(0, "MCI"), (12, "CN")], 0, 36, "reverted"),
        ([(0, "MCI"), (12, "AD"), (24, "MCI")], 0, 36, "unstable"),
        ([(0, "CN"), (12, "MCI"), (24, "AD")], 12, 36, "unstable"),
        ([(0, "CN"), (12, "MCI"), (48, "MCI")], 12, 36, "sMCI"),
    ],
)
def test_the_rules(history, month, horizon, label):
    assert conversion_label(history, month, horizon) == label
    assert conversion_label(history[::-1], month, horizon) == label, "the order of the table says nothing"


@given(
    st.lists(
        st.tuples(st.integers(1, 20).map(lambda n: 6 * n), st.sampled_from(["CN", "MCI", "AD", None])), max_size=8
    ),
    st.sampled_from([24, 36, 60]),
)
def test_what_lies_beyond_the_horizon_never_makes_a_converter(history, horizon):
    history = [(0, "MCI"), *{month: (month, dx) for month, dx in history}.values()]
    label = conversion_label(history, 0, horizon)
    within = {dx for month, dx in history if 0 < month <= horizon}
    assert label != "pMCI" or "AD" in within
    assert label != "sMCI" or not within & {"AD", "CN"}
    seen_later = any(month >= horizon and dx is not None for month, dx in history)
    assert label != "sMCI" or seen_later, "nobody is stable for lack of follow-up"


def test_labels_of_a_table():
    frame = pd.DataFrame({"subject": list("aabc"), "month": [0.0, 12.0, 0.0, np.nan], "dx": ["MCI", "AD", "CN", "MCI"]})
    visits = pd.DataFrame({"subject": ["a", "a"], "month": [0.0, 12.0], "dx": ["MCI", "AD"]})
    assert conversion_labels(frame, visits, 24).tolist() == ["pMCI", "not MCI", "not MCI", "undated"]


# --- tabular baselines ------------------------------------------------------------------------------------------------


def table_of(n: int, signal: str, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """A table in which one column tells the class and the others are noise."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, n)
    names = ("age", "education", "apoe4", "MMSE", "ADAS13", "RAVLT_immediate", "FAQ", "CDRSB", "Hippocampus", "ICV")
    frame = pd.DataFrame({name: rng.normal(10, 1, n) for name in names})
    frame["sex"], frame["subject"] = rng.choice(["F", "M"], n), [f"{i:03d}" for i in range(n)]
    frame[signal] += 3.0 * targets
    return frame, targets


@pytest.mark.parametrize(
    ("signal", "knows"),
    [("Hippocampus", "hippocampal volume"), ("MMSE", "cognition"), ("apoe4", "age, sex, APOE"), ("age", "age, sex")],
)
def test_the_baseline_that_reads_the_signal_finds_it(signal, knows):
    frame, targets = table_of(300, signal)
    frame.loc[::5, signal] = np.nan
    splits = {"train": np.arange(0, 180), "val": np.arange(180, 200), "test": np.arange(200, 300)}
    found = table_baselines(frame, targets, splits, ("sMCI", "pMCI"))
    assert set(found) == set(PREDICTORS)
    for name, facts in found.items():
        value, low, high = facts["auc_macro"]
        assert low <= value <= high
        assert (value > 0.8) == (signal in facts["fields"]), (name, value)
    assert knows in found and found["all of them"]["n_train"] == 180


def test_test_rows_never_reach_the_fit():
    frame, targets = table_of(200, "MMSE")
    splits = {"train": np.arange(0, 120), "test": np.arange(120, 200)}
    before = table_baselines(frame, targets, splits, ("a", "b"))["cognition"]["auc_macro"]
    shuffled = targets.copy()
    shuffled[120:] = 1 - shuffled[120:]
    after = table_baselines(frame, shuffled, splits, ("a", "b"))["cognition"]["auc_macro"]
    assert after[0] == pytest.approx(1 - before[0])


def test_a_cohort_without_the_columns_says_so():
    frame, targets = table_of(60, "MMSE")
    frame["Hippocampus"] = np.nan
    splits = {"train": np.arange(40), "test": np.arange(40, 60)}
    found = table_baselines(frame, targets, splits, ("a", "b"))
    assert found["hippocampal volume"] == {"unavailable": ["Hippocampus", "hippocampus_icv"]}
    lines = baseline_lines(found)
    assert any("not in this cohort: Hippocampus, hippocampus_icv" in line for line in lines)
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1 and baseline_lines({}) == []
