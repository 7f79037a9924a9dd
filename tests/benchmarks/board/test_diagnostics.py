"""Stages, router entropies, loads by task and dense fallbacks on the board, on the terminal and in the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cells import spec
from rich.console import Console

from medgraft.benchmarks.board.diagnostics import DIAGNOSTIC_COLUMNS, diagnostic_cells
from medgraft.benchmarks.board.drawn.load_figure import draw_loads, loads
from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.board.terminal import show_board
from medgraft.benchmarks.metrics.bootstrap import Estimate as Metric
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.store import ResultStore
from medgraft.errors import MedgraftError

STAGES = [
    {"adapter": "tgh_moe", "stage": "task-shared", "steps": 30, "trainable": 1200, "parameters": ["a"]},
    {"adapter": "tgh_moe", "stage": "task-specific", "steps": 31, "trainable": 800, "parameters": ["b"]},
]


def report(entropy: float, dense: list[str]) -> dict[str, Any]:
    return {
        "samples": 8,
        "router_entropy": entropy,
        "task_accuracy": 0.75,
        "expert_load": {"0": [0.9, 0.1], "1": [0.25, 0.75]},
        "load_entropy": {"0": 0.5, "1": 0.9},
        "dense_blocks": dense,
    }


def cell(seed: int, entropy: float = 0.8, dense: tuple[str, ...] = (), **changes: Any) -> CellResult:
    own = spec(seed=seed)
    values: dict[str, Any] = {
        "key": own.key(),
        "status": "success",
        "spec": own,
        "phantom": True,
        "metrics": {"f1_macro": Metric(value=0.5, ci_low=0.4, ci_high=0.6, n=8, n_subjects=8)},
        "training": {"stages": STAGES},
        "data": {"questions": ["which sex", "which age"]},
        "diagnostics": {"tgh_moe": report(entropy, list(dense))},
    }
    return CellResult(**{**values, **changes})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = ResultStore(tmp_path / "results")
    for each in (cell(0), cell(1, 0.6, ("blocks.3.mlp",))):
        store.put(each)
    return tmp_path / "results"


def test_a_row_tells_stages_means_over_seeds_and_where_a_router_was_made_dense():
    found = diagnostic_cells([cell(0), cell(1, 0.6, ("blocks.3.mlp",))])
    assert len(found) == len(DIAGNOSTIC_COLUMNS)
    assert found == [
        "task-shared of tgh_moe (30, 1,200); task-specific of tgh_moe (31, 800)",
        "0.700",
        "which sex 0.500, which age 0.900",
        "0.750",
        "blocks.3.mlp in 1 of 2 seeds",
    ]


def test_no_collapse_is_said_too_and_other_adapters_say_nothing():
    assert diagnostic_cells([cell(0)])[-1] == "none"
    assert diagnostic_cells([cell(0, training={}, diagnostics={"lora": {"rank": 4}})]) == []
    assert diagnostic_cells([cell(0, status="error")]) == []


def test_stages_alone_are_told_for_an_adapter_without_a_router():
    assert diagnostic_cells([cell(0, diagnostics={})]) == [
        "task-shared of tgh_moe (30, 1,200); task-specific of tgh_moe (31, 800)", "-", "-", "-", "-",
    ]  # fmt: skip


def test_the_board_and_the_terminal_show_them(results):
    rows = board_rows([results])
    text = markdown(rows, BoardOptions("made so"))
    assert "load entropy by task" in text and "blocks.3.mlp in 1 of 2 seeds" in text
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show_board(rows, console)
    shown = console.export_text()
    assert "routers made dense: blocks.3.mlp in 1 of 2 seeds" in shown and "tasks told by prompt: 0.750" in shown


def test_the_figure_shows_mean_loads_by_task_and_repeats_itself(results, tmp_path):
    found = loads(board_rows([results]))
    assert [(load.tasks, load.shares) for load in found] == [(["which sex", "which age"], [[0.9, 0.1], [0.25, 0.75]])]
    assert found[0].phantom and found[0].dense
    first, second = tmp_path / "a" / "load.svg", tmp_path / "b.svg"
    draw_loads(found, first)
    draw_loads(found, second)
    text = first.read_text()
    assert first.read_bytes() == second.read_bytes()
    assert all(word in text for word in ("which sex", "expert 1", "(PHANTOM)", "router made dense"))


def test_results_without_a_load_are_no_figure(tmp_path):
    assert loads([]) == []
    with pytest.raises(MedgraftError, match="run tgh_moe with tasks=4"):
        draw_loads([], tmp_path / "load.svg")
    ResultStore(tmp_path / "r").put(cell(0, diagnostics={}))
    assert loads(board_rows([tmp_path / "r"])) == []


def test_the_command_draws_from_folders_of_results(results, tmp_path, medgraft):
    done = medgraft("expert-load", str(results), "--out", str(tmp_path / "load.svg"))
    assert done.exit_code == 0 and "1 panels" in done.stdout and (tmp_path / "load.svg").is_file()
    nothing = medgraft("expert-load", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x.svg"))
    assert nothing.exit_code != 0 and not (tmp_path / "x.svg").exists()
