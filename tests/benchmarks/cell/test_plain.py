"""``MEDGRAFT_PLAIN=1``: the same numbers without any shortcut, in cells that say so and never mix with the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from medgraft.benchmarks.board.columns import cells_of_row
from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.cell.steps.evaluation import evaluate
from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.operations import operations
from medgraft.benchmarks.cell.steps.precomputing import build
from medgraft.benchmarks.cell.steps.training import train
from medgraft.benchmarks.measure import environment
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.fast.switch import VARIABLE

PAIRS = [
    ("chexpert", "embedded:chest", "linear_probe", "fp32"),
    ("chexpert", "embedded:chest", "lora", "fp32"),
    ("chexpert", "embedded:chest", "ace_hgnn", "fp32"),
    ("chexpert", "timm:test_vit@random", "adaptformer", "fp32"),
    ("chexpert", "embedded:chest", "perceiver_resampler", "fp32"),
    ("chexpert_5x200", "embedded:chest", "ace_lora", "fp32"),
    ("adni_image", "embedded:brain", "lora", "bf16"),
    ("adni_image", "embedded:brain", "st_adapter", "fp32"),
    ("adni_image_text", "embedded:brain", "tgh_moe", "fp32"),
    ("adni_text", "embedded:brain", "houlsby", "fp32"),
]


class Numbers(NamedTuple):
    """What a cell computes.

    Attributes:
        features: Modality -> pooled features of test samples ``[B, C]``, before anything is trained.
        losses: One per epoch.
        scores: Predictions of the test samples.
    """

    features: dict[str, Tensor]
    losses: list[float]
    scores: np.ndarray


def numbers(spec: CellSpec, root: Path) -> Numbers:
    with operations(spec):
        ready = build(load(spec, root))
        ready.grafted.eval()
        with torch.no_grad():
            features = ready.runner.outputs(ready.loaded.splits["test"][:4])
        log = train(ready, lambda share: None)
        arrays = evaluate(ready).arrays
    return Numbers({name: each.pooled.float() for name, each in features.items()}, log.epoch_loss, arrays["scores"])


def spec_of(task: str, encoder: str, adapter: str, precision: str, **changes: Any) -> CellSpec:
    facts = {"task": task, "cohort": {"name": "c", "revision": "r", "phantom": True}, "encoder": encoder, "seed": 0}
    train = {"epochs": 2, "batch_size": 8, "lr": 1e-4}
    more = {"adapter": adapter, "precision": precision, "backend": "auto", "limit": 16, "train": train}
    return CellSpec.model_validate({**facts, **more, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(("task", "encoder", "adapter", "precision"), PAIRS)
def test_the_numbers_are_the_same(
    task: str, encoder: str, adapter: str, precision: str, request: pytest.FixtureRequest, monkeypatch
):
    """Cached features are rounded to half precision (5e-4) in the fast run; bf16 rounds at 4e-3 in both.

    Heads of few samples and their thresholds magnify what features differ by, so scores get more room.
    """
    cohort = request.getfixturevalue("adni_cohort" if task.startswith("adni") else "chest_cohort")
    fast = numbers(spec_of(task, encoder, adapter, precision), cohort)
    monkeypatch.setenv(VARIABLE, "1")
    plain = numbers(spec_of(task, encoder, adapter, precision, plain=True), cohort)
    tolerance = 2e-3 if precision == "fp32" else 2e-2
    assert set(fast.features) == set(plain.features)
    for name, expected in plain.features.items():
        off = (fast.features[name] - expected).norm() / expected.norm()
        assert off < tolerance, f"features of the {name} tower: {off:.1e}"
    assert fast.losses == pytest.approx(plain.losses, rel=5 * tolerance)
    np.testing.assert_allclose(fast.scores, plain.scores, atol=10 * tolerance)


def test_a_plain_cell_has_a_key_and_a_row_of_its_own_and_others_keep_theirs():
    usual, plain = (spec_of("chexpert", "embedded:chest", "lora", "fp32", plain=plain) for plain in (False, True))
    assert usual.key() != plain.key() and usual.row() != plain.row()
    assert "plain" not in usual.defining() and plain.defining()["plain"] is True
    said = [
        cells_of_row(BoardRow([CellResult(key=spec.key(), status="error", spec=spec, phantom=True)], {}), ())["backend"]
        for spec in (usual, plain)
    ]
    assert said == ["auto fp32", "auto fp32 plain"]


def test_the_environment_of_a_result_says_so(monkeypatch):
    assert environment.describe(1)["plain"] is False
    monkeypatch.setenv(VARIABLE, "1")
    assert environment.describe(1)["plain"] is True and environment.describe(1)["fp32_product"] == "mkl"


def test_a_sweep_reads_the_variable(toy, monkeypatch):
    from rich.console import Console

    from medgraft.benchmarks.sweep.plan import make_plan
    from medgraft.benchmarks.sweep.request import Sweep

    sweep = Sweep.model_validate(
        {"adapters": ["toy_gain"], "tasks": ["toy"], "encoders": ["toy:tiny"], "data": {"toy": str(toy.cohort)}}
    )
    keys = {}
    for value in ("0", "1"):
        monkeypatch.setenv(VARIABLE, value)
        keys[value] = {cell.key(): cell.plain for cell in make_plan(sweep, Console(quiet=True)).cells}
    assert set(keys["0"].values()) == {False} and set(keys["1"].values()) == {True}
    assert not set(keys["0"]) & set(keys["1"])
