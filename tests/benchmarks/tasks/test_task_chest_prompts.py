"""Findings by prompt are those of the task with labels."""

from __future__ import annotations

import numpy as np

from medgraft.benchmarks.tasks import build_task


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
