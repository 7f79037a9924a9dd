"""Findings by prompt are those of the task with labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medgraft.benchmarks.tasks import build_task
from medgraft.benchmarks.tasks.chest import chest_prompts
from medgraft.benchmarks.tasks.chest.chexpert import Chexpert
from medgraft.errors import ConfigError, DataError

ALONE = [
    f"chest_prompts:{name}" for name in ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")
]


def test_every_label_that_counts_is_a_question_with_its_answer(chest_cohort):
    base, found = (build_task(name).load(chest_cohort).check() for name in ("chexpert", "chest_prompts"))
    assert base.mask is not None and found.asked is not None
    assert found.questions == tuple(name.lower() for name in base.classes)
    used = np.concatenate(list(base.splits.values()))
    assert len(found.targets) == base.mask[used].sum()
    for question in range(len(found.questions)):
        mine = found.targets[found.asked == question] - 2 * question
        assert mine.sum() == base.targets[used, question][base.mask[used, question]].sum()


def test_test_wordings_are_never_trained_on(chest_cohort):
    found = build_task("chest_prompts").load(chest_cohort)
    assert found.asked is not None
    read = found.inputs["text"].read
    texts = {name: {read(int(i)) for i in index} for name, index in found.splits.items()}
    assert not texts["train"] & (texts["val"] | texts["test"])
    assert all(found.questions[found.asked[i]] in read(int(i)) for i in found.splits["test"])


def test_the_questions_on_an_image_read_the_same_image(chest_cohort):
    found = build_task("chest_prompts").load(chest_cohort)
    assert np.array_equal(found.inputs["image"].read(0), found.inputs["image"].read(1))
    assert found.subjects[0] == found.subjects[1]


def test_models_that_are_not_asked_share_patients_and_splits(chest_cohort):
    every = build_task("chest_prompts").load(chest_cohort)
    blind = build_task("chest_prompts:without_text").load(chest_cohort).check()
    assert set(blind.inputs) == {"image"} and np.array_equal(blind.targets, every.targets)
    homes = {name: set(every.subjects[index]) for name, index in every.splits.items()}
    count = 0
    for question, name in enumerate(ALONE):
        alone = build_task(name).load(chest_cohort).check()
        assert every.asked is not None and alone.questions == (every.questions[question],)
        assert alone.classes == every.classes[2 * question : 2 * question + 2]
        assert np.array_equal(alone.targets, every.targets[every.asked == question] - 2 * question)
        assert all(set(alone.subjects[index]) <= homes[split] for split, index in alone.splits.items())
        count += len(alone.targets)
    assert count == len(every.targets)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"questions": ["fracture"]}, "atelectasis"), ({"questions": ["edema", "edema"]}, "names one twice")],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        build_task("chest_prompts", options)


def test_a_finding_without_a_training_answer_is_refused_by_name(chest_cohort, monkeypatch):
    class Unsure(Chexpert):
        def load(self, root: Path):
            data = super().load(root)
            assert data.mask is not None
            data.mask[data.splits["train"], 3] = False
            return data

    monkeypatch.setattr(chest_prompts, "Chexpert", Unsure)
    with pytest.raises(DataError, match=r"no training image answers 'edema'.*leave the question out"):
        build_task("chest_prompts").load(chest_cohort)
    assert "edema" not in build_task("chest_prompts", {"questions": ["atelectasis"]}).load(chest_cohort).questions
