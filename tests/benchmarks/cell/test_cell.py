"""The steps of one cell: which samples train, choose thresholds and are scored, and what a result says of its parts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cells import Ran, ran, spec
from medgraft_toy import SECRET
from sweeping import Toy

from medgraft.benchmarks.cell.job import Job
from medgraft.benchmarks.cell.steps.description import (
    describe_adapters,
    describe_data,
    describe_encoder,
    texts_at_limit,
)
from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.measuring import measure
from medgraft.benchmarks.cell.steps.operations import uses_of
from medgraft.benchmarks.cell.steps.precomputing import build
from medgraft.benchmarks.cell.worker import run_cell
from medgraft.benchmarks.metrics.classification import best_thresholds
from medgraft.benchmarks.results.migrations import SCHEMA_VERSION
from medgraft.benchmarks.results.result import CellResult
from medgraft.encoders import embedded


@pytest.fixture
def toy_cell(toy: Toy) -> Any:
    return ran(spec(), toy.cohort)


@pytest.fixture
def labels_cell(chest_cohort: Path) -> Any:
    return ran(spec(task="chexpert", encoder="pixels:2d", adapter="linear_probe"), chest_cohort)


# --- who is used for what ---------------------------------------------------------------------------------------------


def test_only_the_training_split_trains(toy_cell):
    assert [index.tolist() for index in toy_cell.fitted] == [toy_cell.loaded.data.splits["train"].tolist()]


def test_only_the_test_split_is_scored(toy_cell):
    splits = toy_cell.loaded.data.splits
    # Validation samples are predicted behind it, for conformal sets.
    assert [index.tolist() for index in toy_cell.predicted] == [splits["test"].tolist(), splits["val"].tolist()]
    assert np.array_equal(toy_cell.arrays["targets"], toy_cell.loaded.data.targets[toy_cell.loaded.data.splits["test"]])


def test_thresholds_come_from_validation_and_never_from_the_test_split(labels_cell):
    data, val = labels_cell.loaded.data, labels_cell.loaded.data.splits["val"]
    expected = best_thresholds(labels_cell.runner.predict(val), data.targets[val], data.mask[val])
    assert np.array_equal(labels_cell.arrays["thresholds"], expected)
    assert sorted(index.tolist() for index in labels_cell.predicted[:2]) == sorted(
        [data.splits["test"].tolist(), val.tolist()]
    )


def test_the_heads_scale_is_fitted_on_training_samples(labels_cell):
    train = labels_cell.loaded.splits["train"]
    pooled = labels_cell.runner.outputs(train)["image"].pooled
    torch.testing.assert_close(labels_cell.grafted.head.mean, pooled.mean(dim=0), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_read_is_in_no_split(toy, tmp_path):
    cohort = Path(shutil.copytree(toy.cohort, tmp_path / "toy"))
    broken = [f"{SECRET}-{subject:03d}-0.npy" for subject in range(0, 30, 3)]
    for name in broken:
        (cohort / name).write_bytes(b"damaged")
    loaded = load(spec(), cohort)
    used = np.concatenate(list(loaded.splits.values()))
    assert loaded.unreadable == len(broken) and len(used) == 60 - len(broken)
    assert not {2 * subject for subject in range(0, 30, 3)} & set(used.tolist())


def test_groups_number_the_subjects_of_the_test_split(toy_cell):
    subjects = toy_cell.loaded.data.subjects[toy_cell.loaded.data.splits["test"]]
    pairs = set(zip(subjects.tolist(), toy_cell.arrays["groups"].tolist(), strict=True))
    assert len(pairs) == len(set(subjects)) == len({group for _, group in pairs})


# --- what the result says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cohorts", "saw"), [((), False), (("ADNI",), False), (("Toy",), True)])
def test_an_encoder_that_saw_the_cohort_is_told(toy_cell, cohorts, saw):
    encoder = toy_cell.loaded.encoder
    encoder.spec = encoder.spec.model_copy(update={"cohorts": cohorts})
    assert describe_encoder(toy_cell.loaded)["saw_this_cohort"] is saw


def test_counts_are_those_of_the_splits_that_were_used(toy):
    cell = ran(spec(limit=4), toy.cohort)
    told = describe_data(cell.loaded, cell.evaluated)
    assert {name: part["samples"] for name, part in told["splits"].items()} == {
        "train": 4,
        "val": 4,
        "test": 4,
    }


def test_captions_longer_than_the_context_are_counted(chest_cohort, tmp_path):
    cohort = Path(shutil.copytree(chest_cohort, tmp_path / "chest"))
    table = next(cohort.rglob("df_chexpert_plus_240401.csv"))
    reports, counts = pd.read_csv(table), []
    for longer in (0, 5, len(reports)):
        texts = reports["section_impression"].copy()
        texts[:longer] = "effusion " * 200
        reports.assign(section_impression=texts).to_csv(table, index=False)
        made = load(spec(task="chexpert_5x200", encoder="phantom_chest@random", adapter="zero_shot"), cohort)
        counts.append(texts_at_limit(made))
        tower = made.encoder.towers()["text"]
        used = np.concatenate([made.splits[name] for name in ("train", "val", "test")])
        read = [made.data.inputs["text"].read(int(i)) for i in used]
        assert counts[-1] == sum(len(embedded.WORD.findall(text)) >= tower.spec.input_size[0] for text in read)
    assert counts[0] == 0 < counts[1] <= 5 < counts[2]


def test_adapters_say_what_they_hit(toy_cell):
    assert describe_adapters(toy_cell.ready) == {"toy_gain": {"options": {"noise": 0.05}, "coverage": {"features": 1}}}


def test_initial_weights_depend_on_the_seed_and_on_nothing_else(chest_cohort):
    def weights(seed: int) -> torch.Tensor:
        torch.rand(seed + 3)
        cell = build(load(spec(task="chexpert", encoder="pixels:2d", adapter="scratch_cnn", seed=seed), chest_cohort))
        return torch.cat([p.flatten() for p in cell.grafted.trainable_parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


def test_operations_of_a_fused_cell_are_recorded_and_give_the_scores_of_an_eager_one(chest_cohort):
    def cell(backend: str) -> Ran:
        facts = {"task": "chexpert", "encoder": "embedded:chest@random", "adapter": "lora"}
        return ran(spec(**facts, adapter_options={"rank": 4}, backend=backend), chest_cohort)

    eager, fused = cell("eager"), cell("fused")
    np.testing.assert_allclose(fused.arrays["scores"], eager.arrays["scores"], atol=1e-4)
    for made, form in ((eager, "eager"), (fused, "fused")):
        assert [(use.form, use.reason) for use in uses_of(made.record)["packed_lora"]] == [(form, "")]
        assert uses_of(made.record)["packed_lora"][0].calls >= 4  # once per block and step


def test_the_seam_of_the_contrastive_loss_follows_the_backend(chest_cohort):
    contrastive = {"task": "chexpert_5x200", "encoder": "embedded:chest@random", "adapter": "ace_hgnn"}
    cell = ran(spec(backend="auto", limit=8, **contrastive), chest_cohort)
    (use,) = uses_of(cell.record)["info_nce"]
    assert use.form == "eager" and "pairs; eager mode is faster on a CPU below 256" in use.reason


@pytest.mark.slow
def test_a_compiled_cell_gives_the_scores_of_an_eager_one(toy):
    eager = ran(spec(), toy.cohort).arrays["scores"]
    compiled = ran(spec(backend="compile"), toy.cohort)
    # Kernels sum in another order: a relative error of 1e-7 each, through a few steps of training.
    np.testing.assert_allclose(compiled.arrays["scores"], eager, atol=1e-4)
    assert measure(compiled.ready, compiled.log).inference_samples_per_s


@pytest.mark.slow
def test_a_fused_result_holds_its_operations_and_its_cache(chest_cohort, tmp_path):
    from medgraft.benchmarks.cell.job import Job
    from medgraft.benchmarks.cell.worker import execute

    job = Job(
        spec=spec(task="chexpert", encoder="embedded:chest@random", adapter="lora", backend="fused", augment_views=1),
        root=chest_cohort,
    )
    assert execute(job, tmp_path, lambda stage, share: None) == "success"
    result = CellResult.model_validate_json((tmp_path / "result.json").read_text())
    assert result.schema_version == SCHEMA_VERSION and [use.form for use in result.ops["packed_lora"]] == ["fused"]
    kinds = [(each["kind"], each["stage"], each["view"]) for each in result.cache["entries"]]
    assert kinds == [("prepared", 0, None), ("prefix", 1, None), ("prefix", 1, 0)]
    assert 0 <= result.cache["hit_rate"] <= 1


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "adapter"), [("chexpert", "lora"), ("chexpert_5x200", "ace_lora"), ("chexpert", "bitfit")]
)
def test_an_encoder_held_in_bf16_trains_and_predicts_about_the_same(chest_cohort, task, adapter):
    cells = {}
    for precision in ("bf16", "bf16_frozen"):
        changes = {"encoder": "embedded:chest", "precision": precision, "train": {"epochs": 1, "lr": 1e-3}, "limit": 24}
        cells[precision] = ran(spec(task=task, adapter=adapter, **changes), chest_cohort)
    exact, rough = cells["bf16"], cells["bf16_frozen"]
    assert {p.dtype for p in rough.loaded.encoder.parameters() if p.dim() > 1} == {torch.bfloat16}
    assert {p.dtype for p in rough.grafted.trainable_parameters()} == {torch.float32}
    # bf16 holds 8 bits; scores lie in 0..1.
    assert np.abs(exact.arrays["scores"] - rough.arrays["scores"]).mean() < 0.05


def test_costs_of_an_encoder_held_in_bf16_are_measured(chest_cohort):
    """Its first convolution takes no other inputs than its weights."""
    changes = {"encoder": "embedded:chest", "adapter": "lora", "train": {"epochs": 1, "lr": 1e-3}, "limit": 8}
    costs = [
        run_cell(
            Job(spec=spec(task="chexpert", precision=precision, **changes), root=chest_cohort), lambda text, share: None
        )[0].efficiency
        for precision in ("bf16", "bf16_frozen")
    ]
    assert costs[0].forward_flops == costs[1].forward_flops > 0 and costs[1].inference_samples_per_s > 0
