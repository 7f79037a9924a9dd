"""Readers of VQA-RAD, SLAKE and PMC-VQA: published fields, and what is wrong in copies is counted or refused."""

from __future__ import annotations

import pytest
import text_copies as copies

from medgraft.benchmarks.cohorts.texts.pmc_vqa import read_pmc_vqa
from medgraft.benchmarks.cohorts.texts.slake import read_slake
from medgraft.benchmarks.cohorts.texts.vqa_rad import read_vqa_rad
from medgraft.benchmarks.tasks import build_task
from medgraft.cohort import cohort_class
from medgraft.errors import DataError

CHOICES = " A:CT , B:MRI , C:X-ray , D:PET "


def test_vqa_rad_reads_published_fields_and_counts_what_cannot_be_used(tmp_path):
    rows = [
        {"image_case_url": "case/1", "question_type": "PRES, POS", "answer_type": "CLOSED "},
        {
            "answer": 3,
            "answer_type": "OPEN",
            "question_type": "COUNT",
            "phrase_type": "test_para",
            "image_name": "b.jpg",
        },
        {"image_name": "gone.jpg"},
        {"question": None},
        {"phrase_type": "other"},
        {"qid": "0", "question": "Another?"},
        {"image_name": "../outside.jpg"},
        {"answer": "NULL"},
    ]
    root = copies.vqa_rad(tmp_path / "rad", rows, ["synpic1.jpg", "b.jpg"])
    copies.images(root, ["outside.jpg"])
    table = read_vqa_rad(root)
    first, second, empty = table.questions
    assert (first.kind, first.subject, first.split, first.answer) == ("closed:presence", "case/1", "train", "Yes")
    assert (second.kind, second.subject, second.split, second.answer) == ("open:count", "b.jpg", "test", "3")
    assert empty.answer == "" and not table.phantom and table.generator is None
    assert table.report.skipped == {
        "image missing": 2,
        "record without image or question": 1,
        "phrase_type unknown": 1,
        "qid twice": 1,
    }
    assert read_vqa_rad(tmp_path).questions == table.questions  # one level above


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "no list of objects"),
        ("[1, 2]", "no list of objects"),
        ("[{", "cannot be read as JSON"),
        ('[{"image_name": "a.jpg", "question": "?"}]', "no record of .* has a field answer"),
        ("[]", "has a field image_name"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path, content, message):
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_vqa_rad(tmp_path)


def test_a_copy_without_images_names_where_one_should_be(tmp_path):
    with pytest.raises(DataError, match=r"none of the 1 images is there; one should be .*Image Folder.synpic1.jpg"):
        read_vqa_rad(copies.vqa_rad(tmp_path, [{}], ["elsewhere.jpg"]))


def test_the_cases_of_vqa_rad_are_split_and_its_published_split_says_what_it_leaks(tmp_path):
    names = [f"synpic{i}.jpg" for i in range(20)]
    rows = [{"image_name": name, "question": f"Is it normal {i}?"} for i, name in enumerate(names)]
    rows += [{"image_name": name, "phrase_type": "test_freeform", "answer": "No"} for name in names[:5]]
    root = copies.vqa_rad(tmp_path, rows, names)
    data = build_task("vqa_rad").load(root).check()
    assert not set(data.subjects[data.splits["test"]]) & set(data.subjects[data.splits["train"]])
    published = build_task("vqa_rad", {"split": "published"}).load(root).check()
    assert set(published.columns["reference"][published.splits["test"]]) == {"No"}
    assert "5 of 5 tested images are trained on" in published.provenance["notes"][0]


def test_slake_is_read_in_english_unless_told_otherwise(tmp_path):
    chinese = {"q_lang": "zh", "question": "图中的器官是什么？", "answer": "肺"}
    root = copies.slake(
        tmp_path,
        {
            "train": [{"img_name": f"xmlab{i}/source.jpg"} for i in (1, 2, 3)] + [{"img_name": "xmlab9/source.jpg"}],
            "validation": [{"img_name": "xmlab4/source.jpg"}],
            "test": [
                {"img_name": "xmlab5/source.jpg", "answer_type": "CLOSED", "content_type": "Plane"},
                {"img_name": "xmlab5/source.jpg", **chinese},
                {"img_name": "xmlab3/source.jpg", "question": "Which plane?"},
                {"img_name": "xmlab5/source.jpg"},
            ],
        },
        [f"xmlab{i}/source.jpg" for i in range(1, 6)],
    )
    table = read_slake(root)
    assert table.report.skipped == {"question not English (zh)": 1, "image missing": 1}
    assert next(q.kind for q in table.questions if q.split == "test") == "closed:plane"
    data = build_task("slake").load(root).check()
    # An image that is tested is not trained on, and a question that is asked twice is one.
    assert data.provenance["reader"]["skipped"]["subject of a later split"] == 1
    assert data.provenance["reader"]["skipped"]["said twice"] == 1
    assert {name: len(index) for name, index in data.splits.items()} == {"train": 2, "val": 1, "test": 2}
    assert "肺" in build_task("slake", {"language": "any"}).load(root).columns["reference"]
    (root / "test.json").unlink()
    with pytest.raises(DataError, match=r"has no test\.json"):
        read_slake(root)


def test_pmc_vqa_finds_the_right_option_by_letter_or_text(tmp_path):
    rows = [
        f"PMC1_F1.jpg,Modality?,CT,{CHOICES},A",
        f"PMC1_F2.jpg,Modality?,MRI,{CHOICES},",
        f"PMC2_F1.jpg,Modality?, C ,{CHOICES},",
        f"PMC2_F1.jpg,Modality again?, D:PET ,{CHOICES},",
        f"PMC3_F1.jpg,Modality?,MRI,{CHOICES},A",
        f"PMC3_F1.jpg,Modality?,Tea,{CHOICES},",
        "PMC3_F1.jpg,Modality?,CT, A:CT , B:CT , C:X , D:Y ,",
        f",Modality?,CT,{CHOICES},A",
        f"gone.jpg,Modality?,CT,{CHOICES},A",
    ]
    present = ["PMC1_F1.jpg", "PMC1_F2.jpg", "PMC2_F1.jpg", "PMC3_F1.jpg", "PMC4_F1.jpg"]
    tests = [f"PMC4_F1.jpg,Modality?,X-ray,{CHOICES},C", f"PMC2_F1.jpg,Which?,CT,{CHOICES},A"]
    root = copies.pmc_vqa(tmp_path, {"train.csv": rows, "test.csv": tests}, present)
    table = read_pmc_vqa(root)
    assert [q.answer for q in table.questions] == ["CT", "MRI", "X-ray", "PET", "X-ray", "CT"]
    assert table.report.skipped == {
        "right option unknown, or named twice": 2,
        "an option empty, or the same as another": 1,
        "row without figure or question": 1,
        "image missing": 1,
    }
    data = build_task("pmc_vqa", {"val_fraction": 0.5}).load(root)
    assert data.provenance["reader"]["skipped"]["subject of a later split"] == 2  # of the article PMC2
    assert data.columns["reference"][0] == "A. CT" and data.columns["answer"][0] == "A"
    assert data.columns["prompt"][0] == "Modality? Choices: A. CT B. MRI C. X-ray D. PET"
    assert data.inputs["image"].read(0).shape == (64, 64, 3) and data.inputs["image"].colour
    words = build_task("pmc_vqa:open", {"val_fraction": 0.5}).load(root)
    assert words.columns["reference"][0] == "CT" and words.columns["kind"][0] == "open:figure"


def test_the_second_version_has_no_label(tmp_path):
    tables = {"train_2.csv": [f"PMC1_F1.jpg,?,B,{CHOICES}"], "test_2.csv": [f"PMC2_F1.jpg,?,D,{CHOICES}"]}
    root = copies.pmc_vqa(tmp_path, tables, ["PMC1_F1.jpg", "PMC2_F1.jpg"], label=False)
    assert [q.answer for q in read_pmc_vqa(root, "2").questions] == ["MRI", "PET"]
    with pytest.raises(DataError, match=r"no train\.csv in"):
        read_pmc_vqa(root)


def test_a_copy_is_identified_by_its_questions(tmp_path):
    plugin = cohort_class("vqa_rad")()
    first = plugin.revision(copies.vqa_rad(tmp_path / "a", [{}], ["synpic1.jpg"]))
    same = plugin.revision(copies.vqa_rad(tmp_path / "b", [{}], ["synpic1.jpg"]))
    other = plugin.revision(copies.vqa_rad(tmp_path / "c", [{"answer": "No"}], ["synpic1.jpg"]))
    assert first == same != other
    with pytest.raises(DataError, match=r"VQA_RAD Dataset Public\.json"):
        plugin.revision(tmp_path / "a" / "VQA_RAD Image Folder")
