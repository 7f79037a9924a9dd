"""The objective of generated texts with its counter-measures, from training samples to a kept graft."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from medgraft import graft
from medgraft.benchmarks.metrics.texts.columns import GENERATED, texts_of
from medgraft.benchmarks.metrics.texts.coverage import DRAFT
from medgraft.benchmarks.metrics.texts.statements import statements_of
from medgraft.benchmarks.objectives.generation import GenerationObjective
from medgraft.benchmarks.tasks.language.chest_reports import ChestReports
from medgraft.errors import CheckpointError, ConfigError
from medgraft.metric.judging import values
from medgraft.objective import Batch
from medgraft.task import RawInputs, TaskData
from medgraft.task.text_options import OFF
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS

N = 60
SPLITS = {"train": np.arange(30), "val": np.arange(30, 45), "test": np.arange(45, N)}
THERE, CLEAR = "There is a pleural effusion.", "No pneumothorax."
SICK = np.random.default_rng(0).random(N) < 0.5


def data(**measures: Any) -> TaskData:
    return TaskData(
        inputs={"image": RawInputs(lambda i: None, N, "nothing")},
        targets=np.zeros(N, np.int64),
        subjects=np.array([f"s{i // 2}" for i in range(N)]),
        splits=SPLITS,
        classes=(),
        columns={
            "prompt": np.array(["what is seen"] * N),
            "reference": np.array([f"{THERE if sick else 'No pleural effusion.'} {CLEAR}" for sick in SICK]),
            "kind": np.array(["report"] * N),
        },
        decoding={"limit": 5},
        countermeasures=measures,
    )


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    x = torch.rand(N, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    return x * 0.2 + torch.from_numpy(SICK).float()[:, None, None, None] * torch.linspace(0, 3, 24)


def made(images: torch.Tensor, adapter: str, **measures: Any) -> tuple[Any, GenerationObjective, Any]:
    torch.manual_seed(0)
    grafted = graft(LANGUAGE_ENCODERS["language-2d"](), adapter)
    objective = GenerationObjective(data(**measures), ("image",))

    def run(index: np.ndarray) -> Any:
        return grafted.encode({"image": images[index]})

    before = run(np.arange(2))["image"].tokens
    objective.prepare_adapters(grafted, run, SPLITS["train"])
    assert torch.equal(run(np.arange(2))["image"].tokens, before)  # the adapters act again
    return grafted, objective, run


def predicted(grafted: Any, objective: GenerationObjective, run: Any):
    def predict(index: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return objective.scores_of(grafted, run(index), objective.context(grafted), index).double().numpy()

    _, groups = np.unique(data().subjects[SPLITS["test"]], return_inverse=True)
    found = objective.predictions(predict, SPLITS, groups)
    assert objective.misfit(found) == ""
    return replace(found, objective="generation")


def test_the_nearest_report_is_a_row_like_any_other(images):
    found = predicted(*made(images, "nearest_report"))
    assert set(texts_of(found.columns[GENERATED])) <= set(data().columns["reference"][:30])
    assert values(found)["rouge_l"] > 0.9 and DRAFT not in found.columns
    assert texts_of(found.columns["kind"]) == ["report"] * 15
    assert texts_of(found.columns["prompt"]) == ["what is seen"] * 15


def test_the_nearest_answer_is_copied_from_films_that_were_asked_the_same(images):
    """Of two questions in turn; the second has other words in testing, so that its kind must do."""
    turn = np.arange(N) % 2 == 1
    later = np.isin(np.arange(N), SPLITS["test"])
    columns = {
        "prompt": np.where(turn, np.where(later, "how big is it", "how large"), "what is seen"),
        "reference": np.where(turn, np.where(SICK, "large", "small"), np.where(SICK, THERE, CLEAR)),
        "kind": np.where(turn, "open:size", "open:finding"),
    }
    grafted = graft(LANGUAGE_ENCODERS["language-2d"](), "nearest_report")
    objective = GenerationObjective(replace(data(), columns=columns), ("image",))

    def run(index: np.ndarray) -> Any:
        return grafted.encode({"image": images[index]})

    objective.prepare_adapters(grafted, run, SPLITS["train"])
    found = predicted(grafted, objective, run)
    answers = np.array(texts_of(found.columns[GENERATED]))
    asked = turn[SPLITS["test"]]
    assert set(answers[asked]) == {"large", "small"} and set(answers[~asked]) == {THERE, CLEAR}
    assert values(found)["exact_match"] > 0.9
    assert objective.data.provenance["copied_from"] == {"the same kind": int(asked.sum()), "the same question": 7}


def test_what_the_head_does_not_support_is_denied_or_left_out(images):
    grafted, objective, run = made(images, "nearest_report", supported="negate")
    grafted.adapters["nearest_report"].fit_reports(torch.eye(1, 32), [f"{THERE} There is a lung nodule."])
    found = predicted(grafted, objective, run)
    head = objective.grounding.head
    assert head is not None
    rows = head.probabilities(np.stack([objective._features[i] for i in SPLITS["test"]]))
    there = np.array([head.supports("pleural effusion", row) for row in rows])
    assert (there == SICK[SPLITS["test"]]).mean() > 0.8
    for text, sick in zip(texts_of(found.columns[GENERATED]), there, strict=True):
        assert text == f"{THERE if sick else 'No pleural effusion.'} No lung nodule."
    assert values(found)["statement_coverage"] == pytest.approx(there.mean() / 2, abs=1e-12)


def test_abstention_says_not_assessed_and_how_much_is_left(images):
    grafted, objective, run = made(images, "nearest_report", abstain=0.05)
    grafted.adapters["nearest_report"].fit_reports(torch.eye(1, 32), [f"{THERE} {CLEAR}"])
    found = predicted(grafted, objective, run)
    test = SICK[SPLITS["test"]]
    for text, sick in zip(texts_of(found.columns[GENERATED]), test, strict=True):
        assert text.startswith(THERE if sick else "Not assessed: pleural effusion.") and text.endswith(CLEAR)
    assert values(found)["statement_coverage"] == pytest.approx((1 + test.mean()) / 2, abs=1e-12)
    assert not statements_of("Not assessed: pleural effusion.")


def test_similar_reports_stand_in_front_of_prompts_and_never_the_subjects_own(images):
    grafted, objective, run = made(images, "soft_prefix", retrieval=2)
    loss = objective.loss(grafted, run(np.arange(4)), Batch(torch.zeros(4), index=np.arange(4)))
    assert torch.isfinite(loss)
    found = predicted(grafted, objective, run)
    for prompt in texts_of(found.columns["prompt"]):
        assert prompt.startswith("Similar reports: ") and prompt.endswith("\nwhat is seen")
    index, subjects = objective.grounding.index, data().subjects
    assert index is not None and set(index.subjects) == set(subjects[:30])
    rows = np.stack([objective._features[i] for i in range(30)])
    for row, near in zip(subjects[:30], index.nearest(rows, 29, list(subjects[:30])), strict=True):
        assert len(near) == 28 and row not in index.subjects[near]


def test_all_training_reports_of_the_sample_s_own_subject(images):
    own = replace(data(retrieval=2), subjects=np.array(["s"] * N))
    torch.manual_seed(0)
    grafted = graft(LANGUAGE_ENCODERS["language-2d"](), "soft_prefix")
    objective = GenerationObjective(own, ("image",))
    objective.prepare_adapters(grafted, lambda i: grafted.encode({"image": images[i]}), SPLITS["train"])
    found = predicted(grafted, objective, lambda i: grafted.encode({"image": images[i]}))
    assert texts_of(found.columns["prompt"]) == ["what is seen"] * 15


@pytest.mark.parametrize("measures", [{"retrieval": 1}, {"supported": "drop"}, {"abstain": 0.2}])
def test_a_kept_graft_has_its_counter_measures(images, tmp_path, measures):
    grafted, objective, run = made(images, "nearest_report", **measures)
    found = texts_of(predicted(grafted, objective, run).columns[GENERATED])
    objective.save(tmp_path)
    state = objective.state()
    kept = GenerationObjective(replace(data(), columns={}), ("image",))
    kept.restore(state)
    if list(tmp_path.iterdir()):
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(CheckpointError, match="keep the graft again"):
            kept.load(empty)
    kept.load(tmp_path)
    test = SPLITS["test"]
    with torch.no_grad():
        assert kept.texts_for(grafted, lambda index: run(test[index]), len(test)) == found


def test_an_adapter_beside_one_that_copies_is_refused(images):
    grafted = graft(LANGUAGE_ENCODERS["language-2d"](), "nearest_report+soft_prefix")
    objective = GenerationObjective(data(), ("image",))
    with pytest.raises(ConfigError, match="graft it alone"):
        objective.prepare_adapters(grafted, lambda i: grafted.encode({"image": images[i]}), SPLITS["train"])


def test_only_counter_measures_in_use_are_in_a_result():
    assert not set(ChestReports.Config().recorded()) & {*OFF, "language"}
    assert ChestReports.Config(retrieval=4, abstain=0.1).recorded().keys() >= {"retrieval", "abstain"}
    assert "confidence" not in ChestReports.Config(retrieval=4).recorded()
