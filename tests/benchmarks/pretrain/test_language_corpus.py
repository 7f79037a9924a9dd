"""The generated corpus: the same from a seed, findings that nothing tells, answers that agree with what is told."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from medgraft.benchmarks.pretrain.corpus.documents import listed
from medgraft.benchmarks.pretrain.corpus.domains import BRAIN, CT, DOMAINS, FILM
from medgraft.benchmarks.pretrain.corpus.facts import as_list, draw, positives
from medgraft.benchmarks.pretrain.corpus.mixture import EARLY, EARLY_SHARE, SHARES, documents
from medgraft.benchmarks.pretrain.corpus.questions import LETTERS, choices, question
from medgraft.benchmarks.texts.neighbours import BETWEEN, INTRODUCTION


def test_a_seed_and_a_number_define_the_texts():
    one, same, other = (list(islice(documents(seed, 5), 30)) for seed in (0, 0, 1))
    assert one == same and one != other
    assert not {d.turns for d in one if d.part.startswith("phantom")} & {d.turns for d in other}


@pytest.mark.parametrize("part", SHARES)
def test_each_part_has_texts_with_answers(part):
    texts = list(islice(documents(3, 0, part), 40))
    assert {text.part for text in texts} == {part}
    assert all(answer.strip() for text in texts for _, answer in text.turns)
    assert len({text.turns for text in texts}) > 30  # no template said again and again


def test_shares_are_shares():
    assert sum(SHARES.values()) == pytest.approx(1)


def test_lists_read_as_they_are_said():
    assert [listed(x) for x in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_findings_have_the_prevalence_that_is_told_and_both_sides_are_as_likely():
    rng = np.random.default_rng(0)
    drawn = [draw(CT, rng) for _ in range(3000)]
    for place, kind in enumerate(CT.kinds):
        share = np.mean([facts[place].present for facts in drawn])
        expected = np.mean([min(0.9, kind.prevalence * s) for s in (0.3, 1.0, 1.8)])
        assert share == pytest.approx(expected, abs=0.06)  # hedges about what is not there add up to 0.03
    effusion = next(i for i, kind in enumerate(CT.kinds) if kind.name == "pleural effusion")
    sides = [facts[effusion].side for facts in drawn if positives([facts[effusion]])]
    assert abs(sides.count("left") - sides.count("right")) < 4 * np.sqrt(len(sides))


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.part)
def test_answers_agree_with_the_facts(domain):
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(400):
        facts = draw(domain, rng)
        asked, answer = question(domain, facts, rng)
        told = answer.partition(". ")[2] if answer[1:3] == ". " else answer
        if " Choices: " in asked and not answer.endswith("."):
            assert f"{answer[0]}. {told}".lower() in asked.lower()
        if asked.startswith(("On which side", "Which side")) and told.lower() in ("left", "right"):
            seen += 1
            assert any(fact.side == told.lower() and fact.kind.name in asked for fact in positives(facts))
        if asked.startswith(("Is there a", "Are there signs")) and told in ("Yes", "No") and "left" not in asked:
            named = max((f for f in facts if f.kind.name in asked), key=lambda f: len(f.kind.name), default=None)
            if named is not None and "right" not in asked:
                seen += 1
                assert named.present == (told == "Yes") or not named.certain
    assert seen > 20


def test_the_letter_is_that_of_the_right_option():
    rng = np.random.default_rng(2)
    for _ in range(50):
        asked, answer = choices("Which side?", "left", ("left", "right", "both"), rng)
        assert f"{answer[0]}. left" in asked and answer[0] in LETTERS


def test_a_list_of_findings_names_those_that_are_there():
    rng = np.random.default_rng(3)
    for domain in (FILM, BRAIN):
        facts = draw(domain, rng)
        told = as_list(facts, rng)
        assert all(fact.kind.name in told for fact in positives(facts))


def test_what_is_looked_up_stands_in_the_prompt_and_is_told_by_nothing_else():
    answers = []
    for document in islice(documents(2, 0, "look-ups"), 300):
        told = document.turns[0][0].lower()
        assert all(answer.lower() in told for _, answer in document.turns)
        answers += [answer for _, answer in document.turns]
    assert max(answers.count(answer) for answer in set(answers)) < 0.05 * len(answers)


def test_a_training_begins_with_look_ups():
    def share(number: int) -> float:
        return float(np.mean([each.part == "look-ups" for each in islice(documents(0, number), 400)]))

    assert share(EARLY - 1) == pytest.approx(EARLY_SHARE + (1 - EARLY_SHARE) * SHARES["look-ups"], abs=0.08)
    assert share(EARLY) == pytest.approx(SHARES["look-ups"], abs=0.05)


def test_similar_reports_stand_as_the_prompts_of_this_package_have_them():
    found = [d for d in islice(documents(4, 0, "chest films"), 300) if d.turns[0][0].startswith(INTRODUCTION)]
    assert found and all(d.turns[0][1] in d.turns[0][0] and BETWEEN in d.turns[0][0] for d in found)
