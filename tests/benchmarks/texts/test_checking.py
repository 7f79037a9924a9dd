"""What may stay of a text: the head of findings, vetoes, abstention and its threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medgraft.benchmarks.metrics.texts.statements import Statement, statements_of
from medgraft.benchmarks.texts.checking import abstained, is_wrong, supported, threshold_for
from medgraft.benchmarks.texts.findings import FindingHead, found_in
from medgraft.benchmarks.texts.grounding import Draft, Grounding, Samples
from medgraft.errors import ConfigError, DataError
from medgraft.task.text_options import CounterMeasures

EFFUSION, CLEAR = "There is a small left pleural effusion.", "No pneumothorax."


def samples(n: int, seed: int, *, doubt: float = 0.0) -> Samples:
    draw = np.random.default_rng(seed)
    there = draw.random(n) < 0.5
    features = draw.normal(size=(n, 6))
    features[:, 0] += np.where(there, 4.0, -4.0) * (draw.random(n) >= doubt)
    texts = [f"{EFFUSION if each else 'No pleural effusion.'} {CLEAR}" for each in there]
    return Samples(features, texts, [str(i) for i in range(n)], [statements_of(text) for text in texts])


@pytest.mark.parametrize("negate", [False, True])
def test_what_nothing_supports_goes(negate):
    text = f"{EFFUSION} Nodule of 3.5 mm in the right upper lobe. {CLEAR}"
    made = supported(text, lambda finding: finding == "pleural effusion", negate=negate)
    assert found_in(statements_of(made)) == {"pleural effusion"}
    assert made.startswith(EFFUSION) and made.endswith(CLEAR)
    assert ("No " in made.removesuffix(CLEAR)) == negate
    assert supported(text, lambda finding: True, negate=negate) == text


def test_nothing_is_stated_of_what_is_not_sure_enough():
    text = f"{EFFUSION} {CLEAR} The film is rotated."
    made = abstained(text, lambda sentence, statement: 0.9 if not statement.present else 0.2, 0.5)
    assert made == f"Not assessed: pleural effusion. {CLEAR} The film is rotated."
    assert [each.finding for each in statements_of(made)] == ["pneumothorax"]
    assert statements_of(abstained(text, lambda sentence, statement: 1.0, math.inf)) == []


@pytest.mark.parametrize("level", [0.05, 0.2, 0.5])
def test_the_threshold_is_the_lowest_that_keeps_the_level(level):
    draw = np.random.default_rng(1)
    sure = draw.random(60).round(2)
    judged = [(float(p), bool(draw.random() > p)) for p in sure]

    def share(threshold: float) -> float:
        kept = [wrong for p, wrong in judged if p >= threshold]
        return sum(kept) / len(kept)

    chosen = threshold_for(judged, level)
    assert math.isinf(chosen) or share(chosen) <= level
    assert all(share(p) > level for p in sure if p < chosen)


def test_a_threshold_that_nothing_reaches_states_nothing():
    assert threshold_for([(0.9, True)], 0.1) == math.inf
    assert threshold_for([], 0.1) == 0.0


def test_wrong_is_what_the_truth_denies_or_does_not_name():
    truth = statements_of(f"{EFFUSION} {CLEAR}")
    assert not is_wrong(Statement("pleural effusion", True), truth) and is_wrong(Statement("nodule", True), truth)
    nothing = statements_of("No acute cardiopulmonary abnormality.")
    assert is_wrong(nothing[0], truth) and not is_wrong(nothing[0], statements_of(CLEAR)) and not found_in(nothing)
    assert is_wrong(Statement("pleural effusion", False), truth) and not is_wrong(Statement("nodule", False), truth)


def test_the_head_tells_who_has_a_finding_and_supports_no_other():
    train, val, test = samples(80, 0), samples(40, 1), samples(60, 2)
    head = FindingHead.fit(train.features, train.truths, val.features, val.truths)
    assert head.names == ("pleural effusion",)
    rows = head.probabilities(test.features)
    found = [head.supports("pleural effusion", row) for row in rows]
    assert np.mean([a == ("pleural effusion" in found_in(t)) for a, t in zip(found, test.truths, strict=True)]) > 0.97
    assert not head.supports("nodule", rows[0])
    assert (
        head.confidence(Statement("nodule", True), rows[0]) == 0 < head.confidence(Statement("nodule", False), rows[0])
    )
    again = FindingHead.of(head.names, head.arrays())
    assert (again.probabilities(test.features) == rows).all()


def test_a_head_without_positives_or_without_negatives():
    train = samples(10, 0)
    with pytest.raises(DataError, match="no training text asserts a finding"):
        FindingHead.fit(train.features, [statements_of(CLEAR)] * 10, train.features[:0], [])
    head = FindingHead.fit(train.features, [statements_of(EFFUSION)] * 10, train.features[:0], [])
    assert head.supports("pleural effusion", head.probabilities(train.features)[0])


@pytest.mark.parametrize("confidence", ["head", "likelihood"])
def test_abstention_keeps_the_share_of_wrong_statements(confidence):
    measures = CounterMeasures(abstain=0.1, confidence=confidence)
    train, val, test = (samples(300, seed, doubt=0.5) for seed in range(3))
    grounding = Grounding.fit(measures, train, val)
    # A language model that asserts an effusion in every text, surer of it where there is one.
    text = f"{EFFUSION} {CLEAR}"
    drafts = [
        [Draft(text, "end", {EFFUSION: float(row[0] > 2), CLEAR: 1.0}) for row in each.features] for each in (val, test)
    ]
    with pytest.raises(ConfigError, match="no threshold yet"):
        grounding.revised(drafts[1][0], test.features[0])
    grounding.choose_threshold(drafts[0], val.features, val.truths)
    made = [grounding.revised(draft, row) for draft, row in zip(drafts[1], test.features, strict=True)]
    wrong = [is_wrong(s, truth) for t, truth in zip(made, test.truths, strict=True) for s in statements_of(t)]
    assert (
        np.mean(wrong) < 0.15 < 0.2 < np.mean([is_wrong(Statement("pleural effusion", True), t) for t in test.truths])
    )
    assert 300 < len(wrong) < 600


def test_abstention_needs_validation_samples():
    train = samples(10, 0)
    empty = Samples(train.features[:0], [], [], [])
    with pytest.raises(ConfigError, match="validation"):
        Grounding.fit(CounterMeasures(abstain=0.1), train, empty)
