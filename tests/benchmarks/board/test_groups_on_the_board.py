"""Groups of test subjects on the board: one row each, the gap at the end, means over seeds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from cells import spec
from rich.console import Console

from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import BoardRow, make_row
from medgraft.benchmarks.board.tables.groups import group_rows
from medgraft.benchmarks.board.terminal import show_board
from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.metrics.groups import Groups
from medgraft.benchmarks.results.result import CellResult


def estimate(value: float | None, n: int = 40) -> Estimate:
    ends = (None, None) if value is None else (max(0.0, value - 0.1), min(1.0, value + 0.1))
    return Estimate(value=value, ci_low=ends[0], ci_high=ends[1], n=n, n_subjects=n)


def row(*values: tuple[float, float | None]) -> BoardRow:
    cells = []
    for seed, (f, m) in enumerate(values):
        each = spec(seed=seed)
        groups = Groups(
            metric="auc_macro",
            groups={"F": estimate(f), "M": estimate(m, 30)},
            worst="M" if m is not None and m < f else "F",
            gap=estimate(None if m is None else abs(f - m), 70),
            left_out={"unknown": 3},
        )
        cells.append(
            CellResult(
                key=each.key(),
                status="success",
                spec=each,
                phantom=True,
                primary="auc_macro",
                metrics={"auc_macro": estimate(0.8)},
                groups={"sex": groups},
            )
        )
    return make_row([(Path(f"{cell.key}.json"), cell) for cell in cells])


def test_each_group_and_the_gap_have_a_row():
    table = group_rows([row((0.9, 0.7))])
    assert [cells[3:6] for cells in table] == [
        ["F", "40", "0.900 [0.800, 1.000]"],
        ["M", "30", "0.700 [0.600, 0.800]"],
        ["gap, best to worst", "", "0.200 [0.100, 0.300]"],
    ]
    assert [cells[6] for cells in table] == ["", "worst", "too few: unknown (3)"]


def test_seeds_are_means_and_their_spread_widens():
    table = group_rows([row((0.9, 0.7), (0.8, 0.7), (0.7, 0.9))])
    f = table[0][5]
    low, high = (float(end) for end in f.split("[")[1].rstrip("]").split(","))
    assert f.startswith("0.800") and low < 0.7 and high > 0.9
    assert table[1][6] == "worst in 2 of 3" and table[0][6] == "worst in 1 of 3"


def test_intervals_end_where_the_metric_does():
    table = group_rows([row((0.99, 0.98), (0.9, 0.98), (0.99, 0.98))])
    for cells in table:
        low, high = (float(end) for end in cells[5].split("[")[1].rstrip("]").split(","))
        assert 0 <= low <= high <= 1


def test_an_undefined_group_says_so():
    assert group_rows([row((0.9, None))])[1][5] == "undefined"


def test_they_stand_on_the_board_only_where_they_are_asked_for():
    rows = [row((0.9, 0.7))]
    assert "By groups" not in markdown(rows, BoardOptions("x"))
    assert "By groups of test subjects, `auc_macro`:" in markdown(rows, BoardOptions("x", groups=True))
    for groups in (False, True):
        console = Console(file=io.StringIO(), width=120)
        show_board(rows, console, groups=groups)
        assert ("auc_macro by groups" in console.file.getvalue()) == groups


def test_results_with_groups_are_read_again():
    cell = row((0.9, 0.7)).cells[0]
    again = CellResult.model_validate_json(cell.model_dump_json())
    assert again == cell and np.isclose(again.groups["sex"].gap.value, 0.2)
