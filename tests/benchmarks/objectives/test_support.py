"""Adapters that classify by their training features: in the place of a head, of prompts, and refused elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medgraft.benchmarks.objectives.heads import joined
from medgraft.benchmarks.objectives.shared_space import embedding
from medgraft.benchmarks.sweep.compatible import fits
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.sweep.rows import rows
from medgraft.errors import ConfigError
from medgraft.grafting import Grafted
from medgraft.objective import Outputs, make_objective
from medgraft.registry import build_adapters, build_encoder
from medgraft.task import RawInputs, TaskData

pytestmark = pytest.mark.usefixtures("seeded")
N = 9
IMAGES = torch.randn(N, 1, 128, 128, generator=torch.Generator().manual_seed(2))
LABELS = np.random.default_rng(0).integers(0, 2, (N, 3)).astype(np.float32)


def data(targets: np.ndarray, **more: Any) -> TaskData:
    raw = RawInputs(lambda i: None, N, "")
    return TaskData({"image": raw}, targets, np.arange(N).astype(str), {}, ("a", "b", "c"), **more)


def prepared(adapter: str, objective: str, facts: TaskData) -> tuple[Any, Grafted, Any]:
    made = make_objective(objective, facts, ("image",))
    grafted = Grafted(build_encoder("embedded:chest@random"), build_adapters(adapter)).eval()
    grafted.head = made.make_head(grafted.encode({"image": IMAGES}))

    def run(index: np.ndarray) -> Outputs:
        return grafted.encode({"image": IMAGES[torch.from_numpy(index)]})

    made.prepare_adapters(grafted, run, np.arange(6))
    return made, grafted, grafted.adapters[adapter]


@torch.no_grad()
@pytest.mark.parametrize("adapter", ["knn", "prototypes"])
def test_classes_are_scored_by_pooled_training_features_and_no_head_is_left(adapter):
    objective, grafted, module = prepared(adapter, "multiclass", data(np.arange(N) % 3))
    assert grafted.head is None
    outputs = grafted.encode({"image": IMAGES})
    features = joined(outputs, ("image",))
    if adapter == "knn":
        torch.testing.assert_close(module.keys, F.normalize(features[:6], dim=-1))
    scores = objective.scores(grafted, outputs)
    torch.testing.assert_close(scores, torch.softmax(module.support_logits(features), dim=-1))
    assert scores[:6].argmax(dim=1).tolist() == [0, 1, 2, 0, 1, 2] or adapter == "knn"


@torch.no_grad()
@pytest.mark.parametrize("adapter", ["knn", "prototypes"])
def test_labels_are_scored_where_they_count(adapter):
    mask = np.ones((N, 3), bool)
    mask[:3, 1] = False
    objective, grafted, module = prepared(adapter, "multilabel", data(LABELS, mask=mask))
    outputs = grafted.encode({"image": IMAGES})
    scores = objective.scores(grafted, outputs)
    assert scores.shape == (N, 3) and torch.isfinite(scores).all()
    torch.testing.assert_close(scores, torch.sigmoid(module.support_logits(joined(outputs, ("image",)))))
    if adapter == "knn":
        assert module.counted[:, 1].tolist() == [0, 0, 0, 1, 1, 1]


@torch.no_grad()
@pytest.mark.parametrize("adapter", ["ss_text", "prototypes", "knn"])
def test_prompted_classes_are_scored_by_unit_embeddings(adapter):
    prompts = (("edema.",), ("effusion.",), ("fracture.",))
    objective, grafted, module = prepared(adapter, "prompted", data(np.arange(N) % 3, prompts=prompts))
    outputs = grafted.encode({"image": IMAGES})
    images = embedding(grafted.towers()["image"], outputs["image"])
    logits = objective.logits(grafted, outputs, objective.context(grafted))
    torch.testing.assert_close(logits, module.support_logits(images))
    if adapter != "knn":
        assert float(module.scale) == pytest.approx(float(grafted.logit_scale()), rel=1e-6)


def test_labels_with_a_class_of_the_uncertain_are_refused():
    with pytest.raises(ConfigError, match=r"a class 'uncertain' need a head.*chexpert.uncertainty=ignore"):
        prepared("knn", "multilabel", data(LABELS, uncertain_class=True))


def test_classes_that_answer_several_questions_are_refused():
    asked = {"asked": np.arange(N) % 2, "questions": ("one", "two"), "answers": ((0, 1), (2,))}
    with pytest.raises(ConfigError, match="several questions need a head, and the adapter classifies by its training"):
        prepared("knn", "multiclass", data(np.arange(N) % 3, **asked))


def test_a_second_adapter_is_refused():
    grafted = Grafted(build_encoder("embedded:chest@random"), build_adapters("lora+knn"))
    objective = make_objective("multiclass", data(np.arange(N) % 3), ("image",))
    with pytest.raises(ConfigError, match=r"adapter 'knn' classifies by the frozen features.*graft it alone"):
        objective.prepare_adapters(grafted, lambda index: {}, np.arange(6))


def planned(adapter: str, *tasks: str) -> tuple[set[str], dict[str, str]]:
    sweep = Sweep(adapters=(adapter,), tasks=tasks, encoders=("phantom_chest@random",), baselines=False)
    good, skipped = fits(sweep, rows(sweep), set())
    return {row.task for row in good}, {row.task: reason for row, reason in skipped.items()}


def test_plans_leave_out_what_cannot_run_with_a_reason():
    assert planned("knn", "chexpert", "chexpert_few_shot")[0] == {"chexpert", "chexpert_few_shot"}
    assert "no classes that its training samples show" in planned("knn", "chexpert_5x200")[1]["chexpert_5x200"]
    good, skipped = planned("ss_text", "chexpert_few_shot", "chexpert_5x200")
    assert good == {"chexpert_few_shot"} and set(skipped) == {"chexpert_5x200"}
    assert "graft it alone" in planned("lora+knn", "chexpert")[1]["chexpert"]
