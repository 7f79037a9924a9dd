"""The published comparison of Brain-Adapter as one preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.sweep.plan import make_plan
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.sweep.rows import rows

PRESET = "brain_adapter_comparison"


def comparison(**values: Any) -> Sweep:
    return Sweep.model_validate({"preset": PRESET, "seeds": [0], "baselines": False, **values})


def test_it_has_the_rows_of_the_paper():
    found = {(row.label, row.task, row.encoder) for row in rows(comparison())}
    assert found >= {
        ("3D ResNet-50", "adni_image", "pixels:3d"),
        ("3D DenseNet-121", "adni_image", "pixels:3d"),
        *((setting, task, "phantom_brain") for setting in ("FPM", "TLP") for task in ("adni_image", "adni_image_text")),
    }


def test_networks_from_scratch_keep_their_input_whatever_encoder_is_named():
    found = rows(comparison(encoders=["embedded:brain@random"]))
    assert {row.encoder for row in found if row.adapter == "scratch_cnn"} == {"pixels:3d"}
    assert {row.encoder for row in found if row.adapter == "brain_adapter"} == {"phantom_brain@random"}  # its alias


def test_every_row_fits(adni_cohort):
    plan = make_plan(comparison(data={"adni": adni_cohort}), Console(quiet=True))
    assert not plan.skipped and len(plan.cells) == len(plan.labels) == 14


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_brain_adapters_rows_run_to_per_class_numbers(adni_cohort, tmp_path, monkeypatch, medgraft):
    monkeypatch.chdir(tmp_path)
    done = medgraft(
        *("run", "--preset", PRESET, "--tasks", "adni_image_text", "--limit", "16", "--epochs", "1", "--seeds", "0"),
        *("--encoders", "phantom_brain@random", "--jobs", "1", "--no-baselines", "--results", "out"),
        *("--data", f"adni={adni_cohort}"),
    )
    assert done.exit_code == 0, done.output
    results = [result for _, result in read_results([Path("out")]) if result.spec.adapter == "brain_adapter"]
    assert {result.spec.adapter_options["setting"] for result in results} == {"FPM", "TLP"}
    for result in results:
        for kind in ("precision", "recall", "f1"):
            assert {f"{kind}_{name}" for name in ("cn", "mci", "ad")} <= set(result.metrics)
        assert {"precision_macro", "precision_weighted", "f1_macro", "f1_weighted"} <= set(result.metrics)
    assert {row.status for row in board_rows([Path("out")])} == {"success"}
