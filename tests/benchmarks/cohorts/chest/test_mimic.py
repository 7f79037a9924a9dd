"""MIMIC-CXR: sections of reports, pairs by study, and the table that training code reads."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.chest.chexpert_labels import CHEXPERT_14
from medgraft.benchmarks.cohorts.chest.mimic import PAIR_COLUMNS, has_mimic, read_mimic, write_pairs
from medgraft.benchmarks.cohorts.chest.mimic_reports import caption, report_sections
from medgraft.errors import DataError, UnknownNameError

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 COMPARISON:  ___.

 FINDINGS:

 The lungs are clear.  Ratio 2:1 as
 on ___.

 IMPRESSION:

 No acute process.
"""


@pytest.fixture
def copy(mimic_cohort: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mimic_cohort, tmp_path / "copy"))


def rewrite(copy: Path, kind: str, change) -> None:
    path = copy / f"mimic-cxr-2.0.0-{kind}.csv.gz"
    change(pd.read_csv(path)).to_csv(path, index=False)


def test_sections_are_one_line_without_marks():
    sections = report_sections(REPORT)
    assert sections["findings"] == "The lungs are clear. Ratio 2:1 as on ."
    assert sections["impression"] == "No acute process." and sections["comparison"] == "."


@pytest.mark.parametrize(
    ("wanted", "text"),
    [("impression", "I."), ("findings", "F."), ("findings+impression", "F. I.")],
)
def test_the_caption_is_the_section_asked_for(wanted, text):
    assert caption({"findings": "F.", "impression": "I."}, wanted) == text


def test_a_report_with_one_section_gives_that_one():
    assert caption(report_sections("CONCLUSION: All well."), "findings") == "All well."
    assert caption(report_sections("FINDINGS AND IMPRESSION: Both."), "findings+impression") == "Both."
    assert caption(report_sections("no heading at all"), "findings+impression") == ""


def test_every_image_has_its_studys_report_and_labels(mimic_cohort):
    read = read_mimic(mimic_cohort)
    labels = pd.read_csv(mimic_cohort / "mimic-cxr-2.0.0-chexpert.csv.gz").set_index("study_id")
    assert read.phantom and len(read.frame) == 16 and set(read.frame["split"]) == {"train", "validate", "test"}
    for _, row in read.frame.iterrows():
        number = int(row["study"][1:])
        written = next(mimic_cohort.rglob(f"{row['study']}.txt")).read_text()
        assert all(part in " ".join(written.split()) for part in re.split(r"(?<=\.) ", row["report"]))
        assert np.array_equal(row[list(CHEXPERT_14)].to_numpy(float), labels.loc[number].to_numpy()[1:], equal_nan=True)


def test_labels_are_joined_by_study_whatever_their_order(copy):
    before = read_mimic(copy).frame
    rewrite(copy, "chexpert", lambda table: table.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(read_mimic(copy).frame, before)


def test_a_study_without_labels_stays_and_is_noted(copy):
    first = pd.read_csv(copy / "mimic-cxr-2.0.0-chexpert.csv.gz")["study_id"][0]
    rewrite(copy, "chexpert", lambda table: table[table["study_id"] != first])
    read = read_mimic(copy)
    assert len(read.frame) == 16 and read.report.notes["study without labels"] >= 1


def test_lateral_views_and_unknown_ones_are_counted(copy):
    views = ["LATERAL", np.nan, "LL"]
    rewrite(copy, "metadata", lambda t: t.assign(ViewPosition=[*views, *t["ViewPosition"][3:]]))
    assert read_mimic(copy).report.skipped == {"other view": 2, "view unknown": 1}


def test_missing_files_reports_and_odd_labels_are_counted(copy):
    next(copy.rglob("*.jpg")).unlink()
    read = read_mimic(copy)
    assert read.report.skipped == {"image missing": 1}
    study = read.frame["study"].iloc[-1]
    next(copy.rglob(f"{study}.txt")).write_text("nothing to see")
    assert read_mimic(copy).report.skipped["report missing or without the section"] >= 1
    rewrite(copy, "chexpert", lambda t: t.assign(Edema=[7.0, *t["Edema"][1:]]))
    assert read_mimic(copy).report.skipped["label other than 1, 0, -1 or blank"] >= 1


def test_reports_may_lie_beside_the_images_or_in_the_sectioned_table(copy):
    before = read_mimic(copy).frame["report"].tolist()
    home = copy / "mimic-cxr-reports"
    for path in list((copy / "files").rglob("*.txt")):
        target = home / path.relative_to(copy)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    assert read_mimic(copy).frame["report"].tolist() == before
    shutil.rmtree(home)
    with pytest.raises(DataError, match=r"has no report; unpack mimic-cxr-reports\.zip"):
        read_mimic(copy)
    studies = pd.read_csv(copy / "mimic-cxr-2.0.0-chexpert.csv.gz")["study_id"]
    table = pd.DataFrame({"study": [f"s{n}" for n in studies], "impression": "Fine.", "findings": ""})
    table.to_csv(copy / "mimic_cxr_sectioned.csv", index=False)
    assert set(read_mimic(copy).frame["report"]) == {"Fine."}


def test_the_table_of_pairs_names_files_below_the_copy(copy, tmp_path):
    read = read_mimic(copy, section="impression")
    pairs = pd.read_csv(write_pairs(read, tmp_path / "pairs.csv"))
    assert tuple(pairs.columns) == PAIR_COLUMNS and pairs["text"].tolist() == read.frame["report"].tolist()
    assert all((copy / path).is_file() for path in pairs["full_path"])
    with pytest.raises(DataError, match="exists"):
        write_pairs(read, tmp_path / "pairs.csv")


def test_a_copy_is_recognised_one_level_below(mimic_cohort, rsna_cohort, tmp_path):
    assert has_mimic(mimic_cohort) and has_mimic(rsna_cohort) and not has_mimic(tmp_path)


def test_a_missing_table_and_an_unknown_section_are_named(copy):
    with pytest.raises(UnknownNameError, match="impression"):
        read_mimic(copy, section="impresion")  # pyright: ignore[reportArgumentType]
    next(copy.glob("*metadata*")).unlink()
    with pytest.raises(DataError, match=r"no mimic-cxr-2\.0\.0-metadata\.csv"):
        read_mimic(copy)


# --- rows that differ -------------------------------------------------------------------------------------------------


def again(table: pd.DataFrame, **change) -> pd.DataFrame:
    """The table with its first row a second time, changed."""
    return pd.concat([table, table.iloc[:1].assign(**change)])


def test_two_rows_of_labels_of_a_study_are_left_out_if_they_differ_and_noted_if_not(copy):
    rewrite(copy, "chexpert", again)
    assert read_mimic(copy).report.notes == {"further row of labels for a study, which agrees": 1}
    first = pd.read_csv(copy / "mimic-cxr-2.0.0-chexpert.csv.gz").iloc[0]
    rewrite(copy, "chexpert", lambda table: again(table, Edema=0 if first["Edema"] == 1 else 1))
    read = read_mimic(copy)
    assert set(read.report.skipped) == {"two rows of labels for the study that differ"}
    assert f"s{int(first['study_id'])}" not in set(read.frame["study"])


@pytest.mark.parametrize(("column", "value"), [("split", "elsewhere"), ("subject_id", 99000099)])
def test_an_image_told_to_be_in_two_splits_or_of_two_people_is_left_out(copy, column, value):
    rewrite(copy, "split", lambda table: again(table, **{column: value}))
    read = read_mimic(copy)
    assert read.report.skipped == {"two rows for the image that differ": 2} and len(read.frame) == 15


def test_an_image_of_two_views_has_none(copy):
    rewrite(copy, "metadata", lambda table: again(table, ViewPosition="LATERAL"))
    assert read_mimic(copy).report.skipped == {"view unknown": 1}
