"""Radiographs as files: what DICOM says of its values is respected, and what cannot be read is one clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from medgraft.benchmarks.cohorts.images.load import image_shape, load_radiograph, squared
from medgraft.benchmarks.phantoms.chest.dicom import write_dicom
from medgraft.errors import DataError

IMAGE = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.dcm"
    write_dicom(path, IMAGE, name="2.25.1", sex="F", age=61, view="AP")
    return path


def change(path: Path, **fields: object) -> Path:
    dataset = pydicom.dcmread(path)
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def test_eight_bit_values_are_read_as_they_were_written(film):
    assert np.array_equal(load_radiograph(film), IMAGE) and image_shape(film) == (3, 4)


def test_monochrome1_is_turned_round(film):
    change(film, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(load_radiograph(film), 255 - IMAGE)


def test_more_bits_are_stretched_to_the_range(film):
    values = np.linspace(0, 4095, 12).astype(np.uint16).reshape(3, 4)
    change(film, BitsAllocated=16, BitsStored=12, HighBit=11, PixelData=values.tobytes())
    read = load_radiograph(film)
    assert (read.min(), read.max()) == (0, 255) and np.array_equal(read.argsort(axis=None), np.arange(12))


def test_a_falling_rescale_slope_turns_the_order(film):
    change(film, RescaleSlope="-1", RescaleIntercept="255", RescaleType="US")
    assert np.array_equal(load_radiograph(film), 255 - IMAGE)


@pytest.mark.parametrize("damage", ["text", "cut", "syntax", "frames"])
def test_what_does_not_decode_is_an_error(film, damage):
    if damage == "text":
        film.write_text("not a film")
    elif damage == "cut":
        film.write_bytes(film.read_bytes()[:-6])
    elif damage == "syntax":  # claims JPEG 2000 where there is none
        film.write_bytes(film.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.90"[:20]))
    else:
        change(film, NumberOfFrames=2, PixelData=IMAGE.tobytes() * 2)
    with pytest.raises(DataError, match=r"film\.dcm"):
        load_radiograph(film)


def test_padding_to_a_square_keeps_the_image_in_its_corner():
    padded = squared(IMAGE)
    assert padded.shape == (4, 4) and np.array_equal(padded[:3], IMAGE) and not padded[3].any()
