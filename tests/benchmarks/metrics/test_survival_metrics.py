"""Concordance and the area at a time against their definitions, pair by pair; the share that is still followed."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_numbers import points

from medgraft.benchmarks.metrics.survival import followed
from medgraft.metric import Predictions


def drawn(seed: int, n: int = 24) -> Predictions:
    rng = np.random.default_rng(seed)
    time = rng.integers(1, 12, n).astype(float)
    event = (rng.random(n) < 0.6).astype(int)
    event[:2], time[:2] = 1, (2, 3)
    columns = {"event": event, "censoring": rng.uniform(0.3, 1, n), "horizons": np.tile([4.0, 8.0], (n, 1))}
    return Predictions(
        rng.integers(0, 9, (n, 1)).astype(float), time, np.arange(n), (), objective="survival", columns=columns
    )


def concordance(p: Predictions, copies: np.ndarray) -> float:
    risk, time, event = p.scores[copies, 0], p.targets[copies], p.columns["event"][copies]
    right = total = 0.0
    for i, j in permutations(range(len(copies)), 2):
        if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
            total += 1
            right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return right / total if total else float("nan")


def area(p: Predictions, horizon: float, copies: np.ndarray) -> float:
    risk, time, event, share = (
        column[copies] for column in (p.scores[:, 0], p.targets, p.columns["event"], p.columns["censoring"])
    )
    right = cases = 0.0
    controls = [j for j in range(len(copies)) if time[j] > horizon]
    for i in (i for i in range(len(copies)) if event[i] and time[i] <= horizon):
        cases += 1 / share[i]
        right += sum((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]) for j in controls) / share[i]
    return right / (cases * len(controls)) if cases and controls else float("nan")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_values_are_those_of_the_definitions(seed):
    p = drawn(seed)
    values, _ = points(p)
    everyone = np.arange(24)
    assert values["c_index"] == pytest.approx(concordance(p, everyone))
    areas = [area(p, 4, everyone), area(p, 8, everyone)]
    assert [values["auc_at_4"], values["auc_at_8"]] == pytest.approx(areas, nan_ok=True)
    assert values["auc_time"] == pytest.approx(np.nanmean(areas), nan_ok=True)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_a_weight_counts_as_so_many_copies(seed):
    p = drawn(seed)
    weights = np.random.default_rng(seed).integers(0, 3, (2, 24)).astype(float)
    _, statistics = points(p)
    for row, w in enumerate(weights):
        copies = np.repeat(np.arange(24), w.astype(int))
        assert statistics["c_index"](weights)[row] == pytest.approx(concordance(p, copies), nan_ok=True)
        assert statistics["auc_at_4"](weights)[row] == pytest.approx(area(p, 4, copies), nan_ok=True)


def test_perfect_and_reversed_risks():
    p = drawn(0)
    for sign, wanted in ((-1, 1.0), (1, 0.0)):
        ordered = replace(p, scores=sign * p.targets[:, None])
        values, _ = points(ordered)
        tied = concordance(ordered, np.arange(24))
        assert values["c_index"] == pytest.approx(tied) and abs(values["c_index"] - wanted) < 0.1
        assert values["auc_at_4"] == pytest.approx(wanted)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_followed_share_is_the_product_of_those_who_did_not_leave(seed):
    rng = np.random.default_rng(seed)
    time, event = rng.integers(1, 8, 20).astype(float), rng.random(20) < 0.5
    for at in (0.5, 2.0, 5.0, 9.0):
        share = 1.0
        for t in sorted(set(time[~event])):
            if t >= at:
                break
            at_risk = ((time > t) | ((time == t) & ~event)).sum()
            share *= 1 - ((time == t) & ~event).sum() / at_risk
        assert followed(time, event, np.array([at]))[0] == pytest.approx(share)


def test_nobody_leaves_where_all_events_are_seen():
    assert (followed(np.arange(1.0, 5), np.ones(4, bool), np.array([0.5, 3, 99])) == 1).all()
