"""Direct preference optimisation: the published loss, pairs made of labels, people's feedback."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medgraft import graft
from medgraft.benchmarks.metrics.texts.statements import statements_of
from medgraft.benchmarks.objectives.generation import GenerationObjective
from medgraft.benchmarks.texts.preferences import (
    dpo_loss,
    feedback_columns,
    log_probability,
    made_pairs,
    read_feedback,
    stored_pairs,
    worse_text,
)
from medgraft.benchmarks.training.phases import Phases
from medgraft.errors import DataError
from medgraft.objective import Batch
from medgraft.schedule import Phase
from medgraft.task import RawInputs, TaskData
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS

TEXT = "There is a small left pleural effusion. No pneumothorax."


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_the_loss_is_that_of_the_paper(beta):
    draw = np.random.default_rng(0)
    chosen, rejected, before_c, before_r = draw.normal(scale=20, size=(4, 50))
    ratio = beta * ((chosen - before_c) - (rejected - before_r))
    expected = np.log1p(np.exp(-np.abs(ratio))) + np.maximum(-ratio, 0)
    tensors = [torch.from_numpy(each) for each in (chosen, rejected, before_c, before_r)]
    loss = dpo_loss(tensors[0], tensors[1], (tensors[2], tensors[3]), beta)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=0, atol=1e-9)


def test_the_gradient_is_that_of_the_paper():
    values = torch.tensor([-3.0, -2.0, -3.5, -1.0], dtype=torch.float64, requires_grad=True)
    dpo_loss(values[:1], values[1:2], (values[2:3], values[3:]), 0.5).sum().backward()
    weight = 0.5 / (1 + np.exp(0.5 * ((-3.0 + 3.5) - (-2.0 + 1.0))))  # beta * sigmoid of minus the margin
    np.testing.assert_allclose(values.grad, [-weight, weight, weight, -weight], rtol=0, atol=1e-9)


def test_a_log_probability_is_the_sum_over_the_tokens():
    model = LANGUAGE_ENCODERS["language-2d"]().towers()["text"]
    prompts, texts = model.prompts(["what is seen"] * 2), ["clear", "small left effusion"]
    ids, real = model.answers(texts)
    logits = model.logits(prompts, (ids, real))[:, prompts.length - 1 : -1].log_softmax(-1)
    expected = [
        sum(float(logits[row, k, ids[row, k]]) for k in range(ids.shape[1]) if real[row, k]) for row in range(2)
    ]
    assert log_probability(model, prompts, texts).tolist() == pytest.approx(expected, abs=1e-4)


def test_a_worse_text_has_one_fault_of_each_kind():
    truth, known = statements_of(TEXT), ["lung nodule", "pleural effusion", "pneumothorax"]
    worse = {worse_text(TEXT, truth, known, np.random.default_rng(seed)) for seed in range(60)}
    faults = set()
    for text in worse:
        assert text is not None and text != TEXT
        said = statements_of(text)
        effusion = [each for each in said if each.finding == "pleural effusion"]
        faults |= {"dropped"} if not effusion else {effusion[0].side, effusion[0].size}
        faults |= {each.finding for each in said if each.present}
        for finding in {each.finding for each in said}:  # nothing is asserted and denied at once
            assert len({each.present for each in said if each.finding == finding}) == 1
    assert {"dropped", "right", "moderate", "large", "lung nodule", "pneumothorax"} <= faults


def test_pairs_are_the_same_on_every_run_and_none_is_made_of_nothing():
    texts = [TEXT, "Rotated film.", TEXT]
    truths = {i: statements_of(text) for i, text in enumerate(texts)}
    pairs = made_pairs(texts, truths, np.arange(3))
    assert pairs == made_pairs(texts, truths, np.arange(3))
    assert made_pairs(["Rotated film."], {0: []}, np.arange(1)) == {} == made_pairs([], {}, np.arange(0))


def write(path, text: str):
    path.write_text(text)
    return path


def test_feedback_is_read_by_the_names_of_samples(tmp_path):
    rows = 'sample,chosen,rejected,rater\nb,"A, b.",B.,r1\nb,C.,D.,r2\na,E.,F.,r1\n'
    column = read_feedback(write(tmp_path / "f.csv", rows), ["a", "b", "c"])
    assert stored_pairs(column, np.arange(3)) == {0: [("E.", "F.")], 1: [("A, b.", "B."), ("C.", "D.")]}
    assert feedback_columns("", tmp_path, ["a"]) == {}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("sample,chosen\na,B.\n", "lacks rejected; it has sample, chosen"),
        ("who,chosen,rejected\na,B.,C.\n", "lacks one column of sample or image"),
        ("sample,image,chosen,rejected\na,a,B.,C.\n", "lacks one column of sample or image"),
        ("sample,chosen,rejected,score\na,B.,C.,1\n", "has a column 'score'"),
        ("sample,chosen,rejected\na,B.,C.\nzz99,B.,C.\n", "line 3 names a sample that the data have not"),
        ("sample,chosen,rejected\na,B.  C.,B. C.\n", "line 2 prefers a text to itself"),
        ("sample,chosen,rejected\na,B., \n", "line 2 has an empty text"),
        ("sample,chosen,rejected\n", "has no row"),
        ("", "no readable CSV"),
    ],
)
def test_feedback_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, content, why):
    with pytest.raises(DataError, match=why) as error:
        read_feedback(write(tmp_path / "f.csv", content), ["a", "b"])
    assert "zz99" not in str(error.value)  # a name may be a person's


def test_an_image_that_several_questions_are_about_names_none_of_them(tmp_path):
    table = write(tmp_path / "f.csv", "image,chosen,rejected\na,B.,C.\n")
    with pytest.raises(DataError, match="line 2 names 2 samples at once"):
        read_feedback(table, ["a", "b", "a"])


def test_feedback_is_a_file_of_the_data_alone(tmp_path):
    for name in ("../f.csv", "/etc/passwd", "gone.csv"):
        with pytest.raises(DataError, match=r"without a folder|no readable"):
            feedback_columns(name, tmp_path, ["a"])


def objective(chosen_weight: float = 0.0, **columns: list[str]) -> GenerationObjective:
    data = TaskData(
        inputs={"image": RawInputs(lambda i: None, 6, "nothing")},
        targets=np.zeros(6, np.int64),
        subjects=np.arange(6).astype(str),
        splits={"train": np.arange(4), "val": np.arange(4, 5), "test": np.arange(5, 6)},
        classes=(),
        columns={
            "prompt": np.array(["what is seen"] * 6),
            "reference": np.array([TEXT, "Rotated film."] * 3),
            **{name: np.array(each) for name, each in columns.items()},
        },
        decoding={"limit": 5},
        countermeasures={"preferences": 0.25, "chosen_weight": chosen_weight},
    )
    return GenerationObjective(data, ("image",))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_last_phase_begins_at_the_model_before_it_and_prefers_the_better_text(weight):
    torch.manual_seed(0)
    grafted, tuned = graft(LANGUAGE_ENCODERS["language-2d"](), "soft_prefix"), objective(weight)
    images = torch.rand(6, 1, 16, 24)
    index = np.array([0, 1, 2, 3])

    def run(part: np.ndarray):
        return grafted.encode({"image": images[part]})

    grafted.train()
    before = tuned.loss(grafted, run(index), Batch(torch.zeros(4), index=index))
    tuned.begin_last_phase(grafted, run, index)
    assert set(tuned.tuning.pairs) >= {0, 2}
    paired = np.array([0, 2])
    first = tuned.loss(grafted, run(paired), Batch(torch.zeros(2), index=paired))
    own = objective().loss(grafted, run(paired), Batch(torch.zeros(2), index=paired))  # of the better texts alone
    assert first.item() == pytest.approx(np.log(2) + weight * own.item(), abs=1e-5) and before.item() != first.item()
    optimizer = torch.optim.Adam(grafted.trainable_parameters(), lr=0.01)
    for _ in range(8):
        loss = tuned.loss(grafted, run(paired), Batch(torch.zeros(2), index=paired))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first.item() - 0.02


def test_a_phase_of_preferences_without_pairs_is_refused():
    for columns, why in (
        ({"reference": ["Rotated film."] * 6}, "no training text states a finding"),
        ({"preferences": [""] * 6}, "no row of a training sample"),
    ):
        with pytest.raises(DataError, match=why):
            objective(**columns).tuning.find_pairs(np.arange(4))


def test_the_phase_stands_behind_those_of_the_adapters():
    grafted = graft(LANGUAGE_ENCODERS["language-2d"](), "soft_prefix")
    phases = Phases(grafted, 8, Phase("preferences", share=0.25))
    assert [step for step in range(8) if phases.begins_last(step)] == [6]
    with phases.running():
        assert phases.enter(0) == (0, 6) and phases.enter(6) == (0, 2) and phases.name == "preferences"
    assert not Phases(grafted, 8).begins_last(6)
