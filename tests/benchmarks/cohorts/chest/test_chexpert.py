from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from medgraft.benchmarks.cohorts.chest.chexpert import (
    BEST_POLICY,
    CHEXPERT_14,
    COMPETITION_5,
    POLICIES,
    apply_uncertainty,
    exclude_subjects,
    exclusive_class,
    load_image,
    read_chexpert,
    select_5x200,
)
from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER
from medgraft.errors import ConfigError, DataError, UnknownNameError

PEOPLE = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
COLUMNS = (*PEOPLE, *CHEXPERT_14)


def image_at(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 6), 77).save(path)
    return path


def tail(patient: int, study: int = 1, view: str = "view1_frontal.jpg", section: str = "train") -> str:
    return f"{section}/patient{patient:05d}/study{study}/{view}"


def row(path: str, labels=None, **people) -> dict[str, object]:
    filled = dict.fromkeys(CHEXPERT_14, "") | (labels or {})
    known = {"Sex": "Female", "Age": 64, "Frontal/Lateral": "Frontal", "AP/PA": "AP"} | people
    return {"Path": path, **known, **filled}


def write_table(path: Path, rows: Sequence[Mapping[str, object]], columns=COLUMNS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def copy(folder: Path, rows: list[dict[str, object]], columns=COLUMNS, name="train.csv") -> Path:
    """A copy named ``folder`` with that table and an image for each row."""
    for entry in rows:
        found = str(entry["Path"]).replace("\\", "/")
        image_at(folder / found[found.index(next(s for s in ("train/", "valid/", "test/") if s in found)) :])
    write_table(folder / name, rows, columns)
    return folder


@pytest.fixture
def small(tmp_path) -> Path:
    return copy(
        tmp_path / "CheXpert-v1.0-small",
        [
            row("CheXpert-v1.0-small/" + tail(1), {"Edema": "1.0", "Pneumonia": "-1.0"}),
            row(
                "CheXpert-v1.0-small/" + tail(1, view="view2_lateral.jpg"),
                **{"Frontal/Lateral": "Lateral", "AP/PA": ""},
            ),
            row("CheXpert-v1.0-small/" + tail(2, 3), {"Fracture": "0.0"}, Sex="Male", Age=0, **{"AP/PA": "PA"}),
        ],
    )


# ---- reading


def test_a_plain_copy(small):
    table = read_chexpert(small, "train")
    frame = table.frame
    assert list(frame.columns) == [
        *("subject", "study", "view", "image", "sex", "age", "ap_pa", "report"),
        *CHEXPERT_14,
    ]
    assert frame["subject"].tolist() == ["patient00001", "patient00002"]
    assert frame["study"].tolist() == ["patient00001/study1", "patient00002/study3"]
    assert frame["sex"].tolist() == ["Female", "Male"]
    assert frame["age"].tolist() == [64.0, 0.0]
    assert frame["ap_pa"].tolist() == ["AP", "PA"]
    assert frame["report"].tolist() == ["", ""]
    assert frame["Edema"].tolist()[0] == 1
    assert frame["Pneumonia"].tolist()[0] == -1
    assert frame["Fracture"].tolist()[1] == 0
    assert math.isnan(frame["Cardiomegaly"][0])
    assert table.labels(["Edema", "Fracture"]).shape == (2, 2)
    assert all(Path(path).is_absolute() and load_image(path).shape == (6, 8) for path in frame["image"])
    assert table.report.used == 2
    assert table.report.skipped == {"lateral view": 1}
    assert (table.phantom, table.generator) == (False, None)


def test_views_can_be_chosen(small):
    assert read_chexpert(small, "train", views=("Frontal", "Lateral")).frame["view"].tolist() == [
        "Frontal",
        "Lateral",
        "Frontal",
    ]
    only = read_chexpert(small, "train", views=("Lateral",))
    assert only.frame["ap_pa"].tolist() == [""]
    assert only.report.skipped == {"frontal view": 2}


@pytest.mark.parametrize("place", [".", "..", "CheXpert-v1.0-small"])
def test_the_root_may_be_the_copy_or_the_folder_above(small, place, monkeypatch):
    monkeypatch.chdir(small if place != "CheXpert-v1.0-small" else small.parent)
    assert len(read_chexpert(Path(place), "train").frame) == 2


def test_the_path_column_may_name_another_folder(tmp_path):
    folder = copy(tmp_path / "CheXpert", [row("CheXpert-v1.0/" + tail(1)), row("/data/old/CheXpert/" + tail(2))])
    assert len(read_chexpert(folder, "train").frame) == 2


@pytest.mark.parametrize("inner", ["", "train/"])
def test_the_portal_download_in_batches(tmp_path, inner):
    root = tmp_path / "chexpertchestxrays-u20210408"
    first, second = (root / f"CheXpert-v1.0 batch {i} (train {i - 1})" for i in (2, 3))
    image_at(first / inner / tail(1).removeprefix("train/"))
    image_at(second / inner / tail(2).removeprefix("train/"))
    tables = root / "CheXpert-v1.0 batch 1 (validate & csv)"
    image_at(tables / tail(3, section="valid"))
    write_table(tables / "train.csv", [row("CheXpert-v1.0/" + tail(i)) for i in (1, 2)])
    write_table(tables / "valid.csv", [row("CheXpert-v1.0/" + tail(3, section="valid"))])
    for place in (root, tmp_path, tables):
        table = read_chexpert(place, "train")
        assert table.frame["subject"].tolist() == ["patient00001", "patient00002"]
        assert len(read_chexpert(place, "valid").frame) == 1


def test_images_beside_the_table_win_over_those_of_another_copy(tmp_path):
    for name in ("CheXpert-v1.0", "CheXpert-v1.0-small"):
        copy(tmp_path / name, [row(f"{name}/{tail(1)}")])
    assert "CheXpert-v1.0-small/" in read_chexpert(tmp_path / "CheXpert-v1.0-small", "train").frame["image"][0]


def test_columns_may_be_in_any_order_and_padded(small):
    reordered = [*reversed(CHEXPERT_14), *PEOPLE]
    table = pd.read_csv(small / "train.csv")[reordered]
    table.columns = [f" {name} " for name in table.columns]
    table.to_csv(small / "train.csv", index=False)
    frame = read_chexpert(small, "train").frame
    assert frame["Edema"][0] == 1
    assert frame["Pneumonia"][0] == -1


@pytest.mark.parametrize("name", ["valid.csv", "val_labels.csv"])
@pytest.mark.parametrize("folder", ["valid", "val"])
def test_validation_tables_without_people(tmp_path, name, folder):
    image_at(tmp_path / folder / "patient64541" / "study1" / "view1_frontal.jpg")
    path = "CheXpert-v1.0/valid/patient64541/study1/view1_frontal.jpg"
    write_table(tmp_path / name, [row(path, {"Edema": "1"})], ("Path", *CHEXPERT_14))
    table = read_chexpert(tmp_path, "valid")
    assert table.frame.loc[0, ["sex", "ap_pa", "view"]].tolist() == ["", "", "Frontal"]
    assert math.isnan(table.frame["age"][0])
    assert not table.report.notes, "what the table does not have is not a repair"


def test_test_labels(tmp_path):
    image_at(tmp_path / tail(64741, section="test"))
    write_table(tmp_path / "test_labels.csv", [row(tail(64741, section="test"))], ("Path", *CHEXPERT_14))
    assert read_chexpert(tmp_path, "test").frame["subject"].tolist() == ["patient64741"]


def test_windows_paths(tmp_path):
    folder = copy(tmp_path / "CheXpert-v1.0-small", [row("CheXpert-v1.0-small\\" + tail(5).replace("/", "\\"))])
    assert read_chexpert(folder, "train").frame["subject"].tolist() == ["patient00005"]


def test_converted_images_are_found_by_another_suffix(tmp_path):
    folder = copy(tmp_path / "CheXpert", [row("CheXpert-v1.0/" + tail(1, view="view1_frontal.png"))])
    write_table(folder / "train.csv", [row("CheXpert-v1.0/" + tail(1))])
    assert read_chexpert(folder, "train").frame["image"][0].endswith(".png")


def test_labels_as_text_and_numbers_are_the_same(tmp_path):
    spellings = ["1", " 1.0 ", "1.000", "-1", "-1.0", "0", "0.0", "", "nan", "None"]
    rows = [
        row("x/" + tail(i), {"Edema": word, "Fracture": "yes" if i == 99 else ""}) for i, word in enumerate(spellings)
    ]
    rows.append(row("x/" + tail(20), {"Edema": "x"}))
    table = read_chexpert(copy(tmp_path, rows), "train")
    expected = [1, 1, 1, -1, -1, 0, 0, math.nan, math.nan, math.nan]
    assert np.array_equal(table.frame["Edema"].to_numpy(), expected, equal_nan=True)
    assert table.report.skipped == {"label other than 1, 0, -1 or blank": 1}


@pytest.mark.parametrize("odd", ["2", "0.5", "-2", "inf", "maybe", "True"])
def test_a_row_with_another_label_is_left_out_and_counted(small, odd):
    with (small / "train.csv").open("a") as stream:
        stream.write(f"CheXpert-v1.0-small/{tail(3)},Male,50,Frontal,AP{',' * 8}{odd}{',' * 6}\n")
    image_at(small / tail(3))
    table = read_chexpert(small, "train")
    assert table.report.used == 2
    assert table.report.skipped["label other than 1, 0, -1 or blank"] == 1


def test_missing_images_are_counted(small):
    (small / tail(2, 3)).unlink()
    table = read_chexpert(small, "train")
    assert table.frame["subject"].tolist() == ["patient00001"]
    assert table.report.skipped["image missing"] == 1


def test_no_image_at_all_names_the_root_and_an_example(small):
    for path in small.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError) as error:
        read_chexpert(small, "train")
    assert str(small) in str(error.value)
    assert "train/patient.../study1" in str(error.value) and "patient0" not in str(error.value)


def test_duplicate_rows_keep_the_first(small):
    with (small / "train.csv").open("a") as stream:
        stream.write(f"CheXpert-v1.0/{tail(1)},Male,99,Frontal,PA{',' * 14}\n")
    table = read_chexpert(small, "train")
    assert table.report.skipped["duplicate row"] == 1
    assert table.frame["age"][0] == 64


def test_odd_people_become_unknown(tmp_path):
    people = [
        {"Sex": "Unknown", "Age": 40},
        {"Sex": "m", "Age": "064Y"},
        {"Sex": " F", "Age": -3},
        {"Sex": "", "Age": 400},
    ]
    table = read_chexpert(copy(tmp_path, [row("x/" + tail(i), **who) for i, who in enumerate(people)]), "train")
    assert table.frame["sex"].tolist() == ["", "Male", "Female", ""]
    assert np.array_equal(table.frame["age"].to_numpy(), [40, 64, math.nan, math.nan], equal_nan=True)
    assert table.report.notes == {"sex unknown": 2, "age unknown": 2}


def test_strange_paths_and_views_are_counted(small):
    with (small / "train.csv").open("a") as stream:
        for path in ("", "train/p1/study1/view1_frontal.jpg", "train/patient00001/study1/../../../etc/passwd"):
            stream.write(f"{path},Male,50,Frontal,AP{',' * 14}\n")
        stream.write(f"CheXpert-v1.0-small/{tail(4, view='view1.jpg')},Male,50,,AP{',' * 14}\n")
    table = read_chexpert(small, "train")
    assert table.report.skipped == {"lateral view": 1, "path without patient and study": 3, "view unknown": 1}


def test_a_table_without_a_column_is_refused(small):
    pd.read_csv(small / "train.csv").drop(columns="Edema").to_csv(small / "train.csv", index=False)
    with pytest.raises(DataError, match="no column Edema"):
        read_chexpert(small, "train")


@pytest.mark.parametrize("content", ["", "Path\n", "\x00\xff"])
def test_unusable_tables_are_refused(small, content):
    (small / "train.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError):
        read_chexpert(small, "train")


def test_a_table_without_rows_is_refused(small):
    write_table(small / "train.csv", [])
    with pytest.raises(DataError, match="no usable row"):
        read_chexpert(small, "train")


def test_what_is_not_there_is_named(small, tmp_path):
    with pytest.raises(DataError, match=r"test\.csv or test_labels\.csv"):
        read_chexpert(small, "test")
    with pytest.raises(DataError, match="not a folder"):
        read_chexpert(tmp_path / "nowhere", "train")
    with pytest.raises(UnknownNameError, match="train"):
        read_chexpert(small, "trian")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Frontal"):
        read_chexpert(small, "train", views=("frontal",))


def test_reports_of_the_five_class_set(tmp_path):
    rows = [row("CheXpert-v1.0/" + tail(1), {"Edema": "1"}) | {"Report Impression": "Mild edema."}]
    folder = copy(tmp_path / "CheXpert-v1.0", rows, (*COLUMNS, "Report Impression"), "chexpert_5x200.csv")
    assert read_chexpert(folder, "5x200").frame["report"].tolist() == ["Mild edema."]


def test_reports_of_chexpert_plus(small):
    plus = [
        {"path_to_image": tail(2, 3, view="view1_frontal.png"), "section_findings": "Clear lungs.", "report": "whole"},
        {"path_to_image": tail(1), "section_impression": "Edema.", "section_findings": "Hazy."},
        {"path_to_image": tail(1), "section_impression": "a second row"},
        {"path_to_image": "elsewhere"},
    ]
    columns = ("path_to_image", "report", "section_findings", "section_impression")
    write_table(small / "df_chexpert_plus_240401.csv", plus, columns)
    assert read_chexpert(small, "train").frame["report"].tolist() == ["Edema.", "Clear lungs."]
    assert read_chexpert(small, "train", reports=False).frame["report"].tolist() == ["", ""]
    write_table(small / "df_chexpert_plus_240401.csv", plus[:1], columns)
    table = read_chexpert(small, "train")
    assert table.frame["report"].tolist() == ["", "Clear lungs."]
    assert table.report.notes["without report"] == 1


def test_a_damaged_marker_still_marks_a_phantom(small):
    (small.parent / PHANTOM_MARKER).write_text("not json")
    table = read_chexpert(small, "train")
    assert (table.phantom, table.generator) == (True, "unknown")


# ---- images


def test_images_of_other_modes(tmp_path):
    Image.new("RGB", (5, 4), (255, 255, 255)).save(tmp_path / "colour.png")
    assert load_image(tmp_path / "colour.png").tolist() == [[255] * 5] * 4
    Image.fromarray(np.full((4, 5), 40_000, np.uint16)).save(tmp_path / "deep.png")
    deep = load_image(tmp_path / "deep.png")
    assert deep.dtype == np.uint8
    assert set(deep.ravel().tolist()) == {40_000 >> 8}


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "folder"])
def test_unreadable_images_are_named(tmp_path, damage):
    path = tmp_path / "view1_frontal.jpg"
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
        Image.fromarray(noise).save(path, "JPEG")
        content = path.read_bytes()
        path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "text": b"hello" * 99}[damage])
    with pytest.raises(DataError, match=r"view1_frontal\.jpg"):
        load_image(path)


# ---- uncertainty


CELLS = st.sampled_from([1.0, 0.0, -1.0, math.nan])
LABELS = hnp.arrays(float, st.tuples(st.integers(0, 6), st.just(5)), elements=CELLS)


@given(labels=LABELS, policy=st.sampled_from(POLICIES), blank=st.sampled_from(["zero", "ignore"]))
def test_policies_touch_only_uncertain_and_blank_cells(labels, policy, blank):
    before = labels.copy()
    targets, mask = apply_uncertainty(labels, policy, blank=blank)
    assert np.array_equal(labels, before, equal_nan=True)
    assert targets.shape == mask.shape == labels.shape
    assert mask.dtype == bool
    sure = (labels == 0) | (labels == 1)
    assert np.array_equal(targets[sure], labels[sure])
    assert mask[sure].all()
    assert (targets[np.isnan(labels)] == 0).all()
    assert (mask[np.isnan(labels)] == (blank == "zero")).all()
    unsure = labels == -1
    assert (mask[unsure] == (policy != "ignore")).all()
    best = np.broadcast_to([BEST_POLICY[name] for name in COMPETITION_5], labels.shape)
    expected = {"ones": 1, "zeros": 0, "ignore": 0, "multiclass": 2, "best": best[unsure]}[policy]
    assert (targets[unsure] == expected).all()
    assert targets.dtype == (np.int64 if policy == "multiclass" else np.float32)


def test_best_follows_the_names():
    labels = np.full((1, 2), -1.0)
    assert apply_uncertainty(labels, "best", names=("Edema", "Cardiomegaly"))[0].tolist() == [[1.0, 0.0]]
    with pytest.raises(ConfigError, match="2 labels"):
        apply_uncertainty(labels, "best")
    with pytest.raises(UnknownNameError, match="Fracture"):
        apply_uncertainty(labels, "best", names=("Edema", "Fracture"))


@pytest.mark.parametrize("labels", [np.zeros(3), np.full((2, 2), 2.0), np.full((1, 1), np.inf)])
def test_other_values_and_shapes_are_refused(labels):
    with pytest.raises(ConfigError, match="must be"):
        apply_uncertainty(labels, "ones")


def test_unknown_policies_are_refused():
    with pytest.raises(UnknownNameError, match="zeros"):
        apply_uncertainty(np.zeros((1, 1)), "zeroes")
    with pytest.raises(UnknownNameError, match="ignore"):
        apply_uncertainty(np.zeros((1, 1)), "ones", blank="nan")  # type: ignore[arg-type]


# ---- five-class sets


def exclusive_copy(folder: Path, per_class: int) -> Path:
    rows, patient = [], 0
    for name in COMPETITION_5:
        for _ in range(per_class):
            patient += 1
            rows.append(row("CheXpert-v1.0/" + tail(patient), {name: "1.0", "Fracture": "0.0"}))
            rows.append(row("CheXpert-v1.0/" + tail(patient, 2), {name: "1.0", "Support Devices": "1.0"}))
            rows.append(row("CheXpert-v1.0/" + tail(patient, 3), {name: "1.0", "Lung Lesion": "-1.0"}))
    return copy(folder, rows)


def test_exclusive_class_is_the_published_rule():
    table = pd.DataFrame(np.nan, index=range(6), columns=list(CHEXPERT_14))
    table.loc[0, "Edema"] = 1
    table.loc[1, ["Edema", "Cardiomegaly"]] = [1, 0]
    table.loc[2, ["Edema", "Cardiomegaly"]] = [1, -1]
    table.loc[3, ["Pleural Effusion", "No Finding"]] = 1
    table.loc[4, "Atelectasis"] = -1
    table.loc[5, "Pneumothorax"] = 1
    assert exclusive_class(table).tolist() == [3, 3, -1, 4, -1, -1]


def test_a_five_class_set_of_ones_own(tmp_path):
    table = read_chexpert(exclusive_copy(tmp_path / "CheXpert-v1.0", 4), "train")
    chosen = select_5x200(table, per_class=3, seed=1)
    assert exclusive_class(chosen.frame).tolist() == [i for i in range(5) for _ in range(3)]
    assert chosen.frame.equals(select_5x200(table, per_class=3, seed=1).frame)
    assert not chosen.frame.equals(select_5x200(table, per_class=3, seed=2).frame)
    train = exclude_subjects(table, chosen.frame["subject"])
    assert not set(train.frame["subject"]) & set(chosen.frame["subject"])
    assert train.report.skipped["subject held out"] == 45
    assert train.report.used == len(train.frame) == 15
    assert table.report.used == 60, "the table that was given is left alone"
    with pytest.raises(DataError, match="5 images per class"):
        select_5x200(table, per_class=5)


def test_lateral_views_are_not_drawn_into_a_five_class_set(tmp_path):
    folder = exclusive_copy(tmp_path / "CheXpert-v1.0", 1)
    table = read_chexpert(folder, "train", views=("Frontal", "Lateral"))
    table.frame.loc[0, "view"] = "Lateral"
    with pytest.raises(DataError, match="'Atelectasis': 0"):
        select_5x200(table, per_class=1)


# ---- rows that differ, ages with units


def test_rows_of_an_image_with_different_labels_are_left_out_and_equal_ones_counted(tmp_path):
    rows = [
        row(f"CheXpert-v1.0-small/{tail(k)}", {"Edema": value}) for k, value in ((1, "1.0"), (1, "0.0"), (2, "1.0"))
    ]
    folder = copy(tmp_path / "CheXpert-v1.0-small", [*rows, rows[2]])
    table = read_chexpert(folder, "train")
    assert table.frame["subject"].tolist() == ["patient00002"]
    assert table.report.skipped == {"two rows for the image with different labels": 2, "duplicate row": 1}


@pytest.mark.parametrize(("age", "years"), [("64Y", 64), ("064Y", 64), ("64 years", 64), ("6M", 0.5), ("64.0", 64)])
def test_ages_with_a_unit_are_years(tmp_path, age, years):
    folder = copy(tmp_path / "CheXpert-v1.0-small", [row("CheXpert-v1.0-small/" + tail(1), {}, Age=age)])
    assert read_chexpert(folder, "train").frame["age"].tolist() == [years]
