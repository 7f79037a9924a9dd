"""What a DICOM file stores in its pixels: the bits that count, which of them are padding, and colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medgraft.benchmarks.cohorts.images.dicom_fields import first_number, numbers
from medgraft.errors import DataError

LUT_ENTRIES = 1 << 16


class Stored(NamedTuple):
    """Stored values.

    Attributes:
        values: ``[H, W]`` integers (floats of a file that has floats), the bits that count, with their sign.
        cells: The same with all bits of their cells, as padding may be written.
        depth: How many bits count.
    """

    values: np.ndarray
    cells: np.ndarray
    depth: int


def stored_values(path: str | Path, dataset: Any) -> Stored:
    """Values of a grey image before any transform.

    pydicom leaves ``HighBit`` aside and drops what is above ``BitsStored``; where that is part of the value, because
    the header is wrong, a picture wraps around many times.

    Raises:
        DataError: The header contradicts itself or the values.
    """
    allocated, depth = int(dataset.BitsAllocated), int(first_number(dataset, "BitsStored") or dataset.BitsAllocated)
    native = not dataset.file_meta.TransferSyntaxUID.is_compressed
    dataset.pixel_array_options(correct_unused_bits=not native)
    cells = np.asarray(dataset.pixel_array)
    if cells.ndim != 2 or not cells.size:
        raise DataError(f"{path} holds an array of shape {cells.shape}, not one grey image; take its row out")
    if cells.dtype.kind == "f" or not native or allocated == 1:
        return Stored(cells, cells, depth)
    high = first_number(dataset, "HighBit")
    high = depth - 1 if high is None else int(high)
    if not 1 <= depth <= allocated or not depth - 1 <= high < allocated:
        raise DataError(
            f"{path} has {depth} bits up to bit {high} in cells of {allocated}, which cannot be", "bits that contradict"
        )
    shift = high + 1 - depth
    signed = cells.dtype.kind == "i"
    most = 1 << (depth + shift - signed)
    if shift == 0 and (-most if signed else 0) <= int(cells.min()) and int(cells.max()) < most:
        return Stored(cells, cells, depth)  # nothing stands above, as in nearly every file
    values = _bits(cells, shift, depth)
    _check_bits(path, dataset, cells, values, shift, depth)
    return Stored(values, cells, depth)


def _bits(cells: np.ndarray, shift: int, depth: int) -> np.ndarray:
    """The bits that count, with the sign of the cells' type."""
    unsigned = cells.view(cells.dtype.str.replace("i", "u"))
    kept = ((unsigned >> shift) & ((1 << depth) - 1)).astype(np.int64)
    return np.where(kept >> (depth - 1), kept - (1 << depth), kept) if cells.dtype.kind == "i" else kept


def _check_bits(path: str | Path, dataset: Any, cells: np.ndarray, values: np.ndarray, shift: int, depth: int) -> None:
    """Refuses values that go on above the bits that count.

    What stands above may be overlays of old files, which are dropped, or the rest of values that the header cuts. Where
    a step between neighbours carries over into the bits above, it is small if the bits are one number, and as large as
    the lowest bit above if they are not.
    """
    whole = cells.astype(np.int64) >> shift
    above = whole - values
    padding = padding_of(dataset, Stored(values, cells, depth))
    steps = []
    for axis in (0, 1):
        carries = np.diff(above, axis=axis) != 0
        if padding is not None:
            near = padding.astype(np.int8)
            carries &= (np.diff(near, axis=axis) == 0) & ~padding.take(range(near.shape[axis] - 1), axis)
        steps.append(np.abs(np.diff(whole, axis=axis))[carries])
    bits = np.concatenate(steps)
    if bits.size and float(np.median(bits)) < 1 << (depth - 1):
        raise DataError(
            f"{path} has {depth} bits by its header (BitsStored) and values of more bits, which would wrap around",
            "more bits than the header says",
        )


def padding_of(dataset: Any, stored: Stored) -> np.ndarray | None:
    """Where pixels are padding (C.7.5.1.1.2), boolean ``[H, W]``; ``None`` without any.

    The value may be written with or without the sign of the pixels, and with all bits of a cell or those that count.
    """
    value = first_number(dataset, "PixelPaddingValue")
    value = first_number(dataset, "FloatPixelPaddingValue") if value is None else value
    if value is None:
        return None
    end = first_number(dataset, "PixelPaddingRangeLimit")
    ends = [value, value if end is None else end]
    if stored.cells.dtype.kind == "f":
        mask = (stored.cells >= min(ends)) & (stored.cells <= max(ends))
    else:
        size = 8 * stored.cells.dtype.itemsize
        signed = stored.cells.dtype.kind == "i"
        low, high = sorted(_in_range(int(each), size, signed) for each in ends)
        mask = (stored.cells >= low) & (stored.cells <= high)
        if stored.values is not stored.cells:
            mask |= (stored.values >= low) & (stored.values <= high)
    return mask if mask.any() else None


def _in_range(value: int, size: int, signed: bool) -> int:
    """The same bits as a number with or without a sign."""
    value &= (1 << size) - 1
    return value - (1 << size) if signed and value >> (size - 1) else value


def as_colours(dataset: Any, kind: str) -> np.ndarray:
    """Red, green and blue ``[H, W, 3]`` of a colour image or of one with a palette.

    Raises:
        ValueError: The palette is damaged, or the array is no image of colours.
    """
    if kind != "PALETTE COLOR":
        if not kind.startswith(("RGB", "YBR_")):
            raise ValueError(f"{kind} is no photometric interpretation of a radiograph")
        colours = np.asarray(dataset.pixel_array)  # pydicom turns YBR into RGB
        if colours.ndim != 3 or colours.shape[-1] != 3:
            raise ValueError(f"an array of shape {colours.shape} is no image of kind {kind}")
        return colours
    from pydicom.pixels.processing import apply_color_lut

    _check_segments(dataset)
    colours = np.asarray(apply_color_lut(dataset.pixel_array, dataset))[..., :3]
    if colours.dtype == np.uint8:
        return colours
    deep = int(colours.max(initial=0)) > 255  # tables of 16 bits may hold values of 8
    return (colours // 257 if deep else colours).astype(np.uint8)


def _check_segments(dataset: Any) -> None:
    """Refuses a segmented palette (C.7.9.2) that unfolds to more entries than a palette has."""
    for colour in ("Red", "Green", "Blue", "Alpha"):
        content = dataset.get(f"Segmented{colour}PaletteColorLookupTableData")
        if not content:
            continue
        wide = numbers(dataset, f"{colour}PaletteColorLookupTableDescriptor")[2:] == [16.0]
        data = np.frombuffer(content[: len(content) // 2 * 2] if wide else content, "<u2" if wide else "u1").tolist()
        at, entries = 0, 0
        while at + 1 < len(data):
            kind, length = data[at : at + 2]
            entries += length
            if kind == 2 or entries > LUT_ENTRIES:  # repeated segments, which can repeat one another
                raise ValueError("its segmented palette repeats segments or is longer than a palette can be")
            at += 2 + (length if kind == 0 else 1)
