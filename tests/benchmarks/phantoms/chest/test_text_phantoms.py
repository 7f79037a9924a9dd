"""Phantoms of films with texts: published layouts, and a truth that agrees with reports, labels and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medgraft.benchmarks.cohorts.chest.chexpert import read_chexpert
from medgraft.benchmarks.cohorts.chest.findings import FINDING_OF, SPOKEN
from medgraft.benchmarks.cohorts.chest.mimic import read_mimic
from medgraft.benchmarks.cohorts.chest.questions import WORDINGS, drawn, numbers_of, questions_of
from medgraft.benchmarks.metrics.texts.labeller.findings import finding_named
from medgraft.benchmarks.metrics.texts.statements import Statement, from_json, statements_of
from medgraft.benchmarks.phantoms.chest.texts import openi, questions
from medgraft.benchmarks.phantoms.chest.texts.truth import film_statements, studies_at, truths_at
from medgraft.benchmarks.phantoms.chest.writing import Job
from medgraft.benchmarks.tasks import build_task
from medgraft.cohort import cohort_class

WRITERS = {
    "vqa_rad": questions.write_vqa_rad,
    "slake": questions.write_slake,
    "pmc_vqa": questions.write_pmc_vqa,
    "iu_xray": openi.write_iu_xray,
}
TASK_OF = {**{name: name for name in WRITERS}, "iu_xray": "iu_xray_reports"}


def unrendered(jobs: list[Job], size: int, processes: int) -> list[np.ndarray]:
    """Films without an anatomy, which these tests do not look at."""
    for job in jobs:
        job.path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tile(np.arange(size, dtype=np.uint8), (size, 1))).save(job.path)
    return []


@pytest.fixture
def written(tmp_path, monkeypatch) -> Any:
    for module in (openi, questions):
        monkeypatch.setattr(module, "drawn_masks", unrendered)

    def write(layout: str, name: str = "", **options: Any) -> Path:
        out = tmp_path / (name or layout)
        WRITERS[layout](out, **{"n_images": 20, "seed": 3, "size": 64, **options})
        return out

    return write


@pytest.mark.parametrize("layout", WRITERS)
def test_every_task_reads_its_phantom_with_the_truth_of_each_film(layout, written):
    root = written(layout)
    data = build_task(TASK_OF[layout]).load(root).check()
    assert data.phantom and data.provenance["generator"] == "chest-1" and data.given_test == (layout != "vqa_rad")
    text = json.dumps(data.provenance)
    assert not any(mark in text for mark in ("synpic", "xmlab", "PMC99", "CXR9", str(root)))
    truths = truths_at(root, layout)
    assert len(truths) == 20 and set(data.columns["truth"]) <= set(truths.values())
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    assert cohort_class(layout).made_up(names)


@pytest.mark.parametrize("layout", ["vqa_rad", "slake", "pmc_vqa"])
def test_answers_of_a_phantom_are_true_of_its_films(layout, written):
    data = build_task(layout).load(written(layout, n_images=40, per_image=20))
    checked = set()
    for prompt, answer, truth in zip(*(data.columns[name] for name in ("prompt", "reference", "truth")), strict=True):
        held = {each.finding: each for each in from_json(truth)}
        asked = prompt.split(" Choices:")[0].lower()
        for finding, article in SPOKEN.items():
            if article.removeprefix("a ") not in asked:
                continue
            answer = answer.split(". ")[-1].lower()
            if answer in ("yes", "no"):
                assert held[finding].present == (answer == "yes")
            elif answer in ("left", "right", "both sides"):
                assert held[finding].side == answer.removesuffix(" sides")
            elif answer in ("small", "moderate", "large"):
                assert held[finding].size == answer
            else:
                assert held[finding].place == answer
            checked.add(answer)
    assert {"yes", "no", "left", "right", "small"} <= checked


def test_the_three_forms_of_openi_hold_the_same_studies(written):
    told = {}
    for form in ("r2gen", "openi", "kaggle"):
        data = build_task("iu_xray_reports").load(written("iu_xray", form, form=form)).check()
        told[form] = dict(zip(data.subjects, data.columns["truth"], strict=True))
        assert len(told[form]) == 20 and data.provenance["form"] == form
    assert told["r2gen"] == told["openi"] == told["kaggle"]


def test_a_phantom_is_the_same_for_a_seed_and_another_for_another(written):
    first, again, other = (written("vqa_rad", name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    file = "VQA_RAD Dataset Public.json"
    assert (first / file).read_bytes() == (again / file).read_bytes() != (other / file).read_bytes()


def test_truths_of_chexpert_and_mimic_agree_with_their_labels_and_reports(chest_cohort, mimic_cohort):
    frame = read_chexpert(chest_cohort, "test").frame
    truths = truths_at(chest_cohort, "chexpert")
    for row in frame.to_dict("records"):
        held = {each.finding: each.present for each in from_json(truths[row["study"]])}
        assert all(held[finding] == (row[label] == 1) for label, finding in FINDING_OF.items())
    table = read_mimic(mimic_cohort)
    studies = studies_at(mimic_cohort, "mimic")
    assert set(table.frame["study"]) <= set(studies)
    for row in table.frame.to_dict("records"):
        words = sorted(row["report"].replace(".", " ").split())
        assert words == sorted(studies[row["study"]].report.replace(".", " ").split())


def test_what_a_report_says_of_side_and_size_is_what_was_drawn(chest_cohort):
    agreed = 0
    for study in studies_at(chest_cohort, "chexpert").values():
        held = {each.finding: each for each in film_statements(study)}
        for said in statements_of(study.report):
            true = held.get(said.finding)
            if true is None or not (said.present and true.present):
                continue
            assert said.side in ("", true.side)
            if said.finding in ("pneumothorax", "pleural effusion", "edema"):
                assert said.size == true.size
            if said.finding == "consolidation":
                assert said.place == true.place
            agreed += bool(said.side or said.size)
    assert agreed > 20


@pytest.mark.parametrize(
    "change", [{"generator": "chest-0"}, {"setting": "elsewhere"}, {"seed": "3"}, {"config": {"images": "many"}}]
)
def test_a_marker_that_is_not_this_generators_tells_no_truth(change, written):
    root = written("slake")
    marker = json.loads((root / "PHANTOM").read_text())
    (root / "PHANTOM").write_text(json.dumps({**marker, **change}))
    assert truths_at(root, "slake") == {} and truths_at(root, "vqa_rad") == {}
    (root / "PHANTOM").unlink()
    assert truths_at(root, "slake") == {}


def test_findings_have_the_names_that_reports_are_read_by():
    assert all(finding_named(finding) == finding for finding in FINDING_OF.values())
    assert set(SPOKEN) < set(FINDING_OF.values())


def test_questions_are_asked_of_what_is_told_alone_and_no_more_often_answered_by_no():
    told = [Statement(finding, i < 2) for i, finding in enumerate(SPOKEN)]
    asked = list(questions_of(told, "PA"))
    assert {q.type for q in asked} == {"presence", "plane", "abnormality"}
    chosen = [q for q, _ in drawn(asked, numbers_of("film", len(asked)), 40)]
    assert [q.answer for q in chosen if q.type == "presence"].count("No") == 2
    assert (
        not list(questions_of([Statement("edema", True, certain=False)])) and len(list(drawn(asked, range(99), 3))) == 3
    )
    assert all(not set(train) & set(held_out) for train, held_out in WORDINGS.values())
