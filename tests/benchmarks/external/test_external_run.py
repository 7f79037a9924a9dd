"""run --test-on, as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from own_data import pictures, table, two_classes
from PIL import Image
from sweeping import command

from medgraft.benchmarks.external.results import StoredTest, stored_test
from medgraft.benchmarks.external.validation import SEEN
from medgraft.metric.judging import values


def run(home: Path, *more: str, at: str = "home/cohort.csv"):
    own = [
        "--tasks",
        "table",
        "--data",
        f"table={home / at}",
        "--adapters",
        "linear_probe",
        "--no-baselines",
        "--seeds",
        "0",
    ]
    where = ["--results", str(home / "results"), "--jobs", "1"]
    return command("run", *own, *where, "--encoders", "pixels:2d", *more)


def stored_in(home: Path) -> list[StoredTest]:
    return [stored_test(path) for path in sorted((home / "results").rglob("*.external.json"))]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A probe on two classes, tested on another table of the same words and on one of others; and what was said."""
    home = tmp_path_factory.mktemp("external")
    two_classes(home / "home", 24)
    labels = ["B", "a", "a", "c", "B"] * 4
    table(home / "away", {"image": pictures(home / "away", 20, 100), "label": labels})
    words = {"image": pictures(home / "words", 12, 200), "label": ["sick", "healthy"] * 6, "split": ["test"] * 12}
    words["split"][:4] = ["train", "train", "val", "val"]
    table(home / "words", words)
    others = ["--data", f"table:away={home / 'away/cohort.csv'}"]
    said = run(home, "--test-on", "table:away", *others)
    assert said.exit_code == 0, said.output
    return home, said.output


def test_a_graft_is_judged_on_the_classes_that_both_have(swept):
    home, said = swept
    (test,) = stored_in(home)
    result = test.result
    assert result.classes == ("a", "b") and result.part == "all" and result.status == "success"
    assert result.data["samples"] == 16 and result.data["left_out"] == {"not one of the classes a, b": 4}
    assert set(result.home) == set(result.away) == set(result.drop)
    assert test.predictions is not None
    assert values(test.predictions[1])["accuracy"] == result.away["accuracy"].value
    assert "table is tested on table:away: a, b" in said
    assert f"table tested on table:away, 16 subjects: {result.primary}" in said


def test_it_is_the_cells_own_test_split_at_home(swept):
    home, _ = swept
    (test,) = stored_in(home)
    path = next((home / "results").rglob(f"{test.result.key}.json"))
    cell = json.loads(path.read_text())
    for name, estimate in test.result.home.items():
        assert estimate.value == pytest.approx(cell["metrics"][name]["value"], abs=1e-12)


def test_images_that_it_was_trained_on_are_left_out_by_their_content(swept, tmp_path):
    home = shutil.copytree(swept[0] / "home", tmp_path / "home").parent
    old = sorted((home / "home").rglob("*.png"))
    assert len(old) == 24
    images = [*pictures(home / "again", 8, 300)]
    for i, path in enumerate(old):  # another name and another file format
        images.append(f"copy{i}.tif")
        Image.open(path).save(home / "again" / images[-1])
    table(home / "again", {"image": images, "label": ["a", "b"] * 16})
    said = run(home, "--test-on", "table:again", "--data", f"table:again={home / 'again/cohort.csv'}")
    assert said.exit_code == 0, said.output
    (test,) = [each for each in stored_in(home) if each.result.tested.task == "table:again"]
    cell = json.loads(next((home / "results").rglob(f"{test.result.key}.json")).read_text())
    known = sum(cell["data"]["splits"][split]["samples"] for split in ("train", "val"))
    assert test.result.data["left_out"] == {SEEN: known} and 0 < known < 24
    assert test.result.data["samples"] == 32 - known


def test_the_board_has_the_drop(swept):
    home, _ = swept
    text = (home / "results/leaderboard.md").read_text()
    assert "On other cohorts" in text and "| table:away" in text
    assert "table:away: left out: not one of the classes a, b: 4" in text
    row = (home / "results/leaderboard.csv").read_text().splitlines()
    assert "auc_macro_drop_table:away_ci_low" in row[0]


def test_a_finished_test_is_not_done_again_and_another_cohort_is_added(swept):
    home, _ = swept
    data = ["--data", f"table:away={home / 'away/cohort.csv'}", "--data", f"table:words={home / 'words/cohort.csv'}"]
    again = run(home, "--test-on", "table:away", *data[:2])
    assert again.exit_code == 0 and "1 of 1 cells are done already" in again.output
    refused = run(home, "--test-on", "table:words", *data[2:])
    assert refused.exit_code == 2 and "have none in common" in refused.output
    more = run(home, "--test-on", "table:words", *data[2:], "--match", "sick=b", "--match", "healthy=a")
    assert more.exit_code == 0, more.output
    tests = {test.result.tested.task: test.result for test in stored_in(home)}
    assert set(tests) == {"table:away", "table:words"}
    assert tests["table:words"].part == "test" and tests["table:words"].data["samples"] == 8


def test_a_test_that_was_tampered_with_is_left_out_by_name(swept):
    home, _ = swept
    path = next(iter(sorted((home / "results").rglob("*.external.json"))))
    before = path.read_text()
    facts = json.loads(before)
    facts["away"]["f1_macro"]["value"] = 0.99
    path.write_text(json.dumps(facts))
    try:
        shown = command("leaderboard", str(home / "results"), "--out", str(home / "board"))
        assert shown.exit_code == 0
        assert "f1_macro away is not what its predictions give" in shown.output
    finally:
        path.write_text(before)


def test_temperatures_and_conformal_sets_from_home_hold_there_too(tmp_path):
    """What is done to probabilities at home is done to those there."""
    two_classes(tmp_path / "home", 40)
    two_classes(tmp_path / "away", 30)
    others = ["--test-on", "table:away", "--data", f"table:away={tmp_path / 'away/cohort.csv'}"]
    said = run(tmp_path, "--calibrate", "temperature", *others)
    assert said.exit_code == 0, said.output
    (test,) = stored_in(tmp_path)
    cell = json.loads(next((tmp_path / "results").rglob(f"{test.result.key}.json")).read_text())
    assert cell["calibration"]["scaling"]["temperatures"]
    for name, estimate in test.result.home.items():
        assert estimate.value == pytest.approx(cell["metrics"][name]["value"], abs=1e-12), name
    coverage = test.result.sets["coverage"].value
    assert set(test.result.sets) == {"coverage", "set_size"} and coverage is not None and 0 <= coverage <= 1
    assert "conformal sets from home" in (tmp_path / "results/leaderboard.md").read_text()


def test_the_same_files_by_another_name_are_no_strangers(swept):
    home, _ = swept
    refused = run(home, "--test-on", "table:twin", "--data", f"table:twin={home / 'home/cohort.csv'}")
    assert refused.exit_code == 2 and "the very files that it is trained on" in refused.output


def test_what_is_no_other_cohort(swept, tmp_path):
    home, _ = swept
    for on, words in (("table", "is no other cohort"), ("adnii", "did you mean adni")):
        refused = run(home, "--test-on", on)
        assert refused.exit_code == 2 and words in refused.output, refused.output
    pictures(tmp_path, 6)
    notes = table(tmp_path, {"text": [f"note {k}" for k in range(12)], "label": ["a", "b"] * 6})
    refused = run(home, "--test-on", "table:notes", "--data", f"table:notes={notes}")
    assert refused.exit_code == 2 and "have no image, which the graft reads" in refused.output
    refused = run(home, "--match", "a=b")
    assert refused.exit_code == 2 and "name that with --test-on" in refused.output


def test_another_cohort_that_vanishes_spoils_no_result_at_home(tmp_path, monkeypatch):
    two_classes(tmp_path / "home", 24)
    two_classes(tmp_path / "away", 12)
    from medgraft.benchmarks.launch import cells

    start = cells.Runs._start

    def without_files(self, spec):
        for path in (tmp_path / "away").glob("*.png"):
            path.unlink(missing_ok=True)
        return start(self, spec)

    monkeypatch.setattr(cells.Runs, "_start", without_files)
    said = run(tmp_path, "--test-on", "table:away", "--data", f"table:away={tmp_path / 'away/cohort.csv'}")
    (test,) = stored_in(tmp_path)
    assert test.result.status == "error" and test.result.message
    assert "looked for in" in test.result.message
    assert said.exit_code == 0 and "was not tested" in said.output


@pytest.mark.slow
def test_findings_on_other_cohorts_of_films(chest_cohort, nih_cohort, rsna_cohort, mimic_cohort, tmp_path):
    """CheXpert's labels on NIH's test list, on MIMIC's test split, and on all of RSNA's films by one finding."""
    cohorts = {"chexpert": chest_cohort, "nih": nih_cohort, "rsna": rsna_cohort, "mimic": mimic_cohort}
    data = [part for name, path in cohorts.items() for part in ("--data", f"{name}={path}")]
    labels = ["--set", "chexpert.labels=all,chexpert.uncertainty=ones"]
    options = ["--adapters", "linear_probe", "--encoders", "pixels:2d", "--no-baselines", "--seeds", "0"]
    said = command(
        "run",
        "--tasks",
        "chexpert",
        *labels,
        *data,
        *options,
        "--test-on",
        "nih,rsna,mimic",
        "--results",
        str(tmp_path),
    )
    assert said.exit_code == 0, said.output
    tests = [stored_test(path).result for path in tmp_path.rglob("*.external.json")]
    by_task = {test.tested.task: test for test in tests}
    assert {name.partition("_")[0] for name in by_task} == {"nih", "rsna", "mimic"}
    assert by_task["rsna"].classes == ("Pneumonia",) and by_task["rsna"].part == "all"
    assert by_task["rsna"].data["samples"] == 16
    assert by_task["nih"].part == "test" and "Pleural Effusion" in by_task["nih"].classes
    assert all(test.phantom and test.thresholds for test in tests)
    refused = command("run", "--tasks", "rsna", *data[4:6], *options, "--test-on", "nih", "--results", str(tmp_path))
    assert refused.exit_code == 2 and "maybe of the same persons" in refused.output


def test_labels_away_are_decided_by_thresholds_from_home(chest_cohort, nih_cohort, tmp_path):
    cohorts = ["--data", f"chexpert={chest_cohort}", "--data", f"nih={nih_cohort}", "--results", str(tmp_path)]
    options = ["--adapters", "linear_probe", "--encoders", "pixels:2d", "--no-baselines", "--seeds", "0"]
    said = command("run", "--tasks", "chexpert", *cohorts, *options, "--test-on", "nih")
    assert said.exit_code == 0, said.output
    (path,) = tmp_path.rglob("*.external.json")
    result = stored_test(path).result
    cell = json.loads(next(tmp_path.rglob(f"{result.key}.json")).read_text())
    by_name = dict(zip(cell["data"]["classes"], cell["data"]["thresholds"], strict=True))
    assert result.thresholds is not None
    assert np.allclose(result.thresholds, [by_name[name] for name in result.classes], rtol=0, atol=1e-12)


@pytest.mark.slow
def test_grafts_of_adni_on_oasis(adni_cohort, tmp_path):
    """Persons of another hospital, rated and not diagnosed, by notes of the same words; the board says so."""
    from medgraft.cohort import cohort_class, write_phantom

    write_phantom("oasis", tmp_path / "oasis", cohort_class("oasis").small)
    options = ["--adapters", "linear_probe", "--encoders", "embedded:brain", "--no-baselines", "--seeds", "0"]
    data = ["--data", f"adni={adni_cohort}", "--data", f"oasis={tmp_path / 'oasis'}", "--results", str(tmp_path / "r")]
    said = command(
        "run", "--tasks", "adni_text", *options, *data, "--test-on", "oasis", "--set", "oasis.contrast=CN-AD"
    )
    assert said.exit_code == 2 or "is tested on" in said.output
    said = command("run", "--tasks", "adni_text", *options, *data, "--test-on", "oasis:text")
    assert said.exit_code == 0, said.output
    (path,) = (tmp_path / "r").rglob("*.external.json")
    result = stored_test(path).result
    assert result.part == "all" and set(result.classes) <= {"CN", "MCI", "AD"} and result.data["subjects"] > 10
    assert any("no diagnoses" in note for note in result.data["notes"])
    assert "no diagnoses" in (tmp_path / "r/leaderboard.md").read_text()
