"""Assertions alone: how many are false before and after abstention, and how many are left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medgraft.benchmarks.metrics.bootstrap import estimates
from medgraft.benchmarks.metrics.texts.clinical.assertions import AssertionCoverage, FalseAssertions
from medgraft.benchmarks.metrics.texts.clinical.hallucination import Hallucination
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column
from medgraft.benchmarks.metrics.texts.coverage import DRAFT
from medgraft.benchmarks.metrics.texts.selection import fitting
from medgraft.benchmarks.metrics.texts.statements import statements_of, to_json
from medgraft.metric import Predictions, value_of

HELD = ["Small left pleural effusion. No pneumothorax.", "Cardiomegaly. No edema.", "No edema.", "Pneumonia."]
DRAFTS = [
    "Left pleural effusion. Pneumothorax. No edema.",  # one holds; one is contradicted
    "Cardiomegaly. Edema. Possible pneumonia.",  # one holds; one is contradicted; a doubt asserts nothing
    "Right pleural effusion. Edema.",  # neither is there
    "No pneumothorax.",  # a denial
]
FINAL = ["Left pleural effusion. Not assessed: pneumothorax. No edema.", DRAFTS[1], "Not assessed: edema.", DRAFTS[3]]
METRICS = (FalseAssertions(), AssertionCoverage())


def predictions(texts: list[str], drafts: list[str] | None = DRAFTS) -> Predictions:
    n = len(texts)
    columns = {GENERATED: as_column(texts), REFERENCE: as_column(HELD[:n])}
    columns["truth"] = as_column([to_json(statements_of(text)) for text in HELD[:n]])
    if drafts is not None:
        columns[DRAFT] = as_column(drafts)
    return Predictions(np.zeros((n, 1)), np.zeros(n, np.int64), np.arange(n), (), columns=columns)


def values(p: Predictions) -> dict[str, float]:
    n = len(p.targets)
    return {name: value_of(each, n) for metric in METRICS for name, each in metric.statistics(p).items()}


def test_the_pair_by_hand():
    assert values(predictions(FINAL)) == {
        "false_assertions": pytest.approx(1 / 3),  # effusion and cardiomegaly hold, edema does not
        "false_assertions_of_drafts": pytest.approx(4 / 6),
        "assertion_coverage": pytest.approx(3 / 6),
    }


@pytest.mark.parametrize("drafts", [None, FINAL])
def test_without_counter_measures_nothing_is_lost(drafts):
    found = values(predictions(FINAL, drafts))
    assert found["assertion_coverage"] == 1
    assert found["false_assertions"] == found["false_assertions_of_drafts"] == pytest.approx(1 / 3)


def test_a_wrong_side_of_a_finding_that_is_there_is_no_false_assertion_and_denials_count_nowhere():
    texts = ["Large right pleural effusion.", "No cardiomegaly.", "No edema.", "No pneumonia."]
    assert values(predictions(texts, None))["false_assertions"] == 0
    assert values(predictions([HELD[0]], [HELD[0]]))["assertion_coverage"] == 1


def test_it_is_what_is_contradicted_and_unsupported_together():
    for texts in (FINAL, DRAFTS, HELD[::-1]):
        p = predictions(texts, None)
        both = Hallucination().statistics(p)
        parts = [value_of(both[name], len(texts)) for name in ("contradicted_findings", "unsupported_findings")]
        assert values(p)["false_assertions"] == pytest.approx(sum(parts), abs=1e-12)


def test_where_nothing_is_asserted_both_are_undefined():
    found = values(predictions(["Not assessed: edema."] * 4))
    assert np.isnan(found["false_assertions"]) and found["assertion_coverage"] == 0
    assert found["false_assertions_of_drafts"] == pytest.approx(4 / 6)
    assert np.isnan(values(predictions(["No edema."] * 4, None))["assertion_coverage"])


def test_weights_are_samples_and_intervals_are_over_subjects():
    p = predictions(FINAL)
    for metric in METRICS:
        statistics = metric.statistics(p)
        assert tuple(statistics) == metric.numbers
        found = estimates(
            statistics, replace(p, groups=np.array([0, 0, 1, 1])), 200, 0, dict.fromkeys(statistics, metric)
        )
        assert all(each.n_subjects == 2 for each in found.values())
    weighted = FalseAssertions().statistics(p)["false_assertions_of_drafts"]
    assert weighted(np.array([[2.0, 1, 0, 1]]))[0] == pytest.approx((2 + 1) / (4 + 2), abs=1e-12)


def test_reports_are_judged_by_it_and_answers_are_not():
    p = predictions(FINAL)
    assert {"false_assertions", "assertion_coverage"} <= set(fitting(p))
    answers = replace(p, columns={**p.columns, "kind": as_column(["open:finding"] * 4)})
    assert not {"false_assertions", "assertion_coverage"} & set(fitting(answers))
