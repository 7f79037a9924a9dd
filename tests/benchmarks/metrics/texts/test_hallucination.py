"""What generated reports make up: each verdict by hand, and the rates as sums over reports."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medgraft.benchmarks.metrics.bootstrap import estimates
from medgraft.benchmarks.metrics.texts.clinical.hallucination import Entailment, Hallucination, HallucinationCounts
from medgraft.benchmarks.metrics.texts.clinical.judging import judge
from medgraft.benchmarks.metrics.texts.clinical.truth import Truth, truth_of, truth_of_json
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column
from medgraft.benchmarks.metrics.texts.statements import Statement, statements_of, to_json
from medgraft.metric import Predictions, value_of

TRUTH = truth_of(
    [
        Statement("pleural effusion", True, side="left", size="small"),
        Statement("lung nodule", True, side="right", size="small", place="right upper lobe", millimetres=8),
        Statement("cardiomegaly", True, certain=False),
        Statement("pneumothorax", False),
    ]
)

# statement -> verdict, wrong details, made up, sentence
JUDGED = {
    "Small left pleural effusion.": ("supported", "", False, "entailed"),
    "Pleural effusion.": ("supported", "", False, "entailed"),
    "Right pleural effusion.": ("contradicted", "side", True, "contradicted"),
    "Bilateral pleural effusions.": ("contradicted", "side", True, "contradicted"),
    "Large left pleural effusion.": ("contradicted", "size", True, "contradicted"),
    "Nodule in the right upper lobe.": ("supported", "", False, "entailed"),
    "Nodule in the right lower lobe.": ("contradicted", "place", True, "contradicted"),
    "Nodule in the left upper lobe.": ("contradicted", "side place", True, "contradicted"),
    "Right upper zone nodule.": ("supported", "", False, "entailed"),
    "Nodule of 10 mm.": ("supported", "", False, "entailed"),
    "Nodule of 0.8 cm.": ("supported", "", False, "entailed"),
    "Nodule of 11 mm.": ("contradicted", "number", True, "contradicted"),
    "Pleural effusion of 12 mm.": ("supported", "", True, "neutral"),
    "Right pneumothorax.": ("contradicted", "", True, "contradicted"),
    "Possible pneumothorax.": ("unsupported", "", False, "neutral"),
    "Emphysema.": ("unsupported", "", True, "neutral"),
    "Lung opacity.": ("supported", "", False, "entailed"),  # a nodule is one
    "Left lung opacity.": ("contradicted", "side", True, "contradicted"),
    "Cardiomegaly.": ("supported", "", False, "entailed"),  # in doubt in the truth
    "No cardiomegaly.": ("unsupported", "", False, "neutral"),
    "No pneumothorax.": ("supported", "", False, "entailed"),
    "No right pneumothorax.": ("supported", "", False, "entailed"),
    "No pleural effusion.": ("contradicted", "", False, "contradicted"),
    "No right pleural effusion.": ("unsupported", "", False, "neutral"),
    "No large pleural effusion.": ("unsupported", "", False, "neutral"),
    "No left pleural effusion.": ("contradicted", "", False, "contradicted"),
    "No emphysema.": ("unsupported", "", False, "neutral"),
    "Pleural effusion is unlikely.": ("unsupported", "", False, "neutral"),
    "No acute cardiopulmonary process.": ("contradicted", "", False, "contradicted"),
}


def test_each_statement_is_judged_as_documented():
    found = {}
    for sentence in JUDGED:
        judgement = judge(sentence, TRUTH)
        (verdict,) = judgement.verdicts
        found[sentence] = (verdict.verdict, " ".join(verdict.wrong), verdict.made_up, *judgement.sentences)
    assert found == JUDGED


def test_a_finding_on_both_sides_supports_either_and_two_places_support_both():
    both = Truth((Statement("pleural effusion", True, side="both"),))
    assert judge("Left pleural effusion.", both).verdicts[0].verdict == "supported"
    two = Truth(tuple(Statement("lung nodule", True, side=side) for side in ("left", "right")))
    assert judge("Bilateral nodules.", two).verdicts[0].verdict == "supported"


@pytest.mark.parametrize(
    ("text", "missed"),
    [
        ("", {"pleural effusion", "lung nodule"}),
        ("Right effusion. No nodule.", {"lung nodule"}),
        ("Possible effusion and a nodule.", set()),
        ("Lung opacity.", {"pleural effusion", "lung nodule"}),
    ],
)
def test_findings_are_missed_unless_the_report_names_them_as_there(text, missed):
    assert judge(text, TRUTH).missed == missed


def test_a_case_of_a_finding_names_it():
    assert not judge("Consolidation.", Truth((Statement("lung opacity", True),))).missed


@pytest.mark.parametrize(
    ("text", "lengths", "wrong"),
    [
        ("Nodule of 8 mm. The lesion measures 9 mm.", 2, 0),
        ("Nodule of 30 mm.", 1, 1),
        ("It measures 30 mm.", 1, 1),
        ("Effusion of 8 mm.", 1, 1),  # the length of the nodule is none of the effusion
        ("Tube 3 cm above the carina.", 0, 0),
        ("No nodule over 4 mm.", 1, 1),
    ],
)
def test_lengths_need_a_field(text, lengths, wrong):
    found = judge(text, TRUTH)
    assert (found.lengths, found.wrong_lengths) == (lengths, wrong)


@pytest.mark.parametrize(
    ("held", "right", "wrong"), [(8.0, (6, 10), (5.9, 10.1)), (50.0, (45, 55), (44.9, 55.1)), (0.0, (2,), (2.1,))]
)
def test_the_tolerance_is_two_millimetres_or_a_tenth(held, right, wrong):
    truth = Truth((Statement("lung nodule", True, millimetres=held),))
    assert not any(judge(f"Nodule of {length} mm.", truth).wrong_lengths for length in right)
    assert all(judge(f"Nodule of {length} mm.", truth).wrong_lengths for length in wrong)


def test_names_sides_and_places_of_a_task_are_read_in_words_of_reports():
    rows = [
        Statement("Lung Lesion", True, place="Right Upper Lobe"),
        Statement("atrophy", True, place="left hippocampus"),
        Statement("hippocampal atrophy", False, place="hippocampus"),
        Statement("Edema", False),
    ]
    found = truth_of_json(to_json(rows[:2] + rows[3:]))
    assert [(each.finding, each.side, each.place) for each in found.present] == [
        ("lung nodule", "right", "right upper lobe"),
        ("hippocampal atrophy", "left", ""),
    ]
    assert found.absent == {"edema"}
    assert truth_of_json(to_json(rows[2:3])).absent == {"hippocampal atrophy"}


TEXTS = [
    "Small left pleural effusion. No pneumothorax. Clear today.",
    "Right pleural effusion. Emphysema. Nodule of 20 mm.",
    "",
    "No acute cardiopulmonary process.",
]
TRUTHS = [
    [Statement("pleural effusion", True, side="left"), Statement("pneumothorax", False)],
    [Statement("pleural effusion", True, side="left"), Statement("lung nodule", True, millimetres=8.0)],
    [Statement("edema", True)],
    [],
]


def predictions(texts=TEXTS, truths=TRUTHS) -> Predictions:
    n = len(texts)
    columns = {
        GENERATED: as_column(texts),
        REFERENCE: as_column(["Pneumonia."] * n),
        "truth": as_column([to_json(each) for each in truths]),
    }
    return Predictions(np.zeros((n, 1)), np.zeros(n, np.int64), np.arange(n), (), columns=columns)


def values(metric, p: Predictions) -> dict[str, float]:
    return {name: value_of(statistic, len(p.targets)) for name, statistic in metric.statistics(p).items()}


def test_rates_by_hand():
    found = values(Hallucination(), predictions())
    assert found == {
        "hallucination_rate": pytest.approx(3 / 4),
        "hallucinated_reports": pytest.approx(1 / 4),
        "contradicted_findings": 0,
        "unsupported_findings": pytest.approx(1 / 4),
        "wrong_side": pytest.approx(1 / 2),
        "wrong_size": pytest.approx(np.nan, nan_ok=True),
        "wrong_place": pytest.approx(np.nan, nan_ok=True),
        "wrong_numbers": 1,
        "missed_findings": pytest.approx(1 / 4),
        "false_denials": 0,
    }
    assert values(HallucinationCounts(), predictions()) == {
        "hallucinations_per_report": pytest.approx(3 / 4),
        "missed_per_report": pytest.approx(1 / 4),
        "statements_per_report": pytest.approx(6 / 4),
    }
    assert values(Entailment(), predictions()) == {
        "sentences_entailed": pytest.approx(2 / 7),
        "sentences_neutral": pytest.approx(3 / 7),
        "sentences_contradicted": pytest.approx(2 / 7),
    }


def test_without_a_truth_the_reference_is_read():
    p = predictions()
    plain = replace(p, columns={name: column for name, column in p.columns.items() if name != "truth"})
    assert values(Hallucination(), plain)["hallucination_rate"] == 1  # only a pneumonia is in the references
    assert values(Hallucination(), plain)["missed_findings"] == 1


@pytest.mark.parametrize("metric", [Hallucination(), HallucinationCounts(), Entailment()], ids=lambda each: each.title)
def test_a_weight_of_two_is_a_sample_twice(metric):
    rows = [0, 0, 1, 3]
    twice = values(metric, predictions([TEXTS[i] for i in rows], [TRUTHS[i] for i in rows]))
    statistics = metric.statistics(predictions())
    assert set(statistics) == set(metric.numbers)
    for name, statistic in statistics.items():
        assert statistic(np.array([[2.0, 1, 0, 1]]))[0] == pytest.approx(twice[name], abs=1e-12, nan_ok=True)


def test_a_report_that_says_what_holds_makes_nothing_up():
    texts = [
        "Small left pleural effusion. 8 mm nodule in the right upper lobe. No pneumothorax.",
        "Moderate cardiomegaly. Bilateral effusions, left greater than right. Possible pneumonia.",
        "Severe left hippocampal atrophy. Enlarged ventricles. No white matter lesions.",
    ]
    found = values(Hallucination(), predictions(texts, [statements_of(text) for text in texts]))
    assert found["hallucination_rate"] == found["missed_findings"] == found["hallucinated_reports"] == 0
    assert found["false_denials"] == found["wrong_side"] == found["wrong_numbers"] == 0
    assert values(Entailment(), predictions(texts, [statements_of(text) for text in texts]))["sentences_entailed"] == 1


def test_rates_have_intervals_over_subjects():
    texts = (["Left effusion."] * 3 + ["Right effusion."]) * 10
    p = predictions(texts, [[Statement("pleural effusion", True, side="left")]] * 40)
    p = replace(p, groups=np.arange(40) // 2)
    statistics = Hallucination().statistics(p)
    found = estimates(statistics, p, 500, 0, dict.fromkeys(statistics, Hallucination()))
    rate = found["hallucination_rate"]
    assert rate.value == 0.25 and rate.n_subjects == 20
    assert rate.ci_low is not None and rate.ci_high is not None and rate.ci_low < 0.25 < rate.ci_high
    assert found["wrong_size"].value is None and found["wrong_size"].ci_low is None
