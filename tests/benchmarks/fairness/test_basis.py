"""What a board refuses to mix, and that it says why in a sentence that names the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_leaderboard import store, terminal

from medgraft.benchmarks.board.leaderboard import table
from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.fairness.basis import why_apart
from medgraft.benchmarks.results.chosen import Dimension, Sizing, Trial, Tuning
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.store import ResultStore


def stored_with(folder: Path, result: CellResult, **changes: Any) -> CellResult:
    """The result once more, with other facts; the predictions beside it stay."""
    changed = result.model_copy(update=changes)
    ResultStore(folder).put(changed)
    return changed


def machine(result: CellResult, cpu: str, *, jobs: int = 1, speed: float = 100.0) -> dict[str, Any]:
    assert result.efficiency is not None
    cost = {"concurrent_jobs": jobs, "train_samples_per_s": speed, "inference_samples_per_s": speed}
    return {"env": {"cpu": cpu}, "efficiency": result.efficiency.model_copy(update=cost)}


APART = {
    "split": (
        {},
        {"data": {"classes": ["CN", "AD"], "split_hash": "ef" * 32}},
        ("the split's digest is", "ab" * 6, "ef" * 6),
    ),
    "task version": ({"task_version": 2}, {}, ("the task's version is", "1", "2")),
    "numbers version": ({"numbers_version": 5}, {}, ("the version of the harness's numbers is", "6", "5")),
    "limit": ({"limit": 40}, {}, ("samples per split are limited to", "none", "40")),
    "options": ({"task_options": {"a": 1}}, {}, ("the task's options are", "none", "a 1")),
    "metric": (
        {},
        {"metric_versions": {"f1_macro": 2}},
        ("definitions of metrics beyond version 1 are", "none", "f1_macro 2"),
    ),
}


@pytest.mark.parametrize("what", APART)
def test_rows_measured_otherwise_stand_in_another_table(tmp_path, what):
    spec, changes, (fact, usual, unusual) = APART[what]
    store(tmp_path, skill=0.9)
    other = store(tmp_path, adapter="lora", skill=0.9, **spec)
    if changes:
        stored_with(tmp_path, other, **changes)
    rows = board_rows([tmp_path])
    assert len({row.section for row in rows}) == 2
    (sentence,) = why_apart(rows).values()
    there, here = (unusual, usual) if sentence.startswith("brain_adapter") else (usual, unusual)
    assert f"above, and ranks do not run over both tables: {fact} {there} there and {here} here." in sentence
    assert "lora on phantom_brain" in sentence and "brain_adapter on phantom_brain" in sentence
    assert sentence[:40] in " ".join(terminal(rows, 400).split())
    assert markdown(rows, BoardOptions("x")).count("\n## ") == 2


def test_phantoms_and_people_stand_apart_and_it_is_said(tmp_path):
    store(tmp_path, phantom=False)
    store(tmp_path, phantom=True, adapter="lora")
    rows = board_rows([tmp_path])
    (sentence,) = why_apart(rows).values()
    assert "lora on phantom_brain" in sentence and "collected there and generated (PHANTOM) here" in sentence


def test_rows_of_one_basis_share_a_table_without_a_word(tmp_path):
    store(tmp_path)
    store(tmp_path, adapter="lora")
    stored_with(tmp_path, store(tmp_path, adapter="vpt"), metric_versions={"f1_macro": 1})
    rows = board_rows([tmp_path])
    assert len({row.section for row in rows}) == 1 and why_apart(rows) == {}


def test_seeds_on_different_splits_are_never_averaged(tmp_path):
    store(tmp_path, 0)
    stored_with(tmp_path, store(tmp_path, 1), data={"classes": ["CN", "AD"], "split_hash": "ef" * 32})
    rows = board_rows([tmp_path])
    assert [len(row.cells) for row in rows] == [1, 1] and len(why_apart(rows)) == 1


def test_a_row_that_failed_stands_with_those_that_were_asked_for_the_same(tmp_path):
    store(tmp_path)
    store(tmp_path, adapter="lora", status="oom")
    assert len({row.section for row in board_rows([tmp_path])}) == 1


def test_speeds_of_other_hardware_are_marked_and_named(tmp_path):
    for adapter, cpu, jobs in (("a", "Xeon", 1), ("b", "Xeon", 1), ("c", "EPYC", 1), ("d", "Xeon", 4)):
        result = store(tmp_path, adapter=adapter)
        stored_with(tmp_path, result, **machine(result, cpu, jobs=jobs))
    rows = {row.first.spec.adapter: row for row in board_rows([tmp_path])}
    assert {name: row.other_hardware for name, row in rows.items()} == {
        "a": "",
        "b": "",
        "c": "EPYC, 1 thread, 1 worker at a time",
        "d": "Xeon, 1 thread, 4 workers at a time",
    }
    text = markdown(list(rows.values()), BoardOptions("x"))
    assert text.count("100 \\*") + text.count("100 *") == 4  # two speeds of two rows
    assert "speeds of other hardware: EPYC" in terminal(list(rows.values()), 200)


def test_a_median_over_seeds_takes_no_speeds_of_another_machine(tmp_path):
    from medgraft.benchmarks.board.rows import median

    for seed, cpu, speed in ((0, "Xeon", 10.0), (1, "Xeon", 20.0), (2, "EPYC", 900.0)):
        result = store(tmp_path, seed)
        stored_with(tmp_path, result, **machine(result, cpu, speed=speed))
    (row,) = board_rows([tmp_path])
    assert median(row, "train_samples_per_s") == 15.0


# --- marks ------------------------------------------------------------------------------------------------------------


def tuning(trials: int, best: float | None = 0.7) -> Tuning:
    ran = [Trial(number=i, values={"train.lr": 1e-3}, status="success", score=best) for i in range(trials)]
    space = [Dimension(name="train.lr", values=[1e-3, 1e-2], default=1e-3)]
    return Tuning(
        asked=trials, trials=ran, space=space, metric="f1_macro", higher_is_better=True, chosen={"train.lr": 1e-3},
        default_score=best, best_score=best, seconds=1.0, seed=1, sampler="s",
    )  # fmt: skip


def test_rows_that_had_more_effort_are_marked_everywhere(tmp_path):
    stored_with(tmp_path, store(tmp_path, adapter="lora", tune=20), tuning=tuning(20))
    steps = {"steps": 9, "recipe_epochs": 6}
    stored_with(tmp_path, store(tmp_path, adapter="vpt", train={"epochs": 18}), training=steps)
    stored_with(tmp_path, store(tmp_path, adapter="ssf", train={"epochs": 6}), training=steps)
    sizing = Sizing(budget=1_000_000, reached=980_000, share=0.98, knobs={"houlsby.width": 40})
    stored_with(tmp_path, store(tmp_path, adapter="houlsby", budget=1_000_000), sizing=sizing)
    over = Sizing(budget=500_000, reached=600_000, share=1.2, knobs={})
    stored_with(tmp_path, store(tmp_path, adapter="taskres", budget=500_000), sizing=over)
    rows = board_rows([tmp_path])
    marks = {row.first.spec.adapter: row.marks for row in rows}
    assert marks == {
        "lora": ("tuned, 20 trials",),
        "vpt": ("trained 3x the recipe's epochs",),
        "ssf": (),
        "houlsby": ("budget 1M, 98% used",),
        "taskres": ("budget 500k exceeded: 600k",),
    }
    text, shown = markdown(rows, BoardOptions("x")), terminal(rows, 200)
    for each in marks.values():
        assert all(mark in text and mark in shown for mark in each)
    assert set(table(rows)["marks"].dropna()) == {mark for each in marks.values() for mark in each}


def test_a_search_without_a_score_is_no_tuning_and_says_so(tmp_path):
    stored_with(tmp_path, store(tmp_path, adapter="lora", tune=3), tuning=tuning(3, None))
    (row,) = board_rows([tmp_path])
    assert row.marks == ("tuned, 3 trials without a score",)


def test_a_head_that_is_solved_was_not_trained_longer(tmp_path):
    stored_with(
        tmp_path,
        store(tmp_path, adapter="linear_probe", train={"epochs": 600}),
        training={"steps": 0, "recipe_epochs": 60},
    )
    (row,) = board_rows([tmp_path])
    assert row.marks == ()
