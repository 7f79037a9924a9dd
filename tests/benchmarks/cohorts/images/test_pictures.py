"""Pictures: every mode and depth gives the same grey, what is damaged is noticed, and nothing else is opened."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import BAND, R8, R12, RAMP, write
from PIL import Image

from medgraft.benchmarks.cohorts.images.load import image_shape, load_radiograph
from medgraft.benchmarks.cohorts.images.pictures import load_image
from medgraft.errors import DataError

R16 = (RAMP * 65535).astype("<u2")
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)


def deep_colour(path: Path, pixels: np.ndarray) -> Path:
    """A PNG of 16 bits a colour, which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = np.repeat(pixels[..., None], 3, -1).astype(">u2")
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    return path


def falling_palette() -> Image.Image:
    """Indices of the negative under a palette that falls."""
    image = Image.fromarray(255 - R8).convert("P")
    image.putpalette([grey for index in range(256) for grey in (255 - index,) * 3])
    return image


def layered(*bands: np.ndarray) -> Image.Image:
    """An image of several bands."""
    return Image.fromarray(np.dstack(bands))


CLEAR = np.where(BAND == 0, 0, 255).astype("u1")
NOISY = np.where(BAND == 0, NOISE, R8).astype("u1")
"""The ramp with noise where it is transparent."""

GOOD: dict[str, tuple[str, Image.Image, np.ndarray, dict[str, Any]]] = {
    "grey": ("a.png", Image.fromarray(R8), RAMP, {}),
    "12 bits in 16": ("a.png", Image.fromarray(R12), RAMP, {}),
    "13 bits in 16": ("a.png", Image.fromarray(R12 * 2), RAMP, {}),
    "16 bits": ("a.png", Image.fromarray(R16), RAMP, {}),
    "8 bits in 16": ("a.png", Image.fromarray(R8.astype("<u2")), RAMP, {}),
    "16 bits above an offset": ("a.png", Image.fromarray(R12 + 1000), RAMP, {}),
    "a hot pixel": ("a.png", Image.fromarray(np.where(np.indices(R12.shape).sum(0) == 0, 65535, R12)), RAMP, {}),
    "16 bits, one value clear": ("a.png", Image.fromarray(np.where(BAND == 0, 60000, R12).astype("u2")), BAND,
                                 {"transparency": 60000}),
    "one grey clear": ("a.png", Image.fromarray(np.where(BAND == 0, 7, np.maximum(R8, 8)).astype("u1")), BAND,
                       {"transparency": 7}),
    "colours": ("a.png", layered(R8, R8, R8), RAMP, {}),
    "opaque": ("a.png", layered(R8, R8, R8, np.full_like(R8, 255)), RAMP, {}),
    "clear": ("a.png", layered(NOISY, NOISY, NOISY, CLEAR), BAND, {}),
    "clear grey": ("a.png", Image.merge("LA", [Image.fromarray(NOISY), Image.fromarray(CLEAR)]), BAND, {}),
    "half clear": ("a.png", layered(R8, R8, R8, np.full_like(R8, 128)), RAMP / 2, {}),
    "a channel never filled": ("a.png", layered(R8, R8, R8, R8 * 0), RAMP, {}),
    "palette": ("a.png", falling_palette(), RAMP, {}),
    "palette, one entry clear": ("a.png", falling_palette(), RAMP, {"transparency": 255}),
    "one bit": ("a.png", Image.fromarray(R8 > 127), (R8 > 127) * 1.0, {}),
    "CMYK": ("a.jpg", Image.fromarray(R8).convert("CMYK"), RAMP, {"quality": 95}),
    "JPEG": ("a.jpg", Image.fromarray(R8), RAMP, {"quality": 95}),
    "JPEG called PNG": ("a.png", Image.fromarray(R8), RAMP, {"format": "JPEG", "quality": 95}),
    "PNG called JPEG": ("a.jpeg", Image.fromarray(R8), RAMP, {"format": "PNG"}),
    "TIFF": ("a.tif", Image.fromarray(R8), RAMP, {}),
    "TIFF packed": ("a.tif", Image.fromarray(R12), RAMP, {"compression": "tiff_lzw"}),
    "TIFF 12 bits": ("a.tif", Image.fromarray(R12), RAMP, {}),
    "TIFF big endian": ("a.tif", Image.fromarray(R12.astype(">u2")), RAMP, {}),
    "TIFF 32 bits": ("a.tif", Image.fromarray(R12.astype("i4") * 1000 - 9), RAMP, {}),
    "TIFF floats": ("a.tif", Image.fromarray(RAMP.astype("f4") * 3 - 1), RAMP, {}),
    "TIFF, white is zero": ("a.tif", Image.fromarray(255 - R8), RAMP, {}),
    "TIFF 16 bits, white is zero": ("a.tif", Image.fromarray(4095 - R12), RAMP, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_every_mode_and_depth_gives_the_same_grey(tmp_path, name):
    file, image, wanted, how = GOOD[name]
    if "white is zero" in name:  # which Pillow does not write
        image.save(tmp_path / file)
        content = bytearray((tmp_path / file).read_bytes())
        entry = content.index(struct.pack("<HHI", 262, 3, 1))
        content[entry + 8 : entry + 10] = b"\0\0"
        (tmp_path / file).write_bytes(content)
    else:
        image.save(tmp_path / file, **how)
    read = load_radiograph(tmp_path / file)
    assert read.dtype == np.uint8 and read.flags.writeable and image_shape(tmp_path / file) == read.shape
    assert np.abs(read - wanted * 255).mean() < 2 and np.corrcoef(read.ravel(), wanted.ravel())[0, 1] > 0.998


@pytest.mark.parametrize("format", ["png", "jpg", "tif"])
@pytest.mark.parametrize("code", range(9))
def test_the_orientation_of_a_camera_is_honoured(tmp_path, code, format):
    """The stored picture of each code, from the definition of where its first row and column lie."""
    stored = {0: R8, 1: R8, 2: R8[:, ::-1], 3: R8[::-1, ::-1], 4: R8[::-1]}
    stored |= {5: R8.T, 6: R8.T[::-1], 7: R8.T[::-1, ::-1], 8: R8.T[:, ::-1]}
    path, exif = tmp_path / f"a.{format}", Image.Exif()
    exif[274] = code
    how: dict[str, Any] = {"quality": 95} if format == "jpg" else {}
    Image.fromarray(np.ascontiguousarray(stored[code])).save(path, exif=exif, **how)
    if format == "tif" and code > 4:
        with pytest.raises(DataError, match="on its side"):
            load_radiograph(path)
        return
    read = load_radiograph(path)
    assert read.shape == R8.shape and np.abs(read.astype(int) - R8).mean() < 1
    if code in (0, 1):
        assert load_radiograph(path, places=True).shape == R8.shape
    else:
        with pytest.raises(DataError) as caught:
            load_radiograph(path, places=True)
        assert caught.value.reason == "stored turned, in a task with places"


def test_twelve_bits_of_a_colour_are_refused_and_sixteen_are_not(tmp_path):
    with pytest.raises(DataError, match="16 bits a colour"):
        load_radiograph(deep_colour(tmp_path / "a.png", R12))
    assert np.abs(load_radiograph(deep_colour(tmp_path / "b.png", R16)) - RAMP * 255).mean() < 1


def test_no_flipped_bit_of_a_png_passes(tmp_path):
    path, rng = tmp_path / "a.png", np.random.default_rng(0)
    Image.fromarray(NOISE).save(path)
    content = path.read_bytes()
    for at in rng.integers(33, len(content) - 12, 60).tolist():  # behind the header, before the end
        wrong = bytearray(content)
        wrong[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(wrong)
        with pytest.raises(DataError, match="cannot be read"):
            load_radiograph(path)


def test_one_value_is_refused_as_a_film_and_read_as_an_image(tmp_path):
    for name, image in {
        "black.png": Image.new("L", (9, 8)),
        "white.jpg": Image.new("L", (9, 8), 255),
        "deep.png": Image.fromarray(np.full((8, 9), 40_000, np.uint16)),
        "clear.png": Image.new("LA", (9, 8), (0, 255)),
    }.items():
        image.save(tmp_path / name)
        assert load_image(tmp_path / name).shape == (8, 9)
        with pytest.raises(DataError) as caught:
            load_radiograph(tmp_path / name)
        assert caught.value.reason == "one value in every pixel"


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n(x) (w) file\n%%EOF\n"


@pytest.mark.parametrize("kind", ["EPS", "GIF", "BMP", "PPM", "ICO", "PDF", "WEBP", "TGA", "PCX", "SGI", "JPEG2000"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_nothing_but_the_formats_of_the_cohorts_is_opened(tmp_path, monkeypatch, kind, suffix):
    def never(*arguments: Any, **how: Any) -> Any:
        raise AssertionError("another program was asked")

    monkeypatch.setattr("subprocess.Popen", never)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", never)
    path = tmp_path / f"a{suffix}"
    if kind == "EPS":
        path.write_bytes(POSTSCRIPT)
    else:
        Image.fromarray(R8).convert("RGB").save(path, kind)
    for read in (load_radiograph, image_shape):
        with pytest.raises(DataError, match="cannot be read"):
            read(path)


def test_several_frames_a_dicom_file_and_too_many_pixels(tmp_path, monkeypatch):
    frames = [Image.fromarray(R8), Image.fromarray(255 - R8)]
    for name in ("a.tif", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(DataError) as caught:
            load_radiograph(tmp_path / name)
        assert caught.value.reason == "more than one frame"
    with pytest.raises(DataError, match="DICOM file; rename"):
        load_radiograph(write(tmp_path / "b.png", R12))
    frames[0].save(tmp_path / "c.png")
    monkeypatch.setenv("MEDGRAFT_MAX_PIXELS", "3071")
    with pytest.raises(DataError, match="MEDGRAFT_MAX_PIXELS"):
        load_radiograph(tmp_path / "c.png")
    own = Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError):
        image_shape(tmp_path / "c.png")
    assert own == Image.MAX_IMAGE_PIXELS is not None
    content = bytearray((tmp_path / "c.png").read_bytes())
    content[16:24] = struct.pack(">II", 60000, 60000)  # 3600 million pixels, with the right checksum
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    (tmp_path / "d.png").write_bytes(content)
    monkeypatch.delenv("MEDGRAFT_MAX_PIXELS")
    with pytest.raises(DataError, match="MEDGRAFT_MAX_PIXELS"):
        load_radiograph(tmp_path / "d.png")
