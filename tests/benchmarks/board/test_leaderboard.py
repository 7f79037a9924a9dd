"""The leaderboard: one row per set of hyper-parameters, pooled intervals, phantoms never taken for people."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from medgraft.benchmarks.board.leaderboard import table, write_board
from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import BoardRow, board_rows
from medgraft.benchmarks.board.terminal import show_board
from medgraft.benchmarks.board.text import count
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.benchmarks.results.result import CellResult, Efficiency, OpUse
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.errors import MedgraftError
from medgraft.metric import Predictions

CLASSES = ("CN", "AD")


def store(
    folder: Path, seed: int = 0, *, status: str = "success", phantom: bool = True, skill: float = 0.5, **changes: Any
) -> CellResult:
    """Writes a result with predictions on 20 subjects of two scans each."""
    spec = CellSpec.model_validate(
        {
            "task": "adni_image",
            "cohort": {"name": "adni", "revision": "rev-phantom" if phantom else "rev-real", "phantom": phantom},
            "encoder": "phantom_brain",
            "adapter": "brain_adapter",
            "seed": seed,
            "train": {"epochs": 3},
            **changes,
        }
    )
    rng = np.random.default_rng([seed, int(100 * skill)])
    targets = np.repeat(np.arange(20) % 2, 2)
    first = np.clip(0.5 + skill * (0.5 - targets) + 0.4 * rng.standard_normal(40), 0, 1)
    scores, groups = np.stack([first, 1 - first], axis=1), np.repeat(np.arange(20), 2)
    good = status == "success"
    result = CellResult(
        key=spec.key(),
        status=status,  # pyright: ignore[reportArgumentType]
        message="" if good else "it broke",
        spec=spec,
        phantom=phantom,
        metrics=evaluate(Predictions(scores, targets, groups, CLASSES), resamples=200) if good else {},
        efficiency=Efficiency(trainable={"brain_adapter": 1500, "head": 20} if good else {}, encoder_parameters=9),
        data={
            "classes": list(CLASSES),
            "split_hash": ("ab" if phantom else "cd") * 32,
            "splits": {"test": {"samples": 40, "subjects": 20}},
        }
        if good
        else {},
    )
    arrays = {"scores": scores, "targets": targets, "groups": groups} if good else None
    ResultStore(folder).put(result, arrays)
    return result


def terminal(rows: list[BoardRow], width: int = 80) -> str:
    text = io.StringIO()
    show_board(rows, Console(file=text, width=width))
    return text.getvalue()


def sections(text: str) -> dict[str, str]:
    """Markdown by heading of the second level."""
    return {part.split("\n", 1)[0]: part for part in text.split("\n## ")[1:]}


# --- rows -------------------------------------------------------------------------------------------------------------


def test_seeds_join_in_one_row_with_their_mean(tmp_path):
    values = [store(tmp_path, seed).metrics["f1_macro"].value or 0 for seed in range(3)]
    (row,) = board_rows([tmp_path])
    assert len(row.cells) == 3 and row.metrics["f1_macro"][0] == pytest.approx(np.mean(values))


def test_other_hyper_parameters_are_another_row_that_says_what_differs(tmp_path):
    store(tmp_path, train={"epochs": 3})
    store(tmp_path, train={"epochs": 40})
    rows = board_rows([tmp_path])
    assert {row.adapter for row in rows} == {"brain_adapter (epochs 3)", "brain_adapter (epochs 40)"}


def test_a_row_without_a_double_carries_no_note(tmp_path):
    store(tmp_path)
    store(tmp_path, adapter="lora", train={"epochs": 40})
    assert {row.adapter for row in board_rows([tmp_path])} == {"brain_adapter", "lora"}


def test_limited_runs_have_a_table_of_their_own(tmp_path):
    store(tmp_path)
    store(tmp_path, limit=16)
    found = sections(markdown(board_rows([tmp_path]), BoardOptions("x")))
    assert set(found) == {"adni_image (PHANTOM)", "adni_image (PHANTOM), at most 16 samples per split"}


def test_another_text_policy_has_a_table_of_its_own_that_names_it(tmp_path):
    for policy in ("cognitive", "full"):
        store(tmp_path, task_options={"text_policy": policy})
    rows = board_rows([tmp_path])
    text = markdown(rows, BoardOptions("x"))
    assert len({row.section for row in rows}) == 2
    assert "text_policy cognitive" in text and "text_policy full" in text


def test_rows_are_ranked_by_the_primary_metric(tmp_path):
    for skill, adapter in ((0.0, "weak"), (0.9, "strong"), (0.3, "middling")):
        store(tmp_path, skill=skill, adapter=adapter)
    rows = board_rows([tmp_path])
    values = [row.metrics[row.first.primary][0] or 0.0 for row in rows]
    assert values == sorted(values, reverse=True) and rows[0].first.spec.adapter == "strong"


def test_the_interval_of_a_row_pools_the_seeds_over_one_set_of_resamples(tmp_path):
    cells = [store(tmp_path, seed) for seed in range(4)]
    (row,) = board_rows([tmp_path])
    value, low, high = row.metrics["f1_macro"]
    assert low is not None and high is not None and value is not None and low < value < high
    each = [cell.metrics["f1_macro"] for cell in cells]
    single = np.mean([(m.ci_high or 0) - (m.ci_low or 0) for m in each])
    # The seeds' noise is independent here, so a mean of four varies less than one of them.
    assert high - low < 0.9 * single


def test_without_predictions_the_seeds_own_intervals_and_their_spread_are_added_up(tmp_path):
    found = [store(tmp_path, seed).metrics["f1_macro"] for seed in range(3)]
    values = [each.value or 0 for each in found]
    below = np.mean(values) - np.mean([each.ci_low or 0 for each in found])
    seeds = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)  # Student's quantile of two degrees of freedom
    for path in tmp_path.rglob("*.npz"):
        path.unlink()
    (row,) = board_rows([tmp_path])
    assert row.metrics["f1_macro"][1] == pytest.approx(np.mean(values) - np.hypot(below, seeds))


def test_seeds_with_other_test_samples_are_not_resampled_together(tmp_path):
    store(tmp_path, 0)
    result = store(tmp_path, 1)
    path = ResultStore(tmp_path).path(result.spec)
    with np.load(path.with_suffix(".npz")) as stored:
        fewer = {name: stored[name][:-2] for name in stored.files}  # a scan that could not be read that day
    metrics = evaluate(Predictions(fewer["scores"], fewer["targets"], fewer["groups"], CLASSES), resamples=200)
    ResultStore(tmp_path).put(result.model_copy(update={"metrics": metrics}), fewer)
    (row,) = board_rows([tmp_path])
    assert len(row.cells) == 2 and row.metrics["f1_macro"][1] is not None and row.status == "success"


def test_damaged_predictions_do_not_stop_the_board(tmp_path):
    for seed in range(2):
        path = ResultStore(tmp_path).path(store(tmp_path, seed).spec).with_suffix(".npz")
        path.write_bytes(path.read_bytes()[: 400 if seed else 3])  # a copy that was cut off
    (row,) = board_rows([tmp_path])
    assert row.status == "success (2 unverified)"


def test_an_undefined_metric_is_a_dash_and_not_zero(tmp_path):
    result = store(tmp_path)
    result.metrics["auc_macro"] = result.metrics["auc_macro"].model_copy(update={"value": None, "ci_low": None})
    ResultStore(tmp_path).put(result).with_suffix(".npz").unlink()  # which would give another value
    (row,) = board_rows([tmp_path])
    assert row.metrics["auc_macro"][0] is None and "nan" not in markdown([row], BoardOptions("x"))


def test_several_folders_merge(tmp_path):
    store(tmp_path / "a", 0)
    store(tmp_path / "b", 1)
    (row,) = board_rows([tmp_path / "a", tmp_path / "b"])
    assert [cell.spec.seed for cell in row.cells] == [0, 1]


# --- failures ---------------------------------------------------------------------------------------------------------


def test_failing_seeds_are_visible_and_leave_the_mean_alone(tmp_path):
    store(tmp_path, 0, status="oom")
    value = store(tmp_path, 1).metrics["f1_macro"].value
    store(tmp_path, 2, status="timeout")
    (row,) = board_rows([tmp_path])
    assert row.status == "2 of 3: oom, timeout" and row.metrics["f1_macro"][0] == value
    for text in (markdown([row], BoardOptions("x")), table([row]).to_csv(), terminal([row], 200)):
        assert "2 of 3: oom, timeout" in text


def test_a_row_that_failed_altogether_comes_last_without_numbers(tmp_path):
    store(tmp_path, status="error", adapter="a_broken_one")
    store(tmp_path, skill=0.0)
    last = board_rows([tmp_path])[-1]
    assert last.status == "1 of 1: error"
    line = next(line for line in markdown([last], BoardOptions("x")).splitlines() if "a_broken_one" in line)
    assert [cell.strip() for cell in line.split("|")[3:10]] == ["-"] * 7


# --- phantoms ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def both(tmp_path: Path) -> list[BoardRow]:
    store(tmp_path, phantom=True)
    store(tmp_path, phantom=False)
    return board_rows([tmp_path])


def test_every_phantom_table_and_line_is_marked(both):
    found = sections(markdown(both, BoardOptions("x")))
    assert list(found) == ["adni_image", "adni_image (PHANTOM)"]
    heads = [line for line in found["adni_image (PHANTOM)"].splitlines() if line.startswith("| encoder")]
    assert "PHANTOM" in heads[1]


def test_real_and_phantom_rows_are_never_in_one_table(both):
    found = sections(markdown(both, BoardOptions("x")))
    assert "rev-phantom" not in found["adni_image"] and "rev-real" not in found["adni_image (PHANTOM)"]
    assert found["adni_image"].count("brain_adapter") == 2  # the table of means and that of classes


def test_the_terminal_marks_phantom_tables_only(both):
    text = terminal(both)
    titles = [line.strip() for line in text.splitlines() if line.startswith("adni_image")]
    assert titles == ["adni_image", "adni_image (PHANTOM)"]


def test_the_csv_says_of_every_line_what_it_was_measured_on(both):
    assert table(both)["data"].tolist() == ["real", "PHANTOM"]


def test_a_board_of_real_rows_does_not_mention_phantoms(tmp_path):
    store(tmp_path, phantom=False)
    rows = board_rows([tmp_path])
    assert "PHANTOM" not in markdown(rows, BoardOptions("x")) + terminal(rows)


def test_a_board_with_phantoms_says_what_they_are_worth(both):
    assert "no clinical evidence" in markdown(both, BoardOptions("x"))


# --- what people read -------------------------------------------------------------------------------------------------


def test_eighty_columns_hold_every_number_whole(tmp_path):
    for seed in range(2):
        store(tmp_path, seed, encoder="open_clip:hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224")
    store(tmp_path, 1, status="timeout", adapter="lora+ace_hgnn")
    text = terminal(board_rows([tmp_path]), 80)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    value = board_rows([tmp_path])[0].metrics["f1_macro"][0]
    assert f"{value:.3f} [" in text and "…" not in text and "1.5k" in text


def test_the_markdown_states_the_command_the_split_and_the_means(tmp_path):
    value = store(tmp_path).metrics["f1_macro"]
    text = markdown(board_rows([tmp_path]), BoardOptions("medgraft run --adapters brain_adapter"))
    assert "Made by `medgraft run --adapters brain_adapter`" in text
    assert "test 40 samples of 20 subjects" in text and "split `abababababab`" in text
    assert f"{value.value:.3f} [{value.ci_low:.3f}, {value.ci_high:.3f}]" in text


def test_a_bar_in_a_name_does_not_split_its_cell(tmp_path):
    store(tmp_path, encoder="pair:a|b")
    text = markdown(board_rows([tmp_path]), BoardOptions("x"))
    lines = [line for line in text.splitlines() if line.startswith("|") and "pair:a" in line]
    heads = [line for line in text.splitlines() if line.startswith("| encoder")]
    assert len(lines) == len(heads) > 1
    for head, line in zip(heads, lines, strict=True):
        assert r"pair:a\|b" in line and len(re.split(r"(?<!\\)\|", line)) == len(head.split("|"))


def test_the_csv_reads_back_with_every_metric(tmp_path):
    cell = store(tmp_path)
    _, path = write_board(board_rows([tmp_path]), tmp_path / "out", BoardOptions("x"))
    read = pd.read_csv(path)
    for name, metric in cell.metrics.items():
        assert read[name][0] == pytest.approx(metric.value), name
    assert read["trainable"][0] == 1520 and read["split_hash"][0] == "ab" * 32


def test_classes_have_their_own_columns(tmp_path):
    store(tmp_path)
    text = markdown(board_rows([tmp_path]), BoardOptions("x"))
    assert "F1 cn (PHANTOM)" in text and "AUC ad (PHANTOM)" in text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0, "0"), (512, "512"), (969217, "969.2k"), (1.5e6, "1.5M"), (2e9, "2.0G")]
)
def test_counts_are_short(value, text):
    assert count(value) == text


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_merges_folders_and_writes_all_files(tmp_path, medgraft):
    store(tmp_path / "a", 0)
    store(tmp_path / "b", 1)
    done = medgraft("leaderboard", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out"))
    assert done.exit_code == 0 and "adni_image (PHANTOM)" in done.output
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["index.html", *(f"leaderboard.{end}" for end in ("csv", "json", "md", "parquet")), "rows"]


def test_further_metrics_are_shown_with_their_intervals(tmp_path, medgraft):
    for seed in (0, 1):
        store(tmp_path / "a", seed)
    asked = ("leaderboard", str(tmp_path / "a"), "--out", str(tmp_path), "--metrics")
    assert medgraft(*asked, "precision_ad, recall_ad").exit_code == 0
    lines = (tmp_path / "leaderboard.md").read_text().splitlines()
    (head,) = [i for i, line in enumerate(lines) if "precision_ad (PHANTOM)" in line]
    shown = [cell.strip() for cell in lines[head + 2].strip("|").split("|")]
    assert len(shown) == 4 and all(re.fullmatch(r"0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]", cell) for cell in shown[2:])
    assert "--metrics 'precision_ad, recall_ad'" in lines[2]
    done = medgraft(*asked, "precison_ad")
    assert done.exit_code == 2 and "no result has the metric 'precison_ad'" in done.stderr


def test_a_folder_without_results_is_an_error(tmp_path, medgraft):
    done = medgraft("leaderboard", str(tmp_path))
    assert done.exit_code == 2 and "no readable result below" in done.stderr


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path):
    store(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(MedgraftError, match=r"cannot be written to .*file.*; choose another"):
        write_board(board_rows([tmp_path / "a"]), tmp_path / "file" / "out", BoardOptions("x"))


# --- backends ---------------------------------------------------------------------------------------------------------


def with_ops(folder: Path, backend: str, **ops: list[OpUse]) -> str:
    made = store(folder, backend=backend).model_copy(update={"ops": ops})
    ResultStore(folder).put(made)
    return markdown(board_rows([folder]), BoardOptions("c"))


def test_a_fused_row_says_what_was_fused_and_why_something_was_not(tmp_path):
    why = "the batch is empty"
    text = with_ops(
        tmp_path, "fused",
        info_nce=[OpUse(form="eager", asked="fused", calls=1, reason=why), OpUse(form="fused", asked="fused", calls=3)],
        packed_lora=[OpUse(form="fused", asked="fused", calls=8)],
    )  # fmt: skip
    assert "| fused fp32 (info_nce, packed_lora; eager: info_nce) |" in text
    assert f"- brain_adapter, info_nce: eager in 1 of 4 calls (asked for fused): {why}" in text


def test_a_fused_row_without_any_operation_says_so(tmp_path):
    assert "| fused fp32 (nothing fused) |" in with_ops(tmp_path, "fused")


def test_an_eager_row_shows_its_backend_alone(tmp_path):
    text = with_ops(tmp_path, "eager", info_nce=[OpUse(form="eager", asked="eager", calls=2)])
    assert "| eager fp32 |" in text and "did not run fused" not in text
