from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medgraft.benchmarks.cohorts.chest.chexpert import (
    CHEXPERT_14,
    COMPETITION_5,
    load_image,
    read_chexpert,
)
from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER, is_phantom
from medgraft.benchmarks.phantoms.chest import cohort as chest_cohort
from medgraft.benchmarks.phantoms.chest.cohort import (
    GENERATOR_VERSION,
    exclusive_studies,
    generate,
    iter_studies,
    render_study,
    sample_study,
    severity_ceiling,
    write_cohort,
)
from medgraft.benchmarks.phantoms.chest.renderer import FINDINGS
from medgraft.benchmarks.phantoms.chest.studies import MAX_STUDIES, map_chunks
from medgraft.errors import ConfigError, DataError, UnknownNameError

REAL_COLUMNS = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
COUNTS = {"n_train": 30, "n_valid": 8, "n_test": 9, "n_5x200_per_class": 2}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("chest") / "cohort"
    write_cohort(out, **COUNTS, seed=3, size=64)
    return out


def test_the_ceiling_is_high_but_not_perfect():
    ceiling = severity_ceiling(n=6000, seed=1)
    assert set(ceiling) == set(FINDINGS)
    for name, auc in ceiling.items():
        if name != "Enlarged Cardiomediastinum":  # its width is drawn without noise
            assert 0.97 < auc < 0.995
    assert np.isnan(severity_ceiling(n=1)["Edema"])


# ---- reports


SENTENCES = [
    (r"widened mediastinum", "Enlarged Cardiomediastinum"),
    (r"(mild|moderate|severe) cardiomegaly", "Cardiomegaly"),
    (r"(right|left) lung nodule", "Lung Lesion"),
    (r"(mild|moderate|severe) pulmonary edema", "Edema"),
    (r"(right|left|bilateral) (upper|mid|lower) lung zone consolidation", "Consolidation"),
    (r"(right|left|bilateral) (basilar )?atelectasis", "Atelectasis"),
    (r"(small|moderate|large) (right|left) pneumothorax", "Pneumothorax"),
    (r"(small|moderate|large) (right|left|bilateral) pleural effusions?", "Pleural Effusion"),
    (r"lung opacity", "Lung Opacity"),
]
FIXED = {
    "the mediastinal contours are normal": ("Enlarged Cardiomediastinum", 0),
    "the heart size is normal": ("Cardiomegaly", 0),
    "no pulmonary nodule": ("Lung Lesion", 0),
    "no pulmonary edema": ("Edema", 0),
    "no focal consolidation": ("Consolidation", 0),
    "no atelectasis": ("Atelectasis", 0),
    "no pneumothorax": ("Pneumothorax", 0),
    "no pleural effusion": ("Pleural Effusion", 0),
    "no lung opacity": ("Lung Opacity", 0),
    "findings are consistent with pneumonia": ("Pneumonia", 1),
    "findings may represent pneumonia": ("Pneumonia", -1),
    "support devices are in place": ("Support Devices", 1),
    "lines and tubes as described": ("Support Devices", 1),
    "unchanged support apparatus": ("Support Devices", 1),
    "no acute cardiopulmonary abnormality": ("No Finding", 1),
    "no acute cardiopulmonary process": ("No Finding", 1),
    "normal chest radiograph": ("No Finding", 1),
}


def read_report(text: str) -> dict[str, float]:
    """A labeler of its own: what each sentence says, independent of the code that wrote it."""
    labels: dict[str, float] = {}
    for sentence in text.rstrip(".").split(". "):
        words = sentence.lower()
        if words in FIXED:
            name, label = FIXED[words]
        else:
            bare = re.sub(r"^(possible|may represent|cannot exclude) ", "", words)
            name = next(name for pattern, name in SENTENCES if re.fullmatch(pattern, bare))
            label = 1 if bare == words else -1
        assert name not in labels, f"two sentences on {name}: {text}"
        labels[name] = label
    return labels


@pytest.mark.parametrize("setting", ["default", "pretrain"])
def test_reports_say_what_the_labels_say_and_nothing_else(setting):
    seen = set()
    for index in range(500):
        for study in iter_studies(5, "train", index, setting):
            mentioned = {name: label for name, label in study.reported.items() if not np.isnan(label)}
            assert read_report(study.report) == mentioned
            seen.update(mentioned.items())
    assert {(name, label) for name in FINDINGS for label in (1, 0, -1)} <= seen


# ---- patients and studies


def test_a_patient_is_the_same_alone_and_among_others():
    alone = list(iter_studies(2, "train", 17))
    assert repr(alone) == repr(list(iter_studies(2, "train", 17)))  # by text, since NaN is not equal to itself
    batch = generate(40, 2, "default", 32, stream="train")
    rows = np.flatnonzero(batch.patients == 17)
    assert len(rows) == sum(len(study.films) for study in alone)
    assert np.array_equal(batch.images[rows[0]], render_study(alone[0], 32))
    assert batch.reports[rows[0]] == alone[0].report


def test_streams_and_seeds_are_different_patients():
    drawn = [
        sample_study(seed, stream, 0).films[0].anatomy.half_width
        for seed in (0, 1)
        for stream in ("train", "valid", "test", "pretrain")
    ]
    assert len(set(drawn)) == len(drawn)


def test_studies_per_patient():
    patients = [list(iter_studies(0, "train", index)) for index in range(800)]
    counts = [len(studies) for studies in patients]
    assert 1.65 < np.mean(counts) < 2.0
    assert max(counts) <= MAX_STUDIES
    assert 0.07 < np.mean([len(study.films) == 2 for studies in patients for study in studies]) < 0.13
    for studies in patients:
        assert len({study.films[0].anatomy for study in studies}) == 1
        assert [study.number for study in studies] == list(range(1, len(studies) + 1))
        assert len({film.seed for study in studies for film in study.films}) == sum(len(s.films) for s in studies)


def test_disease_persists_between_studies():
    pairs = []
    for index in range(1500):
        studies = list(iter_studies(1, "train", index))
        if len(studies) > 1:
            pairs.append([study.severity["Cardiomegaly"] for study in studies[:2]])
    assert 0.5 < np.corrcoef(np.array(pairs).T)[0, 1] < 0.95


def test_films_of_one_patient_resemble_each_other_so_that_a_split_by_image_leaks():
    films, who = [], []
    index = 0
    while len(who) < 80:
        studies = list(iter_studies(4, "train", index))
        index += 1
        if len(studies) > 1:
            films += [render_study(study, 32).astype(float).ravel() for study in studies[:2]]
            who += [index, index]
    x = np.stack(films)
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    recognised = (np.array(who)[similarity.argmax(1)] == who).mean()
    assert recognised > 5 / len(who), "chance is 1 in 79"


def test_pretraining_films_come_from_another_site():
    plans = {name: [sample_study(0, "pretrain", i, name) for i in range(600)] for name in ("default", "pretrain")}
    bedside = {name: np.mean([study.view == "AP" for study in studies]) for name, studies in plans.items()}
    assert bedside["default"] > 0.65
    assert bedside["pretrain"] < 0.42


def test_generate_gives_rows_that_belong_together():
    batch = generate(50, 9, size=32)
    assert batch.images.shape == (50, 32, 32)
    assert batch.images.dtype == np.uint8
    for table in (batch.truth, batch.labels, batch.severity, batch.info):
        assert len(table) == len(batch.reports) == 50
    assert tuple(batch.truth.columns) == tuple(batch.labels.columns) == CHEXPERT_14
    assert len(set(batch.patients)) < 50
    single = generate(20, 9, size=32, max_studies=1)
    assert set(single.info["study"]) == {1}


def test_unknown_names_are_refused():
    with pytest.raises(UnknownNameError, match="pretrain"):
        generate(1, 0, "pretran")
    with pytest.raises(UnknownNameError, match="truth"):
        sample_study(0, "train", 0).labels("true")
    with pytest.raises(ConfigError, match="jobs is 0"):
        generate(1, 0, size=32, jobs=0)


def double(items):
    return [2 * item for item in items]


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_bytes(tmp_path):
    one, two = generate(60, 1, size=32, jobs=1), generate(60, 1, size=32, jobs=2)
    assert np.array_equal(one.images, two.images)
    assert one.reports == two.reports
    for jobs in (1, 2):
        write_cohort(
            tmp_path / str(jobs), n_train=30, n_valid=2, n_test=0, n_5x200_per_class=0, seed=1, size=32, jobs=jobs
        )
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_chunks_keep_their_order():
    assert [value for part in map_chunks(double, range(10), 1, chunk=3) for value in part] == list(range(0, 20, 2))


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- writer


def test_layout_and_columns_are_those_of_the_real_copy(cohort):
    folder = cohort / "CheXpert-v1.0-small"
    for name in ("train", "valid", "test"):
        assert (folder / f"{name}.csv").read_text().splitlines()[0] == REAL_COLUMNS
    header = (folder / "chexpert_5x200.csv").read_text().splitlines()[0]
    assert header == f"{REAL_COLUMNS},Report Impression"
    first = pd.read_csv(folder / "train.csv", dtype=str, keep_default_na=False)
    assert set(first[list(CHEXPERT_14)].to_numpy().ravel()) == {"1.0", "0.0", "-1.0", ""}
    assert first["Path"].str.fullmatch(r"CheXpert-v1\.0-small/train/patient9\d{5}/study\d/view[12]_frontal\.jpg").all()
    assert set(first["Sex"]) == {"Male", "Female"}


def test_counts_and_disjoint_patients(cohort):
    tables = {split: read_chexpert(cohort, split) for split in ("train", "valid", "test", "5x200")}
    assert [len(table.frame) for table in tables.values()] == [30, 8, 9, 10]
    for table in tables.values():
        assert table.report.used == len(table.frame)
        assert not table.report.skipped
    patients = [set(table.frame["subject"]) for table in tables.values()]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert min(int(name.removeprefix("patient")) for name in set.union(*patients)) >= 900_001
    assert len(patients[3]) == 10
    assert len(list(cohort.rglob("*.jpg"))) == 57


def test_round_trip_of_labels_people_and_reports(cohort):
    table = read_chexpert(cohort, "train")
    batch = generate(30, 3, "default", 64, stream="train")
    assert np.array_equal(table.labels(), batch.labels.to_numpy(), equal_nan=True)
    assert table.frame["report"].tolist() == batch.reports
    assert table.frame["age"].tolist() == batch.info["age"].tolist()
    assert table.frame["ap_pa"].tolist() == batch.info["view"].tolist()
    assert (table.frame["sex"] == "Female").tolist() == (batch.info["sex"] == 1).tolist()
    for path, image in zip(table.frame["image"], batch.images, strict=True):
        assert np.abs(load_image(path).astype(float) - image).mean() < 5, "JPEG loss only"


def test_validation_and_test_hold_the_truth(cohort):
    for split in ("valid", "test"):
        table = read_chexpert(cohort, split)
        assert set(np.unique(table.labels())) <= {0.0, 1.0}
        assert table.frame["study"].str.endswith("study1").all()
    truth = generate(9, 3, "default", 32, stream="test", max_studies=1).truth
    assert np.array_equal(read_chexpert(cohort, "test").labels(), truth.to_numpy())


def test_five_class_set_is_exclusive(cohort):
    table = read_chexpert(cohort, "5x200")
    labels = table.labels(CHEXPERT_14[1:])
    assert (np.abs(labels) == 1).sum(1).tolist() == [1] * 10
    assert table.labels(COMPETITION_5).argmax(1).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert (table.frame["report"] != "").all()


def test_exclusive_studies_are_reproducible_and_mostly_true():
    studies = exclusive_studies(25, 0)
    assert [s.report for s in studies] == [s.report for s in exclusive_studies(25, 0)]
    assert len({study.patient for study in studies}) == 125
    right = [study.truth[COMPETITION_5[i // 25]] for i, study in enumerate(studies)]
    assert np.mean(right) > 0.8


def test_everything_is_marked_as_generated(cohort):
    marker = json.loads((cohort / PHANTOM_MARKER).read_text())
    assert marker["generator"] == GENERATOR_VERSION
    assert (marker["setting"], marker["seed"]) == ("default", 3)
    assert marker["statement"] == "generated; no person"
    assert is_phantom(cohort)
    table = read_chexpert(cohort / "CheXpert-v1.0-small", "train")
    assert table.phantom
    assert table.generator == GENERATOR_VERSION
    with Image.open(table.frame["image"][0]) as image:
        assert b"not a person" in image.info["comment"]


def test_report_table_has_the_columns_of_chexpert_plus(cohort):
    table = pd.read_csv(cohort / "CheXpert-v1.0-small" / "df_chexpert_plus_240401.csv")
    assert {"path_to_image", "report", "section_findings", "section_impression", "deid_patient_id", "split"} <= {
        *table.columns
    }
    assert table["split"].value_counts().to_dict() == {"train": 30, "valid": 8}
    assert all(text in whole for text, whole in zip(table["section_impression"], table["report"], strict=True))
    tested = {*read_chexpert(cohort, "test").frame["subject"], *read_chexpert(cohort, "5x200").frame["subject"]}
    assert not tested & set(table["deid_patient_id"])


def test_an_empty_folder_is_filled_and_a_full_one_is_refused(tmp_path):
    write = functools.partial(write_cohort, n_train=1, n_valid=0, n_test=0, n_5x200_per_class=0, seed=0, size=32)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert (tmp_path / "empty" / "CheXpert-v1.0-small" / "train.csv").is_file()
    with pytest.raises(DataError, match="not an empty folder"):
        write(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="not an empty folder"):
        write(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch, failure):
    def fail(rows):
        raise failure

    monkeypatch.setattr(chest_cohort, "_plus_table", fail)
    with pytest.raises(type(failure)):
        write_cohort(tmp_path / "new", n_train=2, n_valid=0, n_test=0, n_5x200_per_class=0, seed=0, size=32)
    assert list(tmp_path.iterdir()) == []


def test_a_faster_rival_is_not_overwritten(tmp_path, monkeypatch):
    out = tmp_path / "new"

    def rival(rows):
        out.mkdir()
        (out / "train.csv").write_text("theirs")
        return pd.DataFrame()

    monkeypatch.setattr(chest_cohort, "_plus_table", rival)
    with pytest.raises(DataError, match="not an empty folder"):
        write_cohort(out, n_train=1, n_valid=0, n_test=0, n_5x200_per_class=0, seed=0, size=32)
    assert (out / "train.csv").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize(
    "bad",
    [{"n_train": -1}, {"seed": -1}, {"size": 8}, {"n_train": 0, "n_valid": 0, "n_test": 0, "n_5x200_per_class": 0}],
)
def test_numbers_out_of_range_are_refused(tmp_path, bad):
    with pytest.raises(ConfigError):
        write_cohort(tmp_path / "new", **({**COUNTS, "seed": 0, "size": 32} | bad))
    assert not (tmp_path / "new").exists()


def test_more_patients_than_numbers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(chest_cohort, "_FIRST_PATIENT", {"train": 900_001, "valid": 900_004, "end": 900_010})
    with pytest.raises(ConfigError, match="room for 3"):
        write_cohort(tmp_path / "new", n_train=30, n_valid=0, n_test=0, n_5x200_per_class=0, seed=0, size=32)


def test_the_log_names_no_patient(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG):
        write_cohort(tmp_path / "new", n_train=1, n_valid=0, n_test=0, n_5x200_per_class=0, seed=0, size=32)
    assert "wrote 1 phantom radiographs" in caplog.text
    assert "patient9" not in caplog.text
