"""Ranks: who shares one, intervals that hold, tables of any size."""

from __future__ import annotations

import time

import numpy as np
import pytest

from medgraft.benchmarks.metrics.spread import LeftOut
from medgraft.benchmarks.statistics.pairs import differences, measured
from medgraft.benchmarks.statistics.ranks import Contender, Standing, standings


def mean(values: np.ndarray):
    return lambda weights: weights @ values / weights.sum(axis=1)


def rows_of(table: np.ndarray) -> tuple[list[Contender], LeftOut]:
    """Rows whose number is a mean over subjects, ``[M, s, S]``."""
    left_out = LeftOut(np.arange(table.shape[-1]))
    found = [measured([mean(seed) for seed in row], left_out) for row in table]
    return [Contender(each.value, each.value - 0.1, each.value + 0.1, each) for each in found], left_out


def table(rng: np.random.Generator, effects: list[float], subjects: int = 80, seeds: int = 1, spread: float = 0.0):
    """Rows that share what is hard about a subject."""
    M, hard = len(effects), rng.normal(size=subjects)
    own = 0.3 * rng.normal(size=(M, seeds, subjects)) + spread * rng.normal(size=(M, seeds, 1))
    return np.array(effects)[:, None, None] + hard + own


def test_a_mean_over_subjects_is_the_paired_t_test():
    from scipy import stats

    rows, left_out = rows_of(table(np.random.default_rng(0), [0.0, 0.1]))
    data = table(np.random.default_rng(0), [0.0, 0.1])
    found = differences([row.measured for row in rows if row.measured], [(0, 1)], left_out)
    expected = stats.ttest_rel(data[0, 0], data[1, 0])
    assert found.p_values()[0] == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.freedom[0] == pytest.approx(79)


def test_rows_share_a_rank_unless_the_data_separate_them():
    rows, left_out = rows_of(table(np.random.default_rng(1), [1.0, 1.0, 0.0, 0.0, -2.0]))
    found = standings(rows, left_out)
    assert [(s.rank, s.low, s.high, s.tie) for s in found] == [
        (1, 1, 2, 1),
        (1, 1, 2, 1),
        (3, 3, 4, 2),
        (3, 3, 4, 2),
        (5, 5, 5, 3),
    ]
    turned = standings(rows, left_out, higher_is_better=False)
    assert [s.rank for s in turned] == [4, 4, 2, 2, 1]


def test_paired_differences_see_what_intervals_do_not():
    rows, left_out = rows_of(table(np.random.default_rng(2), [0.2, 0.0]))
    assert [s.rank for s in standings(rows, left_out)] == [1, 2]
    alone = [Contender(row.value, row.value - 0.22, row.value + 0.22) for row in rows]  # their own 95% intervals
    assert [(s.rank, s.low, s.high) for s in standings(alone, None)] == [(1, 1, 2), (1, 1, 2)]
    mixed = standings([rows[0], alone[1]], left_out)
    assert [(s.rank, s.low, s.high) for s in mixed] == [(1, 1, 2), (1, 1, 2)]


def test_seeds_that_differ_separate_less():
    steady = rows_of(table(np.random.default_rng(3), [0.2, 0.0], seeds=3))
    loose = rows_of(table(np.random.default_rng(3), [0.2, 0.0], seeds=3, spread=0.3))
    assert [s.rank for s in standings(*steady)] == [1, 2]
    assert {s.high for s in standings(*loose)} == {2}


def test_a_rank_never_contradicts_the_values_and_lies_in_its_interval():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        data = table(rng, rng.normal(0, 0.15, 9).tolist(), subjects=40)
        data *= rng.uniform(0.3, 3.0, (9, 1, 1))  # rows whose own spread differs
        rows, left_out = rows_of(data)
        found = standings(rows, left_out)
        ordered = [found[i] for i in np.argsort([-row.value for row in rows])]
        assert [s.rank for s in ordered] == sorted(s.rank for s in ordered)
        assert all(1 <= s.low <= s.rank <= s.high <= 9 for s in found)
        assert found == standings(rows, left_out)


def test_identical_rows_and_a_row_alone():
    rows, left_out = rows_of(np.repeat(table(np.random.default_rng(4), [0.0]), 3, axis=0))
    assert standings(rows, left_out) == [Standing(1, 1, 3, 1)] * 3
    assert standings(rows[:1], left_out) == [Standing(1, 1, 1, 1)]
    assert standings([], None) == []


def test_true_ranks_are_held_as_often_as_promised():
    # Seven rows, three of them equal. All rank intervals of a table hold together in 95%: of 150 tables at least 88%,
    # which is four standard errors less.
    held, effects = 0, [0.6, 0.3, 0.3, 0.3, 0.0, -0.1, -0.4]
    best = [1 + sum(other > mine for other in effects) for mine in effects]
    worst = [7 - sum(other < mine for other in effects) for mine in effects]
    for seed in range(150):
        rows, left_out = rows_of(table(np.random.default_rng([5, seed]), effects, subjects=30))
        found = standings(rows, left_out)
        held += all(s.low <= up and s.high >= down for s, up, down in zip(found, best, worst, strict=True))
    assert held / 150 >= 0.88


def test_large_tables_are_fast():
    rng = np.random.default_rng(6)
    start = time.perf_counter()
    rows, left_out = rows_of(table(rng, rng.normal(0, 0.1, 40).tolist(), subjects=300, seeds=3))
    standings(rows, left_out)
    values = rng.random(10_000)
    many = standings([Contender(v, v - 0.01, v + 0.01) for v in values], None)
    assert time.perf_counter() - start < 20  # a second on an idle core
    assert many[int(values.argmax())].low == 1 and many[int(values.argmin())].high == 10_000
