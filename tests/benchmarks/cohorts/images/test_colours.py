"""Pictures in colour: every mode gives the same red, green and blue, and grey ones are what they are as grey."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import R8, R12, RAMP, write
from PIL import Image

from medgraft.benchmarks.cohorts.images.load import load_photograph, load_radiograph
from medgraft.benchmarks.cohorts.images.pictures import load_colours
from medgraft.errors import DataError
from medgraft.modalities.image import luminance

COLOURS = np.dstack([R8, 255 - R8, np.full_like(R8, 40)])
"""Red to the right, green to the left, a little blue."""

PALETTE = np.arange(64, dtype=np.uint8)[None].repeat(48, 0)
"""A column number each, under the colours of its column."""


def palette_image() -> Image.Image:
    image = Image.fromarray(PALETTE)
    image.putpalette(COLOURS[0].tobytes() + bytes(3 * 192))
    return image


def layered(*bands: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack(bands))


def deep_png(path: Path, pixels: np.ndarray) -> Path:
    """A PNG of 16 bits a colour ``[H, W, 3]``, which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2")))
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    return path


GOOD: dict[str, tuple[str, Image.Image, np.ndarray, dict[str, Any], float]] = {
    "PNG": ("a.png", Image.fromarray(COLOURS), COLOURS, {}, 0),
    "palette": ("a.png", palette_image(), COLOURS, {}, 0),
    "palette, one entry clear": ("a.png", palette_image(), COLOURS * (PALETTE != 9)[..., None],
                                 {"transparency": 9}, 0),
    "opaque": ("a.png", layered(COLOURS, np.full_like(R8, 255)), COLOURS, {}, 0),
    "half clear": ("a.png", layered(COLOURS, np.full_like(R8, 128)), COLOURS * (128 / 255), {}, 0.5),
    "a channel never filled": ("a.png", layered(COLOURS, R8 * 0), COLOURS, {}, 0),
    "one colour clear": ("a.png", Image.fromarray(np.where((PALETTE == 9)[..., None], (1, 2, 3), COLOURS).astype("u1")),
                         COLOURS * (PALETTE != 9)[..., None], {"transparency": (1, 2, 3)}, 0),
    "JPEG": ("a.jpg", Image.fromarray(COLOURS), COLOURS, {"quality": 95, "subsampling": 0}, 2),
    "CMYK": ("a.jpg", Image.fromarray(COLOURS).convert("CMYK"), COLOURS, {"quality": 95}, 3),
    "TIFF": ("a.tif", Image.fromarray(COLOURS), COLOURS, {"compression": "tiff_lzw"}, 0),
    "TIFF, CMYK": ("a.tif", Image.fromarray(COLOURS).convert("CMYK"), COLOURS, {}, 0),
    "TIFF, YCbCr": ("a.tif", Image.fromarray(COLOURS).convert("YCbCr"), COLOURS, {"compression": "tiff_lzw"}, 2),
    "TIFF, RGBA": ("a.tif", layered(COLOURS, np.full_like(R8, 255)), COLOURS, {}, 0),
    "grey": ("a.png", Image.fromarray(R8), np.dstack([R8] * 3), {}, 0),
    "16 bits of grey": ("a.png", Image.fromarray((RAMP * 65535).astype("<u2")), np.dstack([RAMP * 255] * 3), {}, 0.6),
    "one bit": ("a.png", Image.fromarray(R8 > 127), np.dstack([(R8 > 127) * 255] * 3), {}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_every_mode_gives_the_same_colours(tmp_path, name):
    file, image, wanted, how, apart = GOOD[name]
    image.save(tmp_path / file, **how)
    read = load_photograph(tmp_path / file)
    assert read.dtype == np.uint8 and read.shape == COLOURS.shape and read.flags.writeable
    off = np.abs(read - np.asarray(wanted, float))
    assert off.mean() <= apart and off.max() <= 4 * apart, (off.mean(), off.max())
    # The brightness of the colours is what is read as grey; alpha is applied before or behind it, which rounds twice.
    assert np.abs(luminance(read).astype(int) - load_radiograph(tmp_path / file)).max() <= ("clear" in name)


@pytest.mark.parametrize("code", range(1, 9))
def test_the_orientation_of_a_camera_is_honoured(tmp_path, code):
    turns = {1: COLOURS, 2: COLOURS[:, ::-1], 3: COLOURS[::-1, ::-1], 4: COLOURS[::-1]}
    across = COLOURS.swapaxes(0, 1)
    turns |= {5: across, 6: across[::-1], 7: across[::-1, ::-1], 8: across[:, ::-1]}
    exif = Image.Exif()
    exif[274] = code
    Image.fromarray(np.ascontiguousarray(turns[code])).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load_photograph(tmp_path / "a.png"), COLOURS)


def test_sixteen_bits_a_colour_keep_the_upper_eight_and_twelve_are_refused(tmp_path):
    deep = COLOURS.astype(np.uint16) * 256 + 77
    assert np.array_equal(load_photograph(deep_png(tmp_path / "a.png", deep)), COLOURS)
    with pytest.raises(DataError, match="with 8 bits a colour"):
        load_photograph(deep_png(tmp_path / "b.png", deep >> 4))


@pytest.mark.parametrize("kind", ["RGB", "YBR_FULL"])
def test_a_dicom_photograph_keeps_its_colours(tmp_path, kind):
    pixels = COLOURS if kind == "RGB" else np.asarray(Image.fromarray(COLOURS).convert("YCbCr"))
    path = write(tmp_path / "a.dcm", pixels, PhotometricInterpretation=kind)
    read = load_photograph(path)
    assert read.shape == COLOURS.shape and np.abs(read.astype(int) - COLOURS).max() <= (0 if kind == "RGB" else 3)
    assert np.abs(luminance(read).astype(int) - load_radiograph(path)).max() <= 1


def test_a_grey_dicom_is_the_same_three_times(tmp_path):
    path = write(tmp_path / "a.dcm", R12)
    assert np.array_equal(load_photograph(path), np.dstack([load_radiograph(path)] * 3))


def test_what_cannot_be_used_is_said(tmp_path):
    red = np.zeros((8, 9, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(tmp_path / "red.png")
    with pytest.raises(DataError, match=r"is \[200, 0, 0\] in every pixel") as caught:
        load_photograph(tmp_path / "red.png")
    assert caught.value.reason == "one value in every pixel"
    Image.fromarray(COLOURS).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:90])
    with pytest.raises(DataError, match="missing or damaged"):
        load_colours(tmp_path / "cut.png")
    frames = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    frames[0].save(tmp_path / "many.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="2 frames"):
        load_photograph(tmp_path / "many.tif")
