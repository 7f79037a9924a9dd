"""Clinical F1 by hand and against scikit-learn, and answers by the kind of their question."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from medgraft.benchmarks.metrics.texts.agreement import Agreement
from medgraft.benchmarks.metrics.texts.clinical.finding_scores import FindingF1
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column
from medgraft.benchmarks.metrics.texts.kinds import AnswersByKind
from medgraft.benchmarks.metrics.texts.statements import Statement, to_json
from medgraft.metric import Predictions, value_of

FINDINGS = ("pleural effusion", "pneumothorax", "cardiomegaly", "edema")


def predictions(texts: list[str], references: list[str], **columns: list[str]) -> Predictions:
    n, given = len(texts), {GENERATED: texts, REFERENCE: references, **columns}
    arrays = {name: as_column(column) for name, column in given.items()}
    return Predictions(np.zeros((n, 1)), np.zeros(n, np.int64), np.arange(n), (), columns=arrays)


def values(metric, p: Predictions) -> dict[str, float]:
    return {name: value_of(statistic, len(p.targets)) for name, statistic in metric.statistics(p).items()}


def report(row: np.ndarray) -> str:
    return " ".join(f"There is {name}." if there else f"No {name}." for name, there in zip(FINDINGS, row, strict=True))


def test_it_is_scikit_learns_of_the_labels():
    rng = np.random.default_rng(0)
    true, decided = rng.random((2, 40, 4)) < np.array([0.5, 0.3, 0.2, 0.4])
    truths = [to_json([Statement(n, bool(t)) for n, t in zip(FINDINGS, row, strict=True)]) for row in true]
    by_task = values(FindingF1(), predictions([report(row) for row in decided], [""] * 40, truth=truths))
    by_report = values(FindingF1(), predictions([report(row) for row in decided], [report(row) for row in true]))
    for found in (by_task, by_report):
        for kind in ("micro", "macro"):
            expected = f1_score(true, decided, average=kind)
            assert found[f"clinical_f1_{kind}"] == pytest.approx(expected, abs=1e-12)
            assert found[f"clinical_f1_{kind}_uncertain_positive"] == pytest.approx(expected, abs=1e-12)
        options: dict[str, Any] = {"average": "samples", "zero_division": 1}
        expected = f1_score(true, decided, **options)
        assert found["clinical_f1_by_sample"] == pytest.approx(expected, abs=1e-12)
        assert found["clinical_precision_micro"] == pytest.approx(precision_score(true, decided, average="micro"))
        assert found["clinical_recall_micro"] == pytest.approx(recall_score(true, decided, average="micro"))
        each = [f1_score(true[:, k], decided[:, k]) for k in range(len(FINDINGS))]
        names = [f"clinical_f1_of_{name.replace(' ', '_')}" for name in FINDINGS]
        assert [found[name] for name in names] == pytest.approx(each, abs=1e-12)


def test_the_two_conventions_of_doubt():
    texts = ["Possible pneumothorax.", "Pneumothorax."]
    found = values(FindingF1(), predictions(texts, ["Pneumothorax.", "Possible pneumothorax."]))
    assert found["clinical_f1_micro"] == 0  # asserted where it is in doubt, in doubt where it is
    assert found["clinical_f1_micro_uncertain_positive"] == 1


def test_an_assertion_beside_a_doubt_and_a_denial_counts():
    text = "No pneumothorax on the left. Possible pneumothorax. Pneumothorax on the right."
    assert values(FindingF1(), predictions([text], ["Pneumothorax."]))["clinical_f1_micro"] == 1


def test_reports_that_rightly_find_nothing():
    found = values(FindingF1(), predictions(["Normal chest radiograph."], ["No acute disease."]))
    assert found["clinical_f1_by_sample"] == 1
    assert np.isnan(found["clinical_f1_micro"]) and np.isnan(found["clinical_f1_macro"])


def test_a_weight_of_two_is_a_sample_twice():
    texts, references = ["Edema.", "Pneumothorax.", "Edema. Cardiomegaly."], ["Edema.", "Edema.", "Cardiomegaly."]
    statistics = FindingF1().statistics(predictions(texts, references))
    rows = [0, 0, 2]
    twice = values(FindingF1(), predictions([texts[i] for i in rows], [references[i] for i in rows]))
    for name in FindingF1.numbers:
        assert statistics[name](np.array([[2.0, 0, 1]]))[0] == pytest.approx(twice[name], abs=1e-12)


def test_answers_by_kind_are_those_of_the_kind_alone():
    kinds = ["closed:plane", "closed:plane", "closed:organ", "open:organ", "closed:organ"]
    texts, references = ["a", "b", "c", "left lung", "d"], ["a", "c", "c", "right lung", "x"]
    p = predictions(texts, references, kind=kinds)
    found = values(AnswersByKind(), p)
    for kind in sorted(set(kinds)):
        rows = np.array([each == kind for each in kinds])
        alone = values(Agreement(), p.of(rows))
        name = kind.replace(":", "_")
        assert found[f"exact_match_of_{name}"] == alone["exact_match"]
        assert found[f"token_f1_of_{name}"] == alone["token_f1"]
    assert found["exact_match_of_closed"] == pytest.approx(2 / 4)
    assert found["exact_match_over_kinds"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    weights = np.array([[1.0, 1, 0, 0, 0]])
    statistics = AnswersByKind().statistics(p)
    assert statistics["exact_match_of_closed"](weights)[0] == 0.5
    assert np.isnan(statistics["exact_match_of_open_organ"](weights)[0])
