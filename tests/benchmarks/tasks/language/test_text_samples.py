"""What the tasks of texts share: which texts are left out and why, splits without leaks, columns of questions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.benchmarks.tasks.language.texts import (
    OfficialConfig,
    SharesConfig,
    TextSample,
    columns_of,
    digest_of,
    multiple_choice,
    official,
    shares,
    text_data,
    usable,
)
from medgraft.benchmarks.tasks.language.usable import BOILERPLATE, EMPTY, FOREIGN, fault_of
from medgraft.errors import ConfigError, DataError
from medgraft.options import checked
from medgraft.task import RawInputs

SHARES, OFFICIAL = checked(SharesConfig, {}, "options"), checked(OfficialConfig, {}, "options")
ANY = checked(SharesConfig, {"language": "any"}, "options")
REPORT = TextSample("a.png", "p1", "Describe.", "Small left pleural effusion. No pneumothorax.", "train")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", EMPTY),
        (" \n ", EMPTY),
        ("As above.", BOILERPLATE),
        ("FINDINGS: as above. IMPRESSION: see report.", BOILERPLATE),
        ("FINAL REPORT. Electronically signed by Dr. A. Smith on 2/3.", BOILERPLATE),
        ("I have personally reviewed the images and agree. Findings were discussed with Dr. B by phone.", BOILERPLATE),
        ("XXXX XXXX.", BOILERPLATE),
        ("Report not available", BOILERPLATE),
        ("n/a", BOILERPLATE),
        ("Normal.", ""),
        ("No acute disease. Electronically signed by Dr. X.", ""),
        ("No change. Findings discussed with Dr. Y.", ""),
        ("Heart size normal. Lungs clear. No effusion.", ""),
        ("Non specific opacity; en face view; AP and LA.", ""),
        ("Kein Erguss, keine Infiltrate.", FOREIGN),
        ("Silueta cardíaca normal, sin derrame.", FOREIGN),
        ("Pas d'épanchement pleural, le coeur est normal.", FOREIGN),
        ("心肺未见异常", FOREIGN),
        ("Сердце не увеличено.", FOREIGN),
    ],
)
def test_reports_that_teach_nothing_are_told_by_their_reason(text, fault):
    assert fault_of(text, "en") == fault
    assert fault_of(text, "any") == (fault if fault != FOREIGN else "")


def test_samples_are_left_out_and_counted_by_reason():
    texts = ["Clear lungs.", "Clear  lungs.", "", "See above.", "Keine Stauung, kein Erguss."]
    samples, report = [replace(REPORT, reference=text) for text in texts], ReadReport()
    kept = usable(samples, report, SHARES, "reports")
    assert [sample.reference for sample in kept] == ["Clear lungs."] and report.used == 1
    assert report.skipped == {EMPTY: 1, BOILERPLATE: 1, FOREIGN: 1, "said twice": 1}
    assert len(usable(samples, ReadReport(), ANY, "reports")) == 2


def test_an_answer_may_be_a_word_that_a_report_may_not_be():
    question = replace(REPORT, prompt="What is seen?", reference="None")
    assert usable([question], ReadReport(), SHARES, "answers") == [question]
    with pytest.raises(DataError, match=r"none of 1 texts .*text empty: 1"):
        usable([replace(question, reference="  ")], ReadReport(), SHARES, "answers")


def test_a_cohort_in_another_language_is_refused_with_the_remedy():
    with pytest.raises(DataError, match=r"none of 1 texts .*not English: 1.*language: any"):
        usable([replace(REPORT, reference="Kein Erguss, keine Stauung.")], ReadReport(), SHARES, "reports")


def test_who_is_tested_is_not_trained_on_and_validation_is_made_of_training_patients():
    samples = [replace(REPORT, source=f"{i}", subject=f"p{i // 2}", split="train") for i in range(20)]
    samples += [replace(REPORT, source="t0", subject="p0", split="test"), replace(REPORT, subject="q", split="test")]
    report = ReadReport()
    kept, splits = official(samples, report, checked(OfficialConfig, {"val_fraction": 0.3}, "options"))
    assert report.skipped == {"subject of a later split": 2} and len(kept) == 20
    homes = {name: {kept[i].subject for i in index} for name, index in splits.items()}
    assert homes["test"] == {"p0", "q"} and len(homes["val"]) == 3 and sum(map(len, homes.values())) == 11
    given, splits = official([*samples, replace(REPORT, subject="v", split="val")], ReadReport(), OFFICIAL)
    assert [given[i].subject for i in splits["val"]] == ["v"]


@pytest.mark.parametrize(("split", "message"), [("", "in the splits ''"), ("train", "train and test need some")])
def test_data_without_a_test_split_are_refused(split, message):
    with pytest.raises(DataError, match=message):
        official([replace(REPORT, split=split)], ReadReport(), OFFICIAL)


def test_shares_are_by_patient_and_leave_some_to_train_on():
    samples = [replace(REPORT, source=f"{i}", subject=f"p{i // 3}") for i in range(60)]
    _, splits = shares(samples, SHARES)
    homes = [{samples[i].subject for i in index} for index in splits.values()]
    assert [len(home) for home in homes] == [14, 2, 4] and len(set.union(*homes)) == 20
    with pytest.raises(ConfigError, match="leave no subject for training"):
        checked(SharesConfig, {"test_fraction": 0.6, "val_fraction": 0.4}, "options")


def test_questions_have_columns_that_reports_have_not():
    asked = replace(REPORT, kind="closed:side", **multiple_choice("Side?", ["left", "right"], 0))
    columns = columns_of([asked, replace(REPORT, kind="open:size", reference="Small")])
    assert columns["choices"].tolist() == [json.dumps(["left", "right"]), ""] and "truth" not in columns
    assert columns["answer"].tolist() == ["A", ""] and columns["reference"][0] == "A. left"
    assert set(columns_of([replace(REPORT, truth="[]")])) == {"prompt", "reference", "truth"}
    with pytest.raises(DataError, match="'Side\\?' has 2 options, the right one at 2"):
        multiple_choice("Side?", ["left", "right"], 2)


def test_another_text_is_another_task_though_no_image_changed():
    def read(samples: list[TextSample]) -> tuple[str, ...]:
        raw = RawInputs(lambda i: None, len(samples), "files")
        splits = {name: np.arange(0) for name in ("train", "val", "test")}
        made = text_data(samples, splits, SHARES, inputs={"image": raw}, phantom=False, provenance={})
        return made.also_read

    assert read([REPORT]) == (digest_of([REPORT]),) != read([replace(REPORT, reference="Clear.")])
