"""One head, several questions: only the classes of the asked question compete, and each question has its metrics."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_encoders as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_numbers import points as numbers_of

from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.benchmarks.objectives.questions import QuestionsObjective
from medgraft.benchmarks.training.linear_problems import mean_loss
from medgraft.errors import DataError
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.metric import Predictions
from medgraft.objective import Batch, make_objective
from medgraft.task import RawInputs, TaskData

CLASSES = ("dx: CN", "dx: MCI", "dx: AD", "sex: F", "sex: M")
ANSWERS = ((0, 1, 2), (3, 4))


def data(asked: list[int], targets: list[int], answers: tuple[tuple[int, ...], ...] = ANSWERS) -> TaskData:
    n = len(asked)
    raw = RawInputs(lambda i: i, n, "")
    half = np.arange(n - 2)
    return TaskData(
        inputs={"image": raw},
        targets=np.array(targets),
        subjects=np.arange(n).astype(str),
        splits={"train": half, "val": np.array([n - 2]), "test": np.array([n - 1])},
        classes=CLASSES,
        asked=np.array(asked),
        questions=("dx", "sex"),
        answers=answers,
    )


def objective_on(found: TaskData) -> tuple[QuestionsObjective, Grafted, dict[str, Features]]:
    torch.manual_seed(0)
    objective = make_objective("multiclass", found, ("image",))
    assert isinstance(objective, QuestionsObjective)
    pooled = torch.randn(len(found.targets), 7)
    outputs = {"image": Features(pooled[:, None], pooled, 0, (1,))}
    grafted = Grafted(tiny.fresh("timm"), {})
    head = objective.make_head(outputs)
    torch.nn.init.normal_(head.linear.weight)
    grafted.head = head
    return objective, grafted, outputs


def test_the_loss_is_a_softmax_over_the_asked_questions_classes_only():
    found = data([0, 1, 0, 1, 0, 1], [2, 3, 0, 4, 1, 3])
    objective, grafted, outputs = objective_on(found)
    index = np.array([3, 0, 1])
    rows = {"image": outputs["image"].replace(pooled=outputs["image"].pooled[index])}
    logits = objective.logits(grafted, rows)
    wanted = -(logits[0, 3:].log_softmax(0)[1] + logits[1, :3].log_softmax(0)[2] + logits[2, 3:].log_softmax(0)[0]) / 3
    torch.testing.assert_close(objective.loss(grafted, rows, Batch(torch.tensor([4, 2, 3]), index=index)), wanted)


def test_the_classes_of_other_questions_get_no_gradient():
    found = data([1] * 4 + [0, 0], [3, 4, 3, 4, 0, 1], ANSWERS)
    objective, grafted, outputs = objective_on(found)
    index = np.arange(4)
    rows = {"image": outputs["image"].replace(pooled=outputs["image"].pooled[index])}
    objective.loss(grafted, rows, Batch(torch.from_numpy(found.targets[index]), index=index)).backward()
    assert grafted.head is not None
    gradient = grafted.head.linear.weight.grad
    assert isinstance(gradient, torch.Tensor) and not gradient[:3].any() and gradient[3:].any()


def test_a_prediction_answers_every_question_and_reads_no_label():
    found = data([0, 1, 0, 1, 0, 1], [2, 3, 0, 4, 1, 3])
    objective, grafted, outputs = objective_on(found)
    scores = objective.scores(grafted, outputs)
    for classes in ANSWERS:
        torch.testing.assert_close(scores[:, list(classes)].sum(dim=1), torch.ones(6))
    objective.asked = 1 - objective.asked
    assert torch.equal(objective.scores(grafted, outputs), scores)


@pytest.mark.parametrize(
    ("targets", "answers", "words"),
    [
        ([2, 3, 0, 4, 1, 0], ANSWERS, "does not answer the question"),
        ([2, 3, 0, 4, 1, 3], ((0, 1, 2),), "each class answers one"),
        ([2, 3, 0, 4, 1, 3], ((0, 1, 2), (2, 3, 4)), "each class answers one"),
    ],
)
def test_answers_that_do_not_fit_the_questions_are_refused(targets, answers, words):
    with pytest.raises(DataError, match=words):
        data([0, 1, 0, 1, 0, 1], targets, answers).check()


def predictions(n: int, seed: int, asked: np.ndarray | None = None) -> Predictions:
    rng = np.random.default_rng(seed)
    asked = rng.integers(2, size=n) if asked is None else asked
    targets = np.where(asked == 0, rng.integers(3, size=n), 3 + rng.integers(2, size=n))
    return Predictions(
        rng.random((n, 5)), targets, np.arange(n) // 2, CLASSES, asked=asked, questions=("dx", "sex"), answers=ANSWERS
    )


@settings(max_examples=30, deadline=None)
@given(n=st.integers(8, 60), seed=st.integers(0, 10_000))
def test_a_questions_metrics_are_those_of_its_samples_and_the_means_are_theirs(n, seed):
    p = predictions(n, seed)
    points, weighted = numbers_of(p)
    every = np.ones((1, n))
    means = []
    for question, (name, classes) in enumerate(zip(("dx", "sex"), ANSWERS, strict=True)):
        rows = np.flatnonzero(p.asked == question)
        if len(rows) == 0:
            assert np.isnan(points[f"f1_{name}"])
            continue
        own = Predictions(
            p.scores[rows][:, list(classes)],
            p.targets[rows] - classes[0],
            p.groups[rows],
            ("a", "b", "c")[: len(classes)],
        )
        values, _ = numbers_of(own)
        assert points[f"f1_{name}"] == values["f1_macro"] and points[f"accuracy_{name}"] == values["accuracy"]
        np.testing.assert_equal(points[f"auc_{name}"], values["auc_macro"])
        np.testing.assert_allclose(weighted[f"f1_{name}"](every), values["f1_macro"])
        means.append(values["f1_macro"])
    assert points["f1_macro"] == pytest.approx(np.mean(means))
    np.testing.assert_allclose(weighted["f1_macro"](every), points["f1_macro"])


def test_metrics_come_with_intervals_and_an_unasked_question_is_undefined():
    found = evaluate(predictions(40, 1), resamples=50)
    assert all(found[name].ci_low is not None for name in ("f1_macro", "f1_dx", "f1_sex", "accuracy_sex", "auc_dx"))
    alone = evaluate(predictions(40, 1, np.zeros(40, int)), resamples=20)
    assert alone["f1_sex"].value is None and alone["f1_macro"].value == alone["f1_dx"].value


def test_the_regressions_of_a_head_are_one_softmax_per_question_on_its_own_samples():
    found = data([0, 1, 0, 1, 0, 1], [2, 3, 0, 4, 1, 3])
    objective, grafted, outputs = objective_on(found)
    index = np.array([3, 0, 1])
    rows = {"image": outputs["image"].replace(pooled=outputs["image"].pooled[index])}
    problems = objective.linear_problems(found, index)
    assert [problem.outputs for problem in problems] == [(0, 1, 2), (3, 4)]
    assert [problem.rows.tolist() for problem in problems] == [[False, True, False], [True, False, True]]
    batch = Batch(torch.from_numpy(found.targets[index]), index=index)
    logits = objective.logits(grafted, rows).detach().double().numpy()
    loss = objective.loss(grafted, rows, batch).item()
    assert mean_loss(problems, logits) == pytest.approx(loss, rel=1e-5)
