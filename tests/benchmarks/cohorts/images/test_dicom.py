"""DICOM films: each oddity comes out as the picture that it means, or is refused with its reason."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from films import BAND, R8, R12, RAMP, banded, overwrite, write
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medgraft.benchmarks.cohorts.images.dicom import dicom_shape
from medgraft.benchmarks.cohorts.images.load import image_shape, load_radiograph
from medgraft.errors import DataError

WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
SIGNED = R12.astype("<i2")
NOISE = np.random.default_rng(0).integers(0, 4096, (48, 64)).astype("<u2")


def table(values: np.ndarray, first: int = 0, bits: int = 16) -> Sequence:
    """A lookup table as a sequence of one item."""
    item = Dataset()
    item.LUTDescriptor = [len(values) % 65536, first, bits]
    item.LUTData = values.astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    return Sequence([item])


def empty_table() -> Sequence:
    """A lookup table that holds no table."""
    item = Dataset()
    item.LUTExplanation = "none"
    return Sequence([item])


def rises(name: str, pixels: np.ndarray, wanted: Any = RAMP, **fields: Any) -> Any:
    """A film and the picture it means, 0..1."""
    return pytest.param(pixels, fields, wanted, id=name)


GOOD = [
    rises("12 bit", R12),
    rises("8 bit", R8),
    rises("1 of 16 bits more", (RAMP * 8191).astype("<u2"), BitsStored=13),
    rises("10 of 16", (RAMP * 1023).astype("<u2"), BitsStored=10),
    rises("8 of 16", R8.astype("<u2"), BitsStored=8),
    rises("8 in 16", R8.astype("<u2"), BitsStored=16),
    rises("6 of 8", (RAMP * 63).astype("u1"), BitsStored=6),
    rises("32 bit", (RAMP * 1e9).astype("<u4"), BitsStored=32),
    rises("signed", SIGNED - 2048, BitsStored=12),
    rises("signed without sign bits above", (SIGNED - 2048) & 0x0FFF, BitsStored=12),
    rises("high bit 15", (R12 << 4).astype("<u2"), HighBit=15),
    rises("signed at high bit 15", ((SIGNED - 2048) << 4).astype("<i2"), HighBit=15),
    rises("a constant bit above", (R12 | 0x8000).astype("<u2")),
    rises("an overlay above", np.where(NOISE > 4000, R12 | 0x1000, R12).astype("<u2")),
    rises("overlays above", np.where(NOISE > 2000, R12 | 0x9000, R12).astype("<u2")),
    rises("big endian", R12.astype(">u2"), syntax="1.2.840.10008.1.2.2"),
    rises("implicit", R12, syntax="1.2.840.10008.1.2"),
    rises("deflated", R12, syntax="1.2.840.10008.1.2.1.99"),
    rises("bright is sparse", 4095 - R12, PhotometricInterpretation="MONOCHROME1"),
    rises("bright is sparse in small letters", 4095 - R12, PhotometricInterpretation="monochrome1 "),
    rises("and says so twice", 4095 - R12, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"),
    rises("identity", R12, PresentationLUTShape="IDENTITY"),
    # padding
    rises("padding above", banded(R12, 65535), BAND, BitsStored=16, PixelPaddingValue=65535),
    rises("padding above 12 bits", banded(R12, 65535), BAND, PixelPaddingValue=65535),
    rises("padding below", banded(SIGNED, -32768), BAND, BitsStored=16, PixelPaddingValue=-32768),
    rises("padding of the other sign", banded(SIGNED, -2000), BAND, BitsStored=16, PixelPaddingValue=63536),
    rises("padding below a window", banded(SIGNED, -2000), BAND, BitsStored=16, PixelPaddingValue=-2000, **WINDOW),
    rises("padding of 12 signed bits", banded(SIGNED - 2048, -2048), BAND, PixelPaddingValue=-2048),
    rises("padding, bright is sparse", banded(4095 - R12 + 1, 0), BAND, PhotometricInterpretation="MONOCHROME1",
          BitsStored=16, PixelPaddingValue=0),
    rises("padding rescaled", banded(R12, 60000), BAND, BitsStored=16, PixelPaddingValue=60000, RescaleSlope=0.5,
          RescaleIntercept=-9),
    rises("a range", np.where(BAND == 0, NOISE % 40 + 60000, R12).astype("<u2"), BAND, BitsStored=16,
          PixelPaddingValue=60000, PixelPaddingRangeLimit=60039),
    rises("a range downwards", np.where(BAND == 0, -NOISE.astype("i2") % 40 - 900, SIGNED).astype("<i2"), BAND,
          BitsStored=16, PixelPaddingValue=-861, PixelPaddingRangeLimit=-900),
    rises("empty padding", R12, PixelPaddingValue=None),
    rises("padding that does not occur", R12, PixelPaddingValue=5000, BitsStored=16),
    # modality
    rises("empty scale", R12, RescaleSlope=None, RescaleIntercept=None, **WINDOW),
    rises("half a scale", R12, RescaleSlope=2),
    rises("the other half", R12, RescaleIntercept=-5, WindowCenter=2043, WindowWidth=4096),
    rises("slope zero", R12, RescaleSlope=0, RescaleIntercept=0),
    rises("falling slope", 4095 - R12, RescaleSlope=-1, RescaleIntercept=4095),
    rises("falling slope and window", 4095 - R12, RescaleSlope=-1, RescaleIntercept=4095, **WINDOW),
    rises("8 bits scaled to 1", R8, RescaleSlope=1 / 255, RescaleIntercept=0),
    rises("a table", R12, ModalityLUTSequence=table(np.arange(4096) * 3, 0, 16)),
    rises("a table of 12 bits", 4095 - R12, ModalityLUTSequence=table(np.arange(4096)[::-1], 0, 12)),
    rises("a table from below zero", SIGNED - 2048, ModalityLUTSequence=table(np.arange(4096), -2048)),
    rises("an empty table", R12, ModalityLUTSequence=empty_table()),
    # window
    rises("window", R12, **WINDOW),
    rises("window in scaled units", R12, RescaleSlope=0.5, RescaleIntercept=-1000, WindowCenter=24, WindowWidth=2048),
    rises("narrow window", R12, np.clip(RAMP * 4 - 1.5, 0, 1), WindowCenter=2048, WindowWidth=1024),
    rises("width 0", R12, WindowCenter=2048, WindowWidth=0),
    rises("width 1", R12, WindowCenter=2048, WindowWidth=1),
    rises("negative width", R12, WindowCenter=2048, WindowWidth=-4096),
    rises("width 0, exact", R12, WindowCenter=2048, WindowWidth=0, VOILUTFunction="LINEAR_EXACT"),
    rises("exact", R12, WindowCenter=2047.5, WindowWidth=4095, VOILUTFunction="linear_exact"),
    rises("empty window", R12, WindowCenter=None, WindowWidth=None),
    rises("empty function", R12, VOILUTFunction=None, **WINDOW),
    rises("sigmoid", R12, 1 / (1 + np.exp(-4 * (RAMP - 0.5))), VOILUTFunction="SIGMOID", **WINDOW),
    rises("another's window", R12, WindowCenter=60000, WindowWidth=10),
    rises("two windows", R12, WindowCenter=[2048, 100], WindowWidth=[4096, 50]),
    rises("a bad one first", R12, np.clip(RAMP * 4 - 1.5, 0, 1), WindowCenter=[9, 2048], WindowWidth=[0, 1024]),
    rises("two centers, one width", R12, WindowCenter=[2048, 100], WindowWidth=4096),
    rises("no tables", R12, VOILUTSequence=Sequence([])),
    rises("a table without entries", R12, VOILUTSequence=empty_table(), **WINDOW),
    rises("a table for display", R12, RAMP**2, VOILUTSequence=table((np.arange(4096) / 4095) ** 2 * 65535, 0, 16)),
    rises("bright is sparse, 8 bits, window", 255 - R8, PhotometricInterpretation="MONOCHROME1", WindowCenter=128,
          WindowWidth=256),
    # the rest
    rises("one frame", R12, NumberOfFrames=1),
    rises("frames empty", R12, NumberOfFrames=None),
    rises("a hot pixel", np.where(np.arange(48 * 64).reshape(48, 64) == 0, 65535, R12).astype("<u2"), BitsStored=16),
    rises("square by a hair", R12, PixelSpacing=[0.139, 0.1391], ImagerPixelSpacing=[1, 2]),
    rises("spacing empty", R12, PixelSpacing=None, PixelAspectRatio=[1, 1]),
    rises("colours", np.dstack([R8] * 3)),
    rises("colours of 16 bits", np.dstack([R12] * 3).astype("<u2")),
    rises("YBR", np.dstack([R8, np.full_like(R8, 128), np.full_like(R8, 128)]), PhotometricInterpretation="YBR_FULL"),
]  # fmt: skip


@pytest.mark.parametrize(("pixels", "fields", "wanted"), GOOD)
def test_what_is_meant_is_seen(tmp_path, pixels, fields, wanted):
    path = write(tmp_path / "film.dcm", pixels, **fields)
    read = load_radiograph(path)
    assert read.dtype == np.uint8 and read.flags.writeable and image_shape(path) == read.shape == wanted.shape
    wanted = wanted / wanted.max() * 255 if "VOILUTFunction" not in fields else wanted * 255
    if fields.get("VOILUTFunction") == "SIGMOID":
        wanted = (wanted - wanted.min()) * 255 / np.ptp(wanted)
    assert np.abs(read - wanted).mean() < 2.1 and np.corrcoef(read.ravel(), wanted.ravel())[0, 1] > 0.998


FLAT = np.full((48, 64), 2000, "<u2")
BAD = {
    "black": (FLAT * 0, {}, "one value in every pixel"),
    "one value": (FLAT, {}, "one value in every pixel"),
    "one value, sparse": (FLAT * 0, {"PhotometricInterpretation": "MONOCHROME1"}, "one value in every pixel"),
    "padding all over": (FLAT, {"PixelPaddingValue": 2000}, "one value in every pixel"),
    "one value beside padding": (banded(FLAT, 9), {"PixelPaddingValue": 9}, "one value in every pixel"),
    "frames": (np.stack([R12, R12]), {"NumberOfFrames": 2}, "more than one frame"),
    "no polarity": (R12, {"PhotometricInterpretation": None}, "polarity unknown"),
    "both polarities": (R12, {"PresentationLUTShape": "INVERSE"}, "two contradicting polarities"),
    "both, sparse": (
        R12,
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
        "two contradicting polarities",
    ),
    "cut values": (R12, {"BitsStored": 8}, "more bits than the header says"),
    "cut values of 10": (R12 + NOISE % 20, {"BitsStored": 10}, "more bits than the header says"),
    "unsigned called signed": (SIGNED, {"BitsStored": 12}, "more bits than the header says"),
    "cut beside padding": (banded(R12, 65535), {"BitsStored": 8, "PixelPaddingValue": 65535},
                           "more bits than the header says"),
    "high bit": (R12, {"HighBit": 16}, "bits that contradict"),
    "high bit too low": (R12, {"HighBit": 7}, "bits that contradict"),
    "more stored than allocated": (R12, {"BitsStored": 17}, "no DICOM image, or cut"),
    "not square": (R12, {"PixelAspectRatio": [1, 2]}, "pixels that are not square"),
    "not square in mm": (R12, {"ImagerPixelSpacing": [0.2, 0.1]}, "pixels that are not square"),
    "sideways both": (R12, {"PatientOrientation": ["L", "R"]}, "no such orientation"),
    "slope is a word": (R12, {"RescaleSlope": "1,5"}, "no DICOM image, or cut"),
    "short table": (R12, {"VOILUTSequence": table(np.arange(9))}, "no DICOM image, or cut"),
    "HSV": (np.dstack([R8] * 3), {"PhotometricInterpretation": "HSV"}, "no DICOM image, or cut"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_trusted_is_refused_by_reason(tmp_path, name):
    pixels, fields, reason = BAD[name]
    if name == "short table":
        fields["VOILUTSequence"][0].LUTDescriptor = [4096, 0, 16]
    word = fields.get("RescaleSlope")
    path = write(tmp_path / "film.dcm", pixels, **fields | ({"RescaleSlope": "1.50"} if word else {}))
    if word:
        overwrite(path, b"1.50", b"1,50")
    with pytest.raises(DataError, match=r"film\.dcm") as caught:
        load_radiograph(path)
    assert caught.value.reason == reason


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["plain", "segmented", "8 bits in 16"])
def test_a_palette_is_looked_up(tmp_path, bits, kind):
    """The palette falls, so that the indices taken for grey would be the negative."""
    entries = np.arange(256)[::-1] * (257 if bits == 16 and kind != "8 bits in 16" else 1)
    fields: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        fields[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        if kind == "segmented":  # one entry as it is, then a line to the last
            segments = np.array([0, 1, entries[0], 1, 255, entries[-1]], "<u2" if bits == 16 else "u1")
            fields[f"Segmented{colour}PaletteColorLookupTableData"] = segments.tobytes()
        else:
            fields[f"{colour}PaletteColorLookupTableData"] = entries.astype("<u2" if bits == 16 else "u1").tobytes()
    path = write(tmp_path / "film.dcm", 255 - R8, **fields)
    assert np.abs(load_radiograph(path) - RAMP * 255).mean() < 1


def test_colours_of_a_palette_weigh_as_eyes_see_them(tmp_path):
    fields: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, value in (("Red", 255), ("Green", 0), ("Blue", 0)):
        fields[f"{colour}PaletteColorLookupTableDescriptor"] = [2, 0, 8]
        fields[f"{colour}PaletteColorLookupTableData"] = bytes([0, value])
    assert load_radiograph(write(tmp_path / "film.dcm", (R8 > 127).astype("u1"), **fields)).max() == 76


def test_a_palette_that_unfolds_without_end_is_refused(tmp_path):
    segments = np.array([0, 1, 0] + [1, 65535, 9] * 3000, "<u2").tobytes()
    fields: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        fields |= {f"{colour}PaletteColorLookupTableDescriptor": [256, 0, 16],
                   f"Segmented{colour}PaletteColorLookupTableData": segments}  # fmt: skip
    with pytest.raises(DataError, match="segmented palette"):
        load_radiograph(write(tmp_path / "film.dcm", R8, **fields))


CORNER = np.zeros((48, 64), "u1")
CORNER[:8, :8], CORNER[:8, 56:], CORNER[40:, :8] = 100, 200, 50
"""Tells all eight ways to turn it apart: marks at three corners."""

TURNS = {
    ("L", "F"): CORNER,
    ("R", "F"): CORNER[:, ::-1],
    ("L", "H"): CORNER[::-1],
    ("R", "H"): CORNER[::-1, ::-1],
    ("F", "L"): CORNER.T,
    ("F", "R"): CORNER.T[::-1],
    ("H", "L"): CORNER.T[:, ::-1],
    ("H", "R"): CORNER.T[::-1, ::-1],
    ("A", "F"): CORNER,
    ("P", "F"): CORNER,
    ("P", "H"): CORNER[::-1],
    ("", ""): CORNER,
    ("L", ""): CORNER,
    ("LA", "FR"): CORNER,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_a_film_hangs_with_the_left_to_the_right_and_feet_down(tmp_path, orientation):
    """``TURNS`` is what a writer stores who names the directions of its rows and columns."""
    path = write(tmp_path / "film.dcm", np.ascontiguousarray(TURNS[orientation]), PatientOrientation=[*orientation])
    assert np.array_equal(load_radiograph(path), CORNER)
    if TURNS[orientation] is CORNER:
        assert np.array_equal(load_radiograph(path, places=True), CORNER)
    else:  # boxes and masks are told in stored pixels
        with pytest.raises(DataError) as caught:
            load_radiograph(path, places=True)
        assert caught.value.reason == "stored turned, in a task with places"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xd8\xff\xe0", "JPEG; rename"),
        (b"\x89PNG\r\n", "PNG; rename"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"", "cannot"),
    ],
)
def test_other_files_under_the_name_of_dicom(tmp_path, content, words):
    (tmp_path / "film.dcm").write_bytes(content + bytes(300) if content else b"")
    for read in (load_radiograph, dicom_shape):
        with pytest.raises(DataError, match=words):
            read(tmp_path / "film.dcm")


def test_compressed_pixels_are_decoded_within_their_frame(tmp_path):
    import pydicom
    from pydicom.uid import RLELossless

    dataset = pydicom.dcmread(write(tmp_path / "film.dcm", R12))
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "film.dcm")
    assert np.abs(load_radiograph(tmp_path / "film.dcm") - RAMP * 255).mean() < 1


def test_absurd_sizes_and_a_deflated_bomb_end_soon(tmp_path, monkeypatch):
    path = write(tmp_path / "film.dcm", R12)
    monkeypatch.setenv("MEDGRAFT_MAX_PIXELS", "3071")
    with pytest.raises(DataError, match="MEDGRAFT_MAX_PIXELS"):
        load_radiograph(path)
    monkeypatch.delenv("MEDGRAFT_MAX_PIXELS")
    code = """
import resource, sys, zlib
from pathlib import Path
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
from medgraft.benchmarks.cohorts.images.load import load_radiograph, image_shape
from medgraft.errors import DataError
path = Path(sys.argv[1]); content = path.read_bytes()
begin = 128 + 4 + 12 + int.from_bytes(content[140:144], "little")
pack = zlib.compressobj(9, wbits=-15)
with path.open("wb") as out:
    out.write(content[:begin])
    for _ in range(100): out.write(pack.compress(bytes(1 << 20)))
    out.write(pack.flush())
for read in (load_radiograph, image_shape):
    try: read(path)
    except DataError as error: print(error)
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) >> 10)
"""
    deflated = write(tmp_path / "bomb.dcm", R12, syntax="1.2.840.10008.1.2.1.99")
    done = subprocess.run([sys.executable, "-c", code, str(deflated)], capture_output=True, text=True, check=True)
    *sentences, peak = done.stdout.splitlines()
    assert len(sentences) == 2 and all("MEDGRAFT_MAX_RATIO" in sentence for sentence in sentences)
    assert int(peak) < 1024


def test_a_field_that_claims_gigabytes_reserves_none_of_it(tmp_path):
    path, size = write(tmp_path / "film.dcm", R12), R12.nbytes.to_bytes(4, "little")
    overwrite(path, b"OW\0\0" + size, b"OW\0\0" + (0xFFFFFFF0).to_bytes(4, "little"))
    path.write_bytes(path.read_bytes()[:-100])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="cannot be read"):
        load_radiograph(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10
