"""Numbers behind the charts: fronts, mean ranks, thresholds, ticks."""

from __future__ import annotations

import many
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from medgraft.benchmarks.board.document import document
from medgraft.benchmarks.site.charts.pareto import Point, front, pareto_chart
from medgraft.benchmarks.site.charts.ranks import ranks_chart
from medgraft.benchmarks.site.charts.svg import LogScale, Scale, log_padded, padded, plain_number
from medgraft.benchmarks.site.curves import steps, thinned
from medgraft.benchmarks.site.mean_ranks import MeanRanks, critical_difference, mean_ranks

FEW = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(FEW, st.booleans(), st.booleans())
def test_the_front_is_what_no_other_row_beats_in_both(pairs, cost_up, quality_up):
    points = [Point(str(n), cost, quality) for n, (cost, quality) in enumerate(pairs)]
    a, b = (-1 if cost_up else 1), (-1 if quality_up else 1)

    def beaten(p: Point) -> bool:
        return any(
            a * q.cost <= a * p.cost and b * q.quality <= b * p.quality and (q.cost, q.quality) != (p.cost, p.quality)
            for q in points
        )

    assert {p.name for p in front(points, cost_up=cost_up, quality_up=quality_up)} == {
        p.name for p in points if not beaten(p)
    }


def test_a_row_that_trains_nothing_stands_at_zero_of_a_logarithmic_axis():
    chart = pareto_chart("t", [Point("a", 0, 0.5), Point("b", 5000, 0.7)], "parameters", "AUC")
    assert chart is not None and [p.name for p in chart.front] == ["a", "b"] and ">0</text>" in chart.svg
    assert pareto_chart("t", [Point("a", 1, 0.5)], "parameters", "AUC") is None


@given(st.floats(1e-3, 1e12), st.floats(1, 1e8))
def test_a_logarithmic_axis_has_plain_numbers_and_not_too_many(low, factor):
    scale = LogScale(*log_padded([low, low * factor]), 0, 300)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 10 and all(scale.low * 0.99 <= tick <= scale.high * 1.01 for tick in ticks)
    assert not any("e" in plain_number(tick) for tick in ticks)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_in_the_range(low, width):
    scale = Scale(*padded([low, low + width]), 0, 300)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 12 and ticks == sorted(set(ticks))
    assert all(scale.low - 1e-6 * width <= tick <= scale.high + 1e-6 * width for tick in ticks)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: 0 < sum(actual for _, actual in pairs) < len(pairs)))  # fmt: skip
def test_found_and_false_alarms_are_those_of_scikit_learn(pairs):
    scores, actual = np.array([s for s, _ in pairs], float), np.array([a for _, a in pairs])
    true, false = steps(scores, actual)
    expected = roc_curve(actual, scores, drop_intermediate=False)
    assert np.allclose(false / false[-1], expected[0][1:]) and np.allclose(true / true[-1], expected[1][1:])


def test_thinned_points_keep_both_ends():
    assert thinned(3).tolist() == [0, 1, 2] and thinned(1).tolist() == [0]
    assert len(thinned(1000)) == 80 and thinned(1000)[[0, -1]].tolist() == [0, 999]


# --- mean ranks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "q"), [(2, 10, 1.960), (3, 10, 2.343), (4, 14, 2.569), (5, 30, 2.728), (10, 8, 3.164)]
)
def test_the_critical_difference_is_that_of_demsars_table(k, n, q):
    assert critical_difference(k, n) == pytest.approx(q * np.sqrt(k * (k + 1) / (6 * n)), rel=1e-3)


def test_mean_ranks_are_over_tasks_and_not_over_encoders():
    found = mean_ranks(document(many.rows(3, 2, 4, 1), "x"), phantom=True)
    assert isinstance(found, MeanRanks) and len(found.tasks) == 3 and len(found.names) == 4
    assert sum(found.ranks) == pytest.approx(4 * 5 / 2) and list(found.ranks) == sorted(found.ranks)
    assert found.difference == pytest.approx(critical_difference(4, 3)) and 0 <= (found.p_value or 0) <= 1
    assert "Mean ranks over 3 tasks" in ranks_chart(found)


def test_one_task_gives_no_mean_rank_and_says_so():
    said = mean_ranks(document(many.rows(1, 2, 4, 1), "x"), phantom=True)
    assert isinstance(said, str) and "two tasks" in said
    assert "real" in str(mean_ranks(document(many.rows(3, 1, 4, 1), "x"), phantom=False))


def test_adapters_that_did_not_run_everywhere_are_left_out_by_name():
    rows = many.rows(3, 1, 4, 1)
    rows = [row for row in rows if (row.first.spec.adapter, row.first.spec.task) != ("adapter_2", "task_01")]
    found = mean_ranks(document(rows, "x"), phantom=True)
    assert isinstance(found, MeanRanks) and found.left_out == ("adapter_2",) and len(found.tasks) == 3


def test_groups_join_neighbours_within_the_critical_difference():
    ranks = MeanRanks(("a", "b", "c", "d"), (1.0, 1.5, 2.6, 4.0), ("t", "u"), 1.2, None)
    assert ranks.groups() == [(0, 1), (1, 2)]
