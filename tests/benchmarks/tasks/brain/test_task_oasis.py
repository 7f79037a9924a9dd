"""The OASIS task in ADNI's classes, inputs and words, on small phantoms of each layout."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.oasis.labels import CDR_NOTE, UNDER_AGE
from medgraft.benchmarks.cohorts.oasis.reader import read_oasis
from medgraft.benchmarks.cohorts.places import cohort_at, was_trained_on
from medgraft.benchmarks.cohorts.tables.clinical_text import compose_text
from medgraft.benchmarks.phantoms.brain.oasis import write_oasis
from medgraft.benchmarks.tasks import build_task
from medgraft.errors import ConfigError, DataError
from medgraft.task import TaskData

LAYOUTS = (("oasis1", "archive"), ("oasis2", "archive"), ("oasis3", "archive"), ("oasis1", "bids"), ("oasis3", "bids"))
NAMES = ("oasis", "oasis:text", "oasis:image_text")


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """36 subjects of each layout, two sessions at most, voxels of 8 mm."""
    home, template = tmp_path_factory.mktemp("oasis"), tmp_path_factory.getbasetemp() / "brain-template"
    for study, layout in LAYOUTS:
        write_oasis(home / f"{study}-{layout}", study=study, n_subjects=36, seed=3, spacing=8.0, layout=layout,
                    max_visits=2, cache_dir=template)  # fmt: skip
    return {key: home / "-".join(key) for key in LAYOUTS}


@pytest.fixture(scope="module")
def archives(cohorts) -> list[Path]:
    return [cohorts[key] for key in LAYOUTS[:3]]


@pytest.mark.parametrize("key", LAYOUTS)
def test_one_task_reads_whichever_folder_it_is_given(cohorts, key):
    data = build_task("oasis:image_text").load(cohorts[key]).check()
    assert data.classes == ("CN", "MCI", "AD") and tuple(data.inputs) == ("volume", "text")
    assert data.provenance["study"] == key[0] and data.provenance["layout"] == key[1] and data.phantom
    volume = data.inputs["volume"].read(0)
    assert volume.ndim == 3 and volume.spacing == pytest.approx((8, 8, 8)) and volume.max() > 0
    assert {0, 1, 2} == set(data.targets[data.splits["train"]]) == set(data.targets[data.splits["test"]])


def test_classes_inputs_and_words_are_those_of_adni(adni_cohort, archives):
    """What a graft trained on ADNI reads: the same classes in the same order, modalities and sentences."""
    for ours, theirs in zip(NAMES, ("adni_image", "adni_text", "adni_image_text"), strict=True):
        a, b = build_task(ours), build_task(theirs)
        assert a.inputs == b.inputs and a.objective == b.objective and a.primary == b.primary
    for variant in ("ad_cn", "mci_cn", "ad_mci"):
        a, b = build_task(f"oasis:{variant}"), build_task(f"adni_image:{variant}")
        assert a.config.recorded()["contrast"] == b.config.recorded()["contrast"]
    known = sentences(build_task("adni_text").load(adni_cohort))
    for root in archives:
        data = build_task("oasis:text").load(root)
        assert data.classes == ("CN", "MCI", "AD") and len(sentences(data)) > 4
        assert sentences(data) <= known


def sentences(data: TaskData) -> set[str]:
    """What the notes say behind their first sentence, numbers made equal."""
    notes = data.inputs["text"]
    parts = (part for i in range(notes.count) for part in notes.read(i).split(". ")[1:])
    return {re.sub(r"\d+", "9", part).rstrip(".") for part in parts}


def test_a_note_depends_on_the_fields_that_adni_has_alone(archives):
    for row in read_oasis(archives[2]).frame.to_dict("records")[:10]:
        facts = {name: row[name] for name in ("age", "sex", "education", "apoe4", "MMSE")}
        assert compose_text(row) == compose_text(facts) != compose_text(facts | {"MMSE": 3.0})
        assert compose_text(row | {"cdr": 3.0, "dx": "AD", "eTIV": 1.0}, "full") == compose_text(row, "full")


@pytest.mark.parametrize("policy", ["demographic", "cognitive", "full"])
def test_no_note_states_the_rating_or_the_group(archives, policy):
    for root in archives:
        texts = build_task("oasis:text", {"text_policy": policy}).load(root).inputs["text"]
        for i in range(texts.count):
            assert not re.search(r"dement|convert|normal control|\bMCI\b|\bAD\b|rating", texts.read(i), re.IGNORECASE)


def test_visits_of_a_subject_are_on_one_side_and_the_first_is_tested(archives):
    for root in archives[1:]:
        data = build_task("oasis").load(root).check()
        frame = read_oasis(root).frame
        months: Any = frame.groupby("subject")["month"].idxmin()
        first = set(months)
        for name in ("val", "test"):
            assert set(data.splits[name]) <= first
        train = set(data.subjects[data.splits["train"]])
        every = [i for i, subject in enumerate(data.subjects) if subject in train]
        assert data.splits["train"].tolist() == every and len(every) > len(train)
        early = build_task("oasis", {"train_visits": "baseline"}).load(root)
        assert set(early.splits["train"]) <= first


def test_repeated_scans_of_oasis1_are_never_tested_beside_their_subject(archives):
    data = build_task("oasis").load(archives[0]).check()
    frame = read_oasis(archives[0]).frame
    again = set(np.flatnonzero(frame["session"] == "MR2"))
    assert again and not again & (set(data.splits["test"]) | set(data.splits["val"]))


def test_every_result_says_that_the_label_is_a_rating(cohorts):
    for key in LAYOUTS:
        for name in NAMES:
            notes = build_task(name).load(cohorts[key]).provenance["notes"]
            assert notes == [f"OASIS-{key[0][-1]}: {CDR_NOTE}"]


def test_other_labels_and_choices_say_so(archives):
    group = build_task("oasis", {"labels": "group", "contrast": "CN-AD"}).load(archives[1])
    assert "Group of OASIS-2" in group.provenance["notes"][0] and group.provenance["dx_source"].keys() == {"Group"}
    assert group.provenance["reader"]["skipped"]["Group is Converted"] > 0
    dx1 = build_task("oasis", {"labels": "dx1", "contrast": "CN-AD"}).load(archives[2])
    assert "dx1" in dx1.provenance["notes"][0]
    young = build_task("oasis", {"unassessed": "cn"}).load(archives[0])
    plain = build_task("oasis").load(archives[0])
    assert len(young.targets) > len(plain.targets) and "by choice" in young.provenance["notes"][1]
    assert plain.provenance["reader"]["skipped"] == {UNDER_AGE: len(young.targets) - len(plain.targets)}
    boxes = build_task("oasis:text", {"text_policy": "full"}).load(archives[2])
    assert any("sum of boxes" in note for note in boxes.provenance["notes"])


@pytest.mark.parametrize("labels", ["group", "dx1"])
def test_labels_of_two_classes_need_the_pair(labels):
    with pytest.raises(ConfigError, match=f"labels: {labels} tells CN from AD alone; set contrast: CN-AD"):
        build_task("oasis", {"labels": labels})


def test_labels_of_another_study_are_refused(archives):
    with pytest.raises(DataError, match="labels: group is a column of OASIS-2"):
        build_task("oasis", {"labels": "group", "contrast": "CN-AD"}).load(archives[0])


def test_groups_are_told_by_what_each_study_knows(archives):
    known = []
    for root in archives:
        attributes = build_task("oasis").load(root).attributes
        known.append({name for name, values in attributes.items() if pd.notna(values).any()})
    assert known[0] == {"sex", "age", "education_level", "field_strength", "scanner"}
    assert known[1] == known[2] == {"sex", "age", "education", "field_strength", "scanner"}


def test_no_identifier_is_stored(archives):
    for root in archives:
        text = json.dumps(build_task("oasis:image_text").load(root).provenance, default=str)
        assert not re.search(r"OAS[123]_?\d{4}", text) and str(root) not in text


def test_an_unreadable_volume_is_a_fault_of_that_file(archives, tmp_path):
    root = Path(shutil.copytree(archives[0], tmp_path / "copy"))
    images = [Path(image) for image in read_oasis(root).frame["image"]]
    cut = images[2].with_suffix(".img")
    cut.write_bytes(cut.read_bytes()[:1000])
    volumes = build_task("oasis").load(root).inputs["volume"]
    assert volumes.read(1).max() > 0
    with pytest.raises(DataError, match=r"cannot be read as an image: it is cut"):
        volumes.read(2)
    before = build_task("oasis").load(archives[0]).inputs["volume"].fingerprint
    assert before != volumes.fingerprint, "the voxels of a pair are part of what the cache knows"


def test_a_copy_without_its_marker_is_known_and_dated_by_its_tables(cohorts, tmp_path):
    root = Path(shutil.copytree(cohorts["oasis3", "archive"], tmp_path / "copy"))
    for path in root.glob("PHANTOM*"):
        path.unlink()
    cohort = cohort_at("oasis", root)
    assert cohort.id.phantom
    table = next(root.rglob("OASIS3_UDSb4_cdr.csv"))
    table.write_text(table.read_text().replace("Cognitively normal", "cognitively normal", 1))
    assert cohort_at("oasis", root).id.revision != cohort.id.revision
    shutil.rmtree(root / "OASIS3_data_files")
    with pytest.raises(DataError, match="has no table of OASIS, in it or above it"):
        cohort_at("oasis", root)


def test_encoders_that_saw_oasis_are_known():
    assert was_trained_on(["OASIS-3", "ADNI"], "oasis") and not was_trained_on(["ADNI"], "oasis")
