"""The positive control: its ceilings are what they are said to be, and tgh_moe passes it by the prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medgraft.benchmarks.audit import positive_control as control
from medgraft.benchmarks.audit.conflicting_questions import (
    HELD_OUT,
    QUESTIONS,
    SHARED_CEILING,
    WORDINGS,
    draw_control,
    tiny_encoder,
    truths,
)
from medgraft.benchmarks.board.drawn.load_figure import load_figure
from medgraft.encoders.embedded import WORD

ARMS = {arm.name: arm for arm in control.ARMS}


@pytest.fixture(scope="module")
def drawn():
    torch.set_num_threads(1)
    return draw_control(tiny_encoder(), 96, 60, 0)


@pytest.fixture(scope="module")
def full(drawn):
    return control.train_arm(ARMS[control.FULL], drawn, 12, 0)


def test_answers_of_opposite_questions_are_opposite_and_half_of_all_are_yes():
    stripes, dots = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    answers = truths(stripes, dots)
    assert (answers[:, 0] + answers[:, 1] == 1).all() and (answers[:, 2] + answers[:, 3] == 1).all()
    for same in (0, 1):  # one answer for all questions of an image, which is all that a model without the prompt has
        assert ((answers == same).mean(axis=1) == SHARED_CEILING).all()


def test_the_test_asks_in_other_sentences_of_the_same_words(drawn):
    assert not {text for each in WORDINGS for text in each} & {text for each in HELD_OUT for text in each}
    for seen, held_out in zip(WORDINGS, HELD_OUT, strict=True):
        known = {word for each in WORDINGS for text in each for word in WORD.findall(text)}
        assert {word for text in held_out for word in WORD.findall(text)} <= known
        assert len(seen) >= len(held_out) > 1
    data = drawn.data
    for name, pools in (("train", WORDINGS), ("test", HELD_OUT)):
        index = data.splits[name]
        assert all(data.inputs["text"].read(i) in pools[data.asked[i]] for i in index)
        assert (np.bincount(data.asked[index]) == len(index) // 4).all()  # every image is asked everything


def test_the_pictures_show_what_they_are_said_to(drawn):
    """Without this, no adapter could pass: each question alone can be read off the pixels."""
    images, data = drawn.inputs["image"].arrays["x"], drawn.data
    columns = np.indices((32, 32))[1]
    striped = (images[:, 0] * np.where(columns % 4 < 2, 1, -1)).mean(axis=(1, 2)) > 0.5
    asked = data.asked == QUESTIONS.index("stripes")
    assert (striped[asked] == (data.targets[asked] == 1)).all()


@pytest.mark.parametrize("name", ["adaptformer", "tgh_moe, no text"])
def test_whatever_is_not_told_the_question_is_right_for_exactly_half(drawn, name):
    outcome = control.train_arm(ARMS[name], drawn, 2, 0)
    assert outcome.accuracy == SHARED_CEILING
    assert outcome.by_question[0] + outcome.by_question[1] == pytest.approx(1)
    assert outcome.told is None


def test_tgh_moe_passes_by_routing_each_question_to_experts_of_its_own(full):
    assert full.accuracy >= SHARED_CEILING + control.MARGIN
    assert full.told >= 0.95  # in wordings that training never used
    assert control.load_shift(full.shares) >= control.SHIFT
    assert all(sum(share) == pytest.approx(1, abs=1e-3) for share in full.shares)


def test_at_the_rate_of_the_rest_the_prompt_hardly_moves_a_token_in_as_many_steps(drawn, full):
    slow = control.train_arm(ARMS["tgh_moe, router text at the adapter's rate"], drawn, 12, 0)
    assert control.load_shift(slow.shares) < control.load_shift(full.shares) / 2


def test_parameters_are_matched(drawn, full):
    shared = control.train_arm(ARMS["adaptformer"], drawn, 0, 0).trainable
    assert shared == pytest.approx(full.trainable, rel=0.05)


def test_verdicts_say_what_fails(full):
    arms = [ARMS["adaptformer"], ARMS[control.FULL]]
    fine = control.Outcome(0.5, (0.5,) * 4, 1)
    assert all(control.verdicts(arms, {"adaptformer": [fine], control.FULL: [full]}).values())
    leak = control.Outcome(0.51, (0.5,) * 4, 1)
    flat = control.Outcome(0.6, (0.6,) * 4, 1, told=1.0, shares=((0.25,) * 4,) * 4)
    assert not any(control.verdicts(arms, {"adaptformer": [leak], control.FULL: [flat]}).values())


def test_the_figure_has_a_panel_for_each_arm_with_a_prompt_and_shared_experts(full):
    blind = control.Outcome(0.5, (0.5,) * 4, 1, shares=((0.25,) * 4,) * 4)
    panels = control.panels({control.FULL: [full], "tgh_moe, no text": [blind]})
    assert [panel.name[-1] for panel in panels] == [control.FULL] and panels[0].tasks == list(QUESTIONS)
    assert load_figure(panels).axes
