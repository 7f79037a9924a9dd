"""Volumes: flipped bits are noticed, one sound form of orientation is enough, and one bad file is its own fault."""

from __future__ import annotations

import gzip
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.cifti2.cifti2 import Cifti2Image
from nibabel.cifti2.cifti2_axes import BrainModelAxis, ScalarAxis
from scipy.spatial.transform import Rotation

from medgraft.benchmarks.cohorts.volumes.load import load_volume
from medgraft.benchmarks.prefix_cache.inputs import prepare
from medgraft.encoders.pixels import PixelsSource
from medgraft.errors import DataError
from medgraft.task import RawInputs

SHAPE = (9, 8, 7)
VOXELS: Any = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.int16)
LPS = np.diag([-1.0, -1.0, 1.2, 1.0])
RAS_VOXELS = VOXELS[::-1, ::-1].astype(np.float32)
DIM, PIXDIM, SLOPE, CODES, QUATERN, SROW = 40, 76, 112, 252, 256, 280
"""Where fields of a NIfTI-1 header begin."""


def volume(path: Path, voxels: np.ndarray = VOXELS, affine: np.ndarray = LPS, codes: tuple[int, int] = (1, 1)) -> Path:
    """A NIfTI file with its qform and sform set to ``codes``."""
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    nib.save(image, path)
    return path


def patched(path: Path, offset: int, layout: str, *values: float) -> Path:
    """The file with a field of its header overwritten."""
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(content)
    return path


def refused(path: Path) -> tuple[str, str]:
    """Sentence and reason of the error."""
    with pytest.raises(DataError, match=path.name.replace(".", r"\.")) as caught:
        load_volume(path)
    return str(caught.value), caught.value.reason


# ---- gzip is read to its end


@pytest.mark.parametrize("level", [1, 6])
def test_no_flipped_bit_passes(tmp_path, level):
    content = bytearray(gzip.compress(volume(tmp_path / "a.nii").read_bytes(), level))
    path, rng = tmp_path / "b.nii.gz", np.random.default_rng(1)
    for at in rng.integers(20, len(content), 120).tolist():
        wrong = bytearray(content)
        wrong[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(wrong)
        assert (
            refused(path)[1] in ("no image, or cut", "not one 3D volume", "no orientation", "no grey values")
            or at < 400
        )


def test_members_padding_and_what_follows_change_nothing(tmp_path):
    raw = volume(tmp_path / "a.nii").read_bytes()
    members = b"".join(gzip.compress(raw[i : i + 300]) for i in range(0, len(raw), 300))
    for name, content in {
        "one": gzip.compress(raw),
        "members": members,
        "zeros": gzip.compress(raw) + bytes(5000),
        "zeros between": gzip.compress(raw[:500]) + bytes(77) + gzip.compress(raw[500:]),
        "garbage": gzip.compress(raw) + b"not gzip at all",
        "empty member": gzip.compress(raw) + gzip.compress(b""),
        "more": gzip.compress(raw + bytes(2000)),
    }.items():
        (tmp_path / f"{name}.nii.gz").write_bytes(content)
        assert np.array_equal(load_volume(tmp_path / f"{name}.nii.gz")[0], RAS_VOXELS), name


@pytest.mark.parametrize("lost", [1, 4, 7, 8, 9, 100])
def test_a_cut_stream_is_refused_though_its_voxels_are_whole(tmp_path, lost):
    content = gzip.compress(volume(tmp_path / "a.nii").read_bytes())
    (tmp_path / "b.nii.gz").write_bytes(content[:-lost])
    assert refused(tmp_path / "b.nii.gz")[1] == "no image, or cut"


def test_a_member_whose_begin_is_damaged_leaves_the_volume_cut(tmp_path):
    raw = volume(tmp_path / "a.nii").read_bytes()
    second = bytearray(gzip.compress(raw[600:]))
    second[0] ^= 1
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(raw[:600]) + second)
    assert refused(tmp_path / "b.nii.gz")[1] == "no image, or cut"


# ---- formats


@pytest.mark.parametrize("kind", ["nifti2", "big", "pair", "pair.gz", "mgh", "mgz", "float64", "uint8", "4D of one"])
def test_formats_and_types_give_the_same_voxels(tmp_path, kind):
    path = tmp_path / f"a.{kind if kind in ('mgh', 'mgz') else 'nii.gz'}"
    small = (VOXELS % 250).astype(np.uint8)
    wanted = RAS_VOXELS
    if kind == "nifti2":
        nib.save(nib.Nifti2Image(VOXELS, LPS), path)
    elif kind == "big":
        image = nib.Nifti1Image(VOXELS, LPS, nib.Nifti1Header(endianness=">"))
        image.set_sform(LPS, 1)
        nib.save(image, path)
    elif kind.startswith("pair"):
        path = tmp_path / f"a.img{kind[4:]}"
        nib.save(nib.Nifti1Pair(VOXELS, LPS), path)
        assert np.array_equal(load_volume(tmp_path / f"a.hdr{kind[4:]}")[0], wanted)
    elif kind.startswith("mg"):
        nib.save(nib.MGHImage(VOXELS, LPS), path)
    elif kind == "uint8":
        volume(path, small)
        wanted = small[::-1, ::-1].astype(np.float32)
    else:
        volume(path, VOXELS[..., None] if kind == "4D of one" else VOXELS.astype(np.float64))
    read, affine = load_volume(path)
    assert np.array_equal(read, wanted) and read.flags.c_contiguous and read.flags.writeable
    assert nib.aff2axcodes(affine) == ("R", "A", "S")
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [1, 1, 1.2], rtol=1e-6)


@pytest.mark.parametrize("turn", ["PIR", "LAS", "ASL", "SPR", "RAS"])
def test_any_order_of_axes_is_turned_as_nibabel_turns_it(tmp_path, turn):
    image = nib.Nifti1Image(VOXELS, np.diag([1.0, 1.1, 1.2, 1.0]))
    target: Any = nib.orientations.axcodes2ornt(tuple(turn))
    turns: Any = nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
    image = image.as_reoriented(turns)
    nib.save(image, tmp_path / "a.nii")
    read, affine = load_volume(tmp_path / "a.nii")
    assert np.array_equal(read, VOXELS)
    np.testing.assert_allclose(affine, nib.as_closest_canonical(nib.load(tmp_path / "a.nii")).affine, atol=1e-5)


# ---- what cannot be used is refused, whatever a library would raise for it


def odd_files(folder: Path) -> dict[Path, str]:
    """File -> reason, of every kind of file that no volume can be read from."""
    good = volume(folder / "good.nii").read_bytes()

    def made(name: str, offset: int = DIM, layout: str = "<h", *values: float) -> Path:
        path = folder / name
        path.write_bytes(good)
        return patched(path, offset, layout, *values) if values else path

    found = {
        made("negative.nii", DIM + 2, "<h", -9): "not one 3D volume",
        made("zero.nii", DIM + 2, "<h", 0): "not one 3D volume",
        made("huge.nii", DIM + 2, "<hhh", 32767, 32767, 32767): "more voxels than allowed",
        made("larger.nii", DIM + 2, "<hhh", 400, 400, 400): "no image, or cut",
        made("rank.nii", DIM, "<h", 9): "no image, or cut",
        made("rank0.nii", DIM, "<h", 0): "not one 3D volume",
        made("offset.nii", 108, "<f", math.nan): "no image, or cut",
        made("far.nii", 108, "<f", 3e9): "no image, or cut",
        made("type.nii", 70, "<h", 77): "no image, or cut",
        volume(folder / "flat.nii", VOXELS[:, :, 0]): "not one 3D volume",
        volume(folder / "many.nii", np.stack([VOXELS] * 3, -1)): "not one 3D volume",
        volume(folder / "complex.nii", VOXELS.astype(np.complex64)): "no grey values",
        volume(folder / "zeros.nii", VOXELS * 0): "zero in every voxel",
        volume(folder / "nan.nii", np.where(VOXELS > 850, np.nan, VOXELS)): "voxels that are NaN or infinite",
        volume(folder / "overflow.nii", VOXELS * 1e300): "voxels that are NaN or infinite",
    }
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    found[volume(folder / "rgb.nii", colours)] = "no grey values"
    nib.save(nib.AnalyzeImage(VOXELS, LPS), folder / "analyze.img")
    found[folder / "analyze.img"] = "no orientation"
    nib.save(nib.Nifti1Pair(VOXELS, LPS), folder / "half.img")
    (folder / "half.img").unlink()
    found[folder / "half.hdr"] = "half of a pair"
    oblique = from_matvec(Rotation.from_euler("zyx", (0.4, 0.3, 0.2)).as_matrix())
    found[volume(folder / "oblique.nii", VOXELS[:, :, 0], oblique)] = "not one 3D volume"
    axes = BrainModelAxis.from_mask(np.ones((2, 2, 2)), affine=np.eye(4))
    scalars = Cifti2Image(np.ones((1, 8)), (ScalarAxis(["a"]), axes))
    nib.save(scalars, folder / "cifti.dscalar.nii")
    found[folder / "cifti.dscalar.nii"] = "not one 3D volume"
    (folder / "folder.nii").mkdir()
    found[folder / "folder.nii"] = "no such file"
    return found


def test_one_bad_file_among_good_ones_is_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    odd = odd_files(tmp_path)
    assert {path.name: refused(path)[1] for path in odd} == {path.name: reason for path, reason in odd.items()}
    paths = [volume(tmp_path / "one.nii"), *odd, volume(tmp_path / "two.nii.gz")]
    raw = RawInputs(lambda i: load_volume(paths[i])[0], len(paths), "odd")
    found = prepare(raw, PixelsSource.build("3d"), "pixels")
    assert found.usable.tolist() == [True, *[False] * len(odd), True]
    assert sum(found.reasons.values()) == len(odd) and set(found.reasons) == set(odd.values())


@pytest.mark.parametrize(
    "error", [OverflowError("x"), AttributeError("y"), KeyError("z"), RecursionError(), OSError(5, "i")]
)
def test_whatever_a_foreign_reader_raises_is_the_sample_s_fault(tmp_path, monkeypatch, error):
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))

    def read(i: int) -> np.ndarray:
        if i == 1:
            raise error
        return VOXELS.astype(np.float32)

    found = prepare(RawInputs(read, 3, "foreign"), PixelsSource.build("3d"), "pixels")
    assert found.usable.tolist() == [True, False, True]
    assert found.reasons == {f"{type(error).__name__} while reading": 1}


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(3)])
def test_what_is_no_fault_of_a_file_stays_what_it_is(tmp_path, monkeypatch, error):
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))

    def read(i: int) -> np.ndarray:
        raise error

    with pytest.raises(type(error)):
        prepare(RawInputs(read, 3, "machine"), PixelsSource.build("3d"), "pixels")


def test_a_limit_that_was_raised_is_another_reading(monkeypatch):
    from medgraft.files.one_file import reading_facts

    before = reading_facts(1)
    monkeypatch.setenv("MEDGRAFT_MAX_VOXELS", "1G")
    assert before != reading_facts(1) != reading_facts(2)


# ---- the form of orientation that can be


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (2, 1)])
@pytest.mark.parametrize("squared", [1 + 3.845952e-07, 1.004])
def test_a_quaternion_a_hair_too_long_is_scaled(tmp_path, codes, squared):
    path = patched(volume(tmp_path / "a.nii", codes=codes), QUATERN, "<fff", 0.0, 0.0, math.sqrt(squared))
    read, affine = load_volume(path)
    assert np.array_equal(read, RAS_VOXELS)
    np.testing.assert_allclose(np.diag(affine), [1, 1, 1.2, 1], rtol=1e-6)


@pytest.mark.parametrize("bad", [(0.0, 0.0, 1.2), (math.nan, 0.0, 0.0), (9.0, 9.0, 9.0)])
def test_a_quaternion_that_is_none_leaves_the_sform(tmp_path, bad):
    path = patched(volume(tmp_path / "a.nii"), QUATERN, "<fff", *bad)
    assert np.array_equal(load_volume(path)[0], RAS_VOXELS)
    only = patched(volume(tmp_path / "b.nii", codes=(1, 0)), QUATERN, "<fff", *bad)
    assert refused(only)[1] == "no usable affine"


@pytest.mark.parametrize(
    "rows",
    [[0.0] * 12, [math.nan] * 12, [1.0, 0, 0, 5, 2.0, 0, 0, 5, 0, 0, 1.2, 5], [0.0] * 8 + [0, 0, 1.2, 0]],
    ids=["zero", "nan", "singular", "one axis"],
)
def test_an_sform_that_is_none_leaves_the_qform(tmp_path, rows):
    path = patched(volume(tmp_path / "a.nii"), SROW, "<12f", *rows)
    read, affine = load_volume(path)
    assert np.array_equal(read, RAS_VOXELS)
    np.testing.assert_allclose(np.diag(affine), [1, 1, 1.2, 1], rtol=1e-6)
    only = patched(volume(tmp_path / "b.nii", codes=(0, 1)), SROW, "<12f", *rows)
    assert refused(only)[1] == "no usable affine"


def test_a_form_that_is_not_set_is_not_asked(tmp_path):
    path = patched(volume(tmp_path / "a.nii", codes=(0, 2)), QUATERN, "<fff", 9.0, 9.0, 9.0)
    assert np.array_equal(load_volume(path)[0], RAS_VOXELS)


def test_forms_that_agree_at_45_degrees_do_not_contradict(tmp_path):
    image = nib.Nifti1Image(VOXELS, np.eye(4))
    for angle, put in ((44.9, image.set_qform), (45.1, image.set_sform)):
        put(from_matvec(Rotation.from_euler("z", angle, degrees=True).as_matrix()), 1)
    assert nib.aff2axcodes(image.get_sform()) != nib.aff2axcodes(image.get_qform())
    nib.save(image, tmp_path / "a.nii")
    assert sorted(load_volume(tmp_path / "a.nii")[0].shape) == sorted(SHAPE)


# ---- units, spacing, scale


@pytest.mark.parametrize(("code", "factor"), [(0, 1.0), (1, 0.001), (2, 1.0), (3, 1000.0), (10, 1.0), (9, 0.001)])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1)])
def test_the_unit_of_the_header_is_honoured(tmp_path, code, factor, codes):
    affine = np.diag([-1.0 * factor, -1.0 * factor, 1.2 * factor, 1.0])
    path = patched(volume(tmp_path / "a.nii", affine=affine, codes=codes), 123, "<B", code)
    np.testing.assert_allclose(np.linalg.norm(load_volume(path)[1][:3, :3], axis=0), [1, 1, 1.2], rtol=1e-5)


@pytest.mark.parametrize(("code", "edge"), [(1, 1.0), (3, 1.0), (2, 0.001), (2, 500.0)])
def test_a_unit_that_cannot_be_is_refused(tmp_path, code, edge):
    path = patched(volume(tmp_path / "a.nii", affine=np.diag([edge, edge, edge, 1])), 123, "<B", code)
    assert refused(path)[1] == "voxels of impossible size"


@pytest.mark.parametrize(
    ("code", "told", "reads"),
    [(1, 1.0, False), (1, 1.19, True), (1, 0.0, True), (1, math.nan, True), (4, 1.0, True), (4, 0.6, False)],
)
def test_spacing_against_affine(tmp_path, code, told, reads):
    path = patched(volume(tmp_path / "a.nii", codes=(0, code)), PIXDIM + 12, "<f", told)
    if reads:
        np.testing.assert_allclose(np.linalg.norm(load_volume(path)[1][:3, :3], axis=0), [1, 1, 1.2], rtol=1e-6)
    else:
        assert refused(path)[1] == "spacing contradicts the affine"


@pytest.mark.parametrize(
    ("slope", "intercept", "scale", "shift"),
    [(2.0, 5.0, 2, 5), (0.0, 5.0, 1, 0), (math.nan, 5.0, 1, 0), (2.0, math.nan, 2, 0), (-1.0, 900.0, -1, 900)],
)
def test_a_scale_that_is_none_leaves_the_values(tmp_path, slope, intercept, scale, shift):
    path = patched(volume(tmp_path / "a.nii"), SLOPE, "<ff", slope, intercept)
    np.testing.assert_array_equal(load_volume(path)[0], RAS_VOXELS * scale + shift)


# ---- names and limits


@pytest.mark.parametrize(
    ("name", "packed", "better"),
    [
        ("a.nii", True, r"a\.nii\.gz"),
        ("a.nii.gz", False, r"a\.nii"),
        ("a.mgz", False, r"a\.mgh"),
        ("a.mgh", True, r"a\.mgz"),
    ],
)
def test_a_name_that_belies_its_content_gets_the_advice_to_rename(tmp_path, name, packed, better):
    path = tmp_path / ("b.mgh" if "mg" in name else "b.nii")
    nib.save((nib.MGHImage if "mg" in name else nib.Nifti1Image)(VOXELS, LPS), path)
    (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()) if packed else path.read_bytes())
    sentence, reason = refused(tmp_path / name)
    assert reason == "named otherwise than its content"
    with pytest.raises(DataError, match=rf"rename it to {better}$"):
        load_volume(tmp_path / name)
    assert "rename" in sentence


def test_the_limit_is_named_and_can_be_changed(tmp_path, monkeypatch):
    path = volume(tmp_path / "a.nii")
    monkeypatch.setenv("MEDGRAFT_MAX_VOXELS", "503")
    assert "MEDGRAFT_MAX_VOXELS" in refused(path)[0]
    monkeypatch.setenv("MEDGRAFT_MAX_VOXELS", "504")
    assert load_volume(path)[0].size == 504


BOMBS = """
import resource, struct, sys, time, zlib
from pathlib import Path
from medgraft.benchmarks.cohorts.volumes.load import load_volume
from medgraft.errors import DataError
resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
head = bytearray(Path(sys.argv[1]).read_bytes()[:352])
def gz(path, head, megabytes):
    pack = zlib.compressobj(9, wbits=31)
    with open(path, "wb") as out:
        out.write(pack.compress(bytes(head)))
        for _ in range(megabytes): out.write(pack.compress(bytes(1 << 20)))
        out.write(pack.flush())
begun = time.process_time()
for dims, packed in (((32767,) * 3, False), ((32767,) * 3, True), ((3000, 3000, 3000), True), ((9, 8, 7), True)):
    struct.pack_into("<hhh", head, 42, *dims)
    path = Path(sys.argv[1]).with_name("bomb.nii.gz" if packed else "bomb.nii")
    gz(path, head, 80) if packed else path.write_bytes(head)
    made = time.process_time()
    try: load_volume(path)
    except DataError as error: print(error.reason, "|", round(time.process_time() - made, 2))
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) >> 10
print("peak", peak)
"""


def test_bombs_end_soon_and_small(tmp_path):
    path = volume(tmp_path / "a.nii")
    done = subprocess.run([sys.executable, "-c", BOMBS, str(path)], capture_output=True, text=True, check=True)
    *lines, peak = done.stdout.splitlines()
    reasons = [line.split(" | ")[0] for line in lines]
    assert reasons == ["more voxels than allowed"] * 3 + ["no image, or cut"]
    assert max(float(line.split(" | ")[1]) for line in lines) < 5 and int(peak.split()[1]) < 2048
