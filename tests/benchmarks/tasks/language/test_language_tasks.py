"""Reports and questions of CheXpert, MIMIC-CXR and ADNI as tasks: splits, one film of each study, what is supported."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.chest.mimic import read_mimic
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.benchmarks.metrics.texts.statements import Statement, from_json, statements_of
from medgraft.benchmarks.tasks import build_task
from medgraft.benchmarks.tasks.language import brain_reports
from medgraft.benchmarks.tasks.language.brain_facts import norms_of, shares_of, statements_at, worded
from medgraft.benchmarks.tasks.language.brain_questions import WORDS
from medgraft.benchmarks.tasks.language.chest_questions import detailed
from medgraft.benchmarks.tasks.language.mimic_reports import one_film
from medgraft.benchmarks.tasks.language.usable import fault_of
from medgraft.errors import DataError
from medgraft.task import TaskData


def leaks(data: TaskData) -> bool:
    homes = [set(data.subjects[index]) for index in data.splits.values()]
    return len(set().union(*homes)) != sum(map(len, homes))


def rows_of(data: TaskData) -> list[dict[str, Any]]:
    return pd.DataFrame({name: column.tolist() for name, column in data.columns.items()}).to_dict("records")


def test_chest_reports_have_options_and_splits_as_before_they_shared_their_code(chest_cohort):
    task = build_task("chest_reports")
    recorded = task.config.recorded()
    assert "language" not in recorded and recorded["beams"] == 1
    data = task.load(chest_cohort).check()
    assert len(data.targets) == 60 and not leaks(data) and "truth" in data.columns
    assert "language" in build_task("chest_reports", {"language": "any"}).config.recorded()


def test_a_study_of_mimic_has_one_frontal_film_and_its_official_split(mimic_cohort):
    table = read_mimic(mimic_cohort)
    data = build_task("mimic_reports").load(mimic_cohort).check()
    assert len(data.targets) == table.frame["study"].nunique() and data.given_test and not leaks(data)
    parts = dict(zip(table.frame["subject"], table.frame["split"], strict=True))
    assert {parts[subject] for subject in data.subjects[data.splits["val"]].tolist()} == {"validate"}
    assert "p99" not in json.dumps(data.provenance)


@pytest.mark.parametrize(
    ("views", "chosen", "skipped"),
    [
        (("AP", "PA", "LATERAL"), "PA", {"further frontal image of a study": 1}),
        (("LL", "AP"), "AP", {}),
        (("PA", "PA"), "PA", {"further frontal image of a study": 1}),
    ],
)
def test_pa_is_taken_before_ap_and_lateral_ones_never(mimic_cohort, views, chosen, skipped):
    table = read_mimic(mimic_cohort)
    rows = [{**table.frame.iloc[0], "view": view, "study": "s1", "image": f"{i}"} for i, view in enumerate(views)]
    report = ReadReport()
    film = one_film(replace(table, frame=pd.DataFrame(rows)), report)
    assert film["view"].tolist() == [chosen] and film["image"].tolist() == [str(views.index(chosen))]
    assert report.skipped == skipped


def test_a_study_without_a_frontal_film_is_counted_and_a_cohort_of_them_refused(mimic_cohort):
    table, report = read_mimic(mimic_cohort), ReadReport()
    frame = table.frame.assign(study=[f"s{i}" for i in range(len(table.frame))])
    frame.loc[0, "view"] = "LATERAL"
    assert len(one_film(replace(table, frame=frame), report)) == len(frame) - 1
    assert report.skipped == {"study without a frontal image": 1}
    with pytest.raises(DataError, match=r"none of \d+ studies has a frontal image"):
        one_film(replace(table, frame=frame.assign(view="LL")), ReadReport())


@pytest.mark.parametrize("form", ["words", "choices"])
def test_questions_about_films_are_answered_by_labels_and_what_was_drawn(chest_cohort, form):
    name = "chest_questions" if form == "words" else "chest_questions:choices"
    data = build_task(name).load(chest_cohort).check()
    assert data.given_test and not leaks(data)
    for i, row in enumerate(rows_of(data)):
        kind = row["kind"].split(":")
        assert kind[0] == "closed" or (form == "words" and kind[1] in ("side", "size", "place"))
        assert (row["choices"] != "") == (row["answer"] != "") == (form == "choices")
        if form == "choices":
            options = json.loads(row["choices"])
            assert row["reference"] == f"{row['answer']}. {options['ABC'.index(row['answer'])]}"
        assert from_json(row["truth"]) and i >= 0
    wordings = [set(data.columns["prompt"][data.splits[name]].tolist()) for name in ("train", "test")]
    assert not wordings[0] & wordings[1]
    seen = build_task(name, {"wording": "seen"}).load(chest_cohort)
    assert set(seen.columns["prompt"][seen.splits["test"]].tolist()) != wordings[1]


def test_a_real_copy_is_asked_what_its_labels_tell_and_nothing_of_sides(chest_cohort, tmp_path):
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(chest_cohort, root)
    (root / "PHANTOM").unlink()
    data = build_task("chest_questions").load(root).check()
    assert {row["kind"] for row in rows_of(data)} == {"closed:presence", "closed:plane"}
    assert all(not each.side and not each.size for row in rows_of(data)[:20] for each in from_json(row["truth"]))


def test_a_label_takes_the_side_of_what_was_drawn_only_where_both_say_that_it_is_there():
    known = [Statement("edema", False), Statement("pneumothorax", True, side="left", size="small")]
    told = [Statement("edema", True), Statement("pneumothorax", True), Statement("fracture", False)]
    assert detailed(told, known) == [told[0], known[1], told[2]]
    assert detailed([Statement("pneumothorax", False)], known) == [Statement("pneumothorax", False)]


# --- brains -----------------------------------------------------------------------------------------------------------


def test_reports_of_brains_say_what_fields_say_and_are_read_back_as_that(adni_cohort):
    data = build_task("brain_reports").load(adni_cohort).check()
    assert not leaks(data) and len(set(data.subjects[data.splits["test"]])) == len(data.splits["test"])
    for row in rows_of(data):
        assert set(statements_of(row["reference"])) == set(from_json(row["truth"]))
        assert not fault_of(row["reference"], "en")
        assert not any(word in row["reference"].lower() for word in ("left", "right", "lobe", "mm"))
    assert set(data.attributes) == {"sex", "age", "dx"} and data.inputs["volume"].read(0).ndim >= 3
    assert "_S_" not in json.dumps(data.provenance)


def frame_of(ventricles: list[float], **columns: Any) -> pd.DataFrame:
    n = len(ventricles)
    base = {"subject": [f"s{i}" for i in range(n)], "dx": "CN", "ICV": 1.0, "Ventricles": ventricles}
    return pd.DataFrame({**base, "Hippocampus": np.nan, "WholeBrain": np.nan, **columns})


@pytest.mark.parametrize(
    ("deviations", "size"), [(0.0, ""), (0.99, ""), (1.01, "small"), (2.01, "moderate"), (3.01, "large"), (-5.0, "")]
)
def test_a_change_is_told_in_deviations_from_healthy_training_subjects(deviations, size):
    healthy = [1.0, 2.0, 3.0, 4.0, 5.0]
    mean, deviation = np.mean(healthy), np.std(healthy, ddof=1)
    frame = frame_of([*healthy, 100.0, float(mean + deviations * deviation)])
    norms = norms_of(frame, np.arange(5))  # not of the rows that are not trained on
    assert norms == {"Ventricles": (pytest.approx(mean), pytest.approx(deviation))}
    said = statements_at(shares_of(frame), norms, 6)
    assert said == [Statement("enlarged ventricles", size != "", size=size)]


def test_loss_is_told_of_small_hippocampi_and_brains():
    values = [10.0, 11.0, 12.0, 13.0, 14.0, 2.0]
    frame = frame_of([np.nan] * 6, Hippocampus=values, WholeBrain=values)
    said = statements_at(shares_of(frame), norms_of(frame, np.arange(5)), 5)
    assert [(s.finding, s.size, s.place) for s in said] == [
        ("hippocampal atrophy", "large", ""),
        ("brain atrophy", "large", ""),
    ]
    assert {worded(said, [i, j]) for i in range(3) for j in range(3)} >= {
        "Severe hippocampal atrophy. Severe generalized brain atrophy."
    }


def test_a_volume_without_a_field_has_no_report_and_a_cohort_of_them_is_refused(adni_cohort, monkeypatch):
    read = brain_reports.read_adni

    def blank(root: Any, keep: float) -> Any:
        table = read(root)
        frame = table.frame.copy()
        frame.loc[frame["dx"] != "CN", ["Ventricles", "Hippocampus", "WholeBrain"]] = np.nan
        return replace(table, frame=frame if keep else frame.assign(ICV=np.nan))

    monkeypatch.setattr(brain_reports, "read_adni", lambda root: blank(root, 1))
    data = build_task("brain_reports").load(adni_cohort)
    assert data.provenance["reader"]["skipped"][brain_reports.NO_REPORT] > 0
    monkeypatch.setattr(brain_reports, "read_adni", lambda root: blank(root, 0))
    with pytest.raises(DataError, match=r"fewer than 5 cognitively normal .*ADNIMERGE"):
        build_task("brain_reports").load(adni_cohort)


@pytest.mark.parametrize("form", ["words", "choices"])
def test_questions_about_brains_are_those_of_brain_prompts_in_words(adni_cohort, form):
    name = "brain_questions" if form == "words" else "brain_questions:choices"
    data, asked = build_task(name).load(adni_cohort).check(), build_task("brain_prompts").load(adni_cohort)
    assert asked.asked is not None and data.split_hash() == asked.split_hash()
    for i, row in enumerate(rows_of(data)):
        question = asked.questions[asked.asked[i]]
        right = WORDS[question][asked.classes[asked.targets[i]].removeprefix(f"{question}: ")]
        assert row["reference"].split(". ")[-1] == right
        assert row["kind"] == f"{'open' if form == 'words' else 'closed'}:{question}"
    assert data.inputs["volume"].fingerprint == asked.inputs["volume"].fingerprint
