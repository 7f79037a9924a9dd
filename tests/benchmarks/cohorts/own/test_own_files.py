"""Files of every kind that people have: read as they are meant, or left out with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from own_data import picture, pictures, table, task, volume
from PIL import Image

from medgraft.benchmarks.cohorts.own.files import Finder, files_below, modality_of
from medgraft.benchmarks.cohorts.own.inspection import inspected, patients_in_names
from medgraft.errors import DataError

NOISE = np.random.default_rng(5).integers(0, 255, (20, 24, 4)).astype(np.uint8)


def saved(path: Path, mode: str, **options) -> None:
    Image.fromarray(NOISE, "RGBA").convert(mode).save(path, **options)


def sixteen(path: Path) -> None:
    Image.fromarray(NOISE[..., 0].astype(np.uint16) << 7).save(path)


def pages(path: Path) -> None:
    images = [Image.fromarray(NOISE[..., k]) for k in range(3)]
    images[0].save(path, save_all=True, append_images=images[1:])


def huge(path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(path)


def cut(path: Path) -> None:
    content = picture(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


READ = {
    "16bit.png": sixteen,
    "rgba.png": lambda path: saved(path, "RGBA"),
    "palette.png": lambda path: saved(path, "P"),
    "cmyk.jpg": lambda path: saved(path, "CMYK"),
    "grey.tif": lambda path: saved(path, "L"),
    "colour.jpeg": lambda path: saved(path, "RGB"),
}
LEFT_OUT = {
    "pages.tif": (pages, "more than one frame"),
    "huge.png": (huge, "more pixels than allowed"),
    "one.png": (lambda path: picture(path, shape=(1, 1)), "one value in every pixel"),
    "empty.png": (lambda path: path.write_bytes(b""), "no image, or cut"),
    "text.png": (lambda path: path.write_text("no image"), "no image, or cut"),
    "cut.png": (cut, "no image, or cut"),
}


def data_with(folder: Path, name: str, write):
    folder.mkdir(exist_ok=True)
    write(folder / name)
    names = [name, *pictures(folder, 15)]
    return task().load(table(folder, {"image": names, "label": ["a", "b"] * 8})).check()


@pytest.mark.parametrize("name", READ)
def test_files_that_are_read(tmp_path, name):
    raw = data_with(tmp_path, name, READ[name]).inputs["image"].read(0)
    assert raw.dtype == np.uint8 and raw.shape == (20, 24) and np.ptp(raw) > 50


@pytest.mark.parametrize("name", LEFT_OUT)
def test_files_that_are_left_out(tmp_path, name):
    write, reason = LEFT_OUT[name]
    data = data_with(tmp_path, name, write)
    with pytest.raises(DataError) as caught:
        data.inputs["image"].read(0)
    assert caught.value.reason == reason
    facts = inspected(task().read(tmp_path / "cohort.csv")[0], read=100)
    assert facts.unreadable == {reason: 1} and facts.looked_at == 16


def test_a_folder_of_hostile_files_is_inspected(tmp_path):
    for name, write in READ.items():
        write(tmp_path / name)
    for name, (write, _) in LEFT_OUT.items():
        write(tmp_path / name)
    names = [*READ, *LEFT_OUT]
    path = table(tmp_path, {"image": names, "label": ["a", "b"] * (len(names) // 2)})
    facts = inspected(task().read(path)[0], read=100)
    assert sum(facts.sizes.values()) == len(READ) and sum(facts.unreadable.values()) == len(LEFT_OUT)


def test_few_files_are_read_where_few_are_asked_for(tmp_path):
    path = table(tmp_path, {"image": pictures(tmp_path, 30), "label": ["a", "b"] * 15})
    data = task().read(path)[0]
    assert inspected(data, read=7).looked_at == 7 and inspected(data, read=0).looked_at == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.PNG", "image"),
        ("b.jpeg", "image"),
        ("c.dcm", "image"),
        ("d.nii.gz", "volume"),
        ("e.mgz", "volume"),
        ("f", ""),
    ],
)
def test_kinds_by_ending(name, kind):
    assert modality_of(name) == kind


def test_of_a_pair_the_header_counts(tmp_path):
    for name in ("a.hdr", "a.img", "b.IMG", "b.HDR", "c.img"):
        (tmp_path / name).write_bytes(b"x")
    assert sorted(Path(path).name for path in files_below(tmp_path)) == ["a.hdr", "b.HDR", "c.img"]


@pytest.mark.parametrize(
    "written", ["", " ", "..", "/", "\\", "C:", "a\0b", "%00", "x" * 5000, "../" * 50 + "etc/passwd"]
)
def test_nothing_strange_is_found(tmp_path, written):
    volume(tmp_path / "v.nii")
    found = Finder(tmp_path).find(written)
    assert not found or not modality_of(found)


def test_numbers_in_names_that_are_no_patients():
    assert patients_in_names([f"{k:04d}.png" for k in range(50)]) is None
    assert patients_in_names([f"film{k}.png" for k in range(5)]) is None
    assert patients_in_names([]) is None


def test_analyze_pairs_are_read_as_spm_reads_them_and_it_is_said(tmp_path):
    import nibabel as nib

    voxels = np.random.default_rng(0).uniform(1, 99, (8, 9, 7, 1)).astype(np.float32)
    for k in range(12):
        image = nib.Spm2AnalyzeImage(voxels[..., 0] + k, np.diag([-2.0, 1.5, 3.0, 1.0]))
        nib.save(image if k else nib.AnalyzeImage(voxels, np.diag([-2.0, 1.5, 3.0, 1.0])), tmp_path / f"v{k}.img")
    path = table(tmp_path, {"scan": [f"v{k}.hdr" for k in range(12)], "label": ["a", "b"] * 6, "patient": range(12)})
    data = task().load(path).check()
    assert data.provenance["notes"] == [
        "files of Analyze format, which do not say left from right; taken as SPM does: 12"
    ]
    raw = data.inputs["volume"].read(0)
    np.testing.assert_array_equal(raw, voxels[::-1, :, :, 0])  # to the right, as nibabel's canonical form
    np.testing.assert_allclose(raw.spacing, (2.0, 1.5, 3.0))
    expected = nib.as_closest_canonical(nib.load(tmp_path / "v5.img")).get_fdata()
    np.testing.assert_allclose(data.inputs["volume"].read(5), expected, rtol=1e-6)


def test_voxels_of_a_pair_are_part_of_what_the_data_are(tmp_path):
    import nibabel as nib

    voxels = np.random.default_rng(0).uniform(1, 99, (8, 9, 7)).astype(np.float32)
    for k in range(12):
        nib.save(nib.Nifti1Pair(voxels + k, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / f"v{k}.hdr")
    path = table(tmp_path, {"scan": [f"v{k}.hdr" for k in range(12)], "label": ["a", "b"] * 6, "patient": range(12)})
    before = task().load(path).check()
    assert len(set(before.subjects)) == 12 and before.provenance["notes"] == []  # equal headers are no equal files
    (tmp_path / "v3.img").write_bytes((tmp_path / "v4.img").read_bytes())
    after = task().load(path).check()
    assert before.inputs["volume"].fingerprint != after.inputs["volume"].fingerprint
    assert len(set(after.subjects)) == 11


def test_files_that_are_not_where_the_table_says_are_told(tmp_path):
    names = pictures(tmp_path / "img", 24)
    away = [f"/mnt/other machine/data/img/{name}" for name in names]
    path = table(tmp_path, {"image": [*away[:20], *names[20:]], "label": ["a", "b"] * 12})
    notes = task().read(path)[0].notes
    assert "files that are not where the table says, found by the end of their path: 20" in notes
    assert "files that are not where the table says, found by their name alone: 4" in notes
    path = table(tmp_path, {"image": [f"img/{name}" for name in names], "label": ["a", "b"] * 12}, "right.csv")
    assert not any("where the table says" in note for note in task().read(path)[0].notes)
