"""The reader of IU X-ray: its three forms, which image stands for a study, and flaws that are counted or refused."""

from __future__ import annotations

import pytest
import text_copies as copies

from medgraft.benchmarks.cohorts.texts.iu_xray import read_iu_xray
from medgraft.benchmarks.tasks import build_task
from medgraft.cohort import cohort_class
from medgraft.errors import DataError

FRONT, SIDE = "CXR1_1_IM-0001-4001", "CXR1_1_IM-0001-3001"


def record(uid: str, report: str = "Clear lungs.", count: int = 2, split: str = "train") -> dict[str, object]:
    return {"id": uid, "report": report, "image_path": [f"{uid}/{i}.png" for i in range(count)], "split": split}


def test_r2gen_has_a_split_and_its_first_image_is_the_frontal_one(tmp_path):
    parts = {
        "train": [record(f"CXR{i}_IM-0001") for i in range(1, 11)]
        + [record("CXR90_IM-0002", count=0), {"report": "x"}],
        "val": [record("CXR20_IM-0001"), record("CXR20_IM-0001")],
        "test": [record("CXR30_IM-0001"), record("CXR31_IM-0001"), record("CXR31_IM-0001", "Effusion.")],
    }
    present = [f"CXR{i}_IM-0001/{k}.png" for i in (*range(1, 10), 20, 30, 31) for k in range(2)]
    table = read_iu_xray(copies.r2gen(tmp_path, parts, [*present, "CXR10_IM-0001/1.png"]))
    assert table.form == "r2gen" and set(table.frame["subject"]) == {f"CXR{i}" for i in (*range(1, 10), 20, 30)}
    assert all(image.endswith("0.png") for image in table.frame["image"])
    assert table.report.skipped == {
        "image missing": 1,  # of study 10 only the lateral one is there
        "study without an image": 1,
        "record without id": 1,
        "study twice, with different reports or splits": 1,
    }
    assert table.report.notes == {"study twice": 1}
    data = build_task("iu_xray_reports").load(tmp_path).check()
    assert data.given_test and {name: len(index) for name, index in data.splits.items()} == {
        "train": 9,
        "val": 1,
        "test": 1,
    }


@pytest.mark.parametrize("content", ["[]", '{"train": []}'])
def test_an_annotation_that_is_something_else_is_refused(tmp_path, content):
    (tmp_path / "annotation.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="has no lists train, val and test"):
        read_iu_xray(tmp_path)


def xml_copy(tmp_path):
    reports = {
        "1": ("Clear lungs.", "Normal chest.", [SIDE, FRONT]),
        "2": ("", "Effusion &amp; edema.", ["CXR2_IM-0002-1001"]),
        "3": ("", "", ["CXR3_IM-0003-1001"]),
        "4": ("Clear.", "", []),
        "5": ("Clear.", "", ["CXR5_IM-0005-1001"]),
    }
    root = copies.openi(
        tmp_path, reports, [f"{x}.png" for x in (SIDE, FRONT, "CXR2_IM-0002-1001", "CXR3_IM-0003-1001")]
    )
    (root / "ecgen-radiology" / "6.xml").write_text("<eCitation>", encoding="utf-8")
    bomb = '<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]><eCitation><uId id="CXR7"/></eCitation>'
    (root / "ecgen-radiology" / "7.xml").write_text(bomb, encoding="utf-8")
    return root


def test_xml_reports_have_sections_and_name_their_images(tmp_path):
    table = read_iu_xray(xml_copy(tmp_path))
    assert table.form == "openi"
    assert table.frame["report"].tolist() == ["Clear lungs. Normal chest.", "Effusion & edema.", ""]
    assert table.frame["image"].iloc[0].endswith(f"{SIDE}.png")  # the first that the report names: nothing tells views
    assert table.report.notes == {"view unknown; the first image that the report names was taken": 1}
    assert table.report.skipped == {"report that is no XML": 2, "study without an image": 1, "image missing": 1}
    assert read_iu_xray(tmp_path, "impression").frame["report"].iloc[0] == "Normal chest."


def test_kaggles_projections_tell_which_image_is_frontal(tmp_path):
    root = xml_copy(tmp_path)
    rows = ["1,1_IM-0001-4001.dcm.png,Frontal", "1,1_IM-0001-3001.dcm.png,Lateral", "2,2_IM-0002-1001.dcm.png,Lateral"]
    (root / "indiana_projections.csv").write_text("\n".join(["uid,filename,projection", *rows]), encoding="utf-8")
    table = read_iu_xray(root)
    assert table.frame["image"].iloc[0].endswith(f"{FRONT}.png") and not table.report.notes
    assert table.report.skipped["study without a frontal image"] == 1


def test_kaggles_tables_are_a_form_of_their_own(tmp_path):
    reports = ["1,a,Clear lungs.,Normal.", "2,b,,Effusion.", "3,c,,", "x,d,Clear.,", "4,e,Clear.,"]
    (tmp_path / "indiana_reports.csv").write_text("\n".join(["uid,image,findings,impression", *reports]))
    with pytest.raises(DataError, match=r"has no indiana_projections\.csv"):
        read_iu_xray(tmp_path)
    rows = ["1,1_l.png,Lateral", "1,1_f.png,Frontal", "2,2_f.png,Frontal", "3,3_f.png,Frontal", "4,4_l.png,Lateral"]
    (tmp_path / "indiana_projections.csv").write_text("\n".join(["uid,filename,projection", *rows]))
    copies.images(tmp_path / "images" / "images_normalized", ["1_l.png", "1_f.png", "2_f.png", "3_f.png", "4_l.png"])
    table = read_iu_xray(tmp_path)
    assert table.form == "kaggle" and [image[-7:] for image in table.frame["image"]] == [
        "1_f.png",
        "2_f.png",
        "3_f.png",
    ]
    assert table.report.skipped == {"record without id": 1, "study without a frontal image": 1}


def test_what_identifies_a_copy_are_its_reports_and_names_of_images(tmp_path):
    plugin = cohort_class("iu_xray")()
    root = xml_copy(tmp_path / "a")
    before = plugin.revision(root)
    assert before == plugin.revision(xml_copy(tmp_path / "b"))
    (root / "ecgen-radiology" / "2.xml").write_text("<eCitation/>", encoding="utf-8")
    assert plugin.revision(root) != before
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match=r"no annotation\.json or .* in"):
        read_iu_xray(tmp_path / "c")
