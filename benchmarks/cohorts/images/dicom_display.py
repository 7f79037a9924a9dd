"""From stored values to what a DICOM file means and how it is to be shown: modality, window, polarity, orientation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.cohorts.images.dicom_fields import first_number, lookup_of, numbers, word
from medgraft.errors import DataError

_HANGING = {("L", "F"): 1, ("R", "F"): 2, ("R", "H"): 3, ("L", "H"): 4, ("F", "L"): 5, ("F", "R"): 6, ("H", "R"): 7}
_HANGING |= {("H", "L"): 8}
"""Patient's direction along a row and down a column -> orientation code that makes the row run left and the column to
the feet."""


def after_modality(dataset: Any, values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Values ``[H, W]`` after the modality transform (C.11.1), and whether it changed their scale.

    A slope that is missing, empty or zero is no scaling, an intercept that is missing or empty no shift.
    """
    table = lookup_of(dataset, "ModalityLUTSequence")
    if table is not None:
        return looked_up(dataset, table, values), True
    slope = first_number(dataset, "RescaleSlope") or 1.0
    intercept = first_number(dataset, "RescaleIntercept") or 0.0
    if (slope, intercept) != (1.0, 0.0):
        values = values.astype(np.float64) * slope + intercept
    return values, abs(slope) != 1


def after_display(dataset: Any, values: np.ndarray, ignored: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Values ``[H, W]`` after the first table or window that can be applied (C.11.2), and whether a window was.

    A window whose width is below 1 (0 for the exact and the sigmoid function) is none. One in which no value lies would
    leave black and white or nothing at all; it is another picture's, and left out.

    Returns:
        Values as a table has them, or 0..255 by a window.
    """
    table = lookup_of(dataset, "VOILUTSequence")
    if table is not None:
        return looked_up(dataset, table, values), False
    function = word(dataset, "VOILUTFunction")
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    exact = function in ("LINEAR_EXACT", "SIGMOID")
    for center, width in zip(centers, widths, strict=False):
        if width <= 0 if exact else width < 1:
            continue
        if not exact:  # C.11.2.1.2.1
            center, width = center - 0.5, width - 1
        inside = (values > center - width / 2) & (values < center + width / 2)
        if (inside if ignored is None else inside & ~ignored).any():
            place = (values.astype(np.float64, copy=False) - center) / width
            return (255 / (1 + np.exp(-4 * place)) if function == "SIGMOID" else _ramp(place)), True
    return values, False


def _ramp(place: np.ndarray) -> np.ndarray:
    place += 0.5
    np.clip(place, 0.0, 1.0, out=place)
    place *= 255
    return place


def looked_up(dataset: Any, table: Any, values: np.ndarray) -> np.ndarray:
    """Values through a lookup table; those outside take its first or last entry.

    Args:
        dataset: The whole, for the order of bytes.
        table: Item with ``LUTDescriptor`` (entries, first value, bits) and ``LUTData``.
        values: ``[H, W]``.

    Raises:
        ValueError: The table has fewer entries than it says.
    """
    count, first, _ = (int(number) for number in numbers(table, "LUTDescriptor"))
    count = count or 1 << 16
    if first > 0x7FFF and values.min() < 0:
        first -= 1 << 16  # written without its sign
    data = table.LUTData
    if isinstance(data, bytes):
        little = dataset.original_encoding[1] is not False
        wide = len(data) >= 2 * count
        entries = np.frombuffer(data[: count * (2 if wide else 1)], ("<u2" if little else ">u2") if wide else "u1")
    else:
        entries = np.atleast_1d(np.asarray(data))
    if len(entries) < count:
        raise ValueError(f"a lookup table has {len(entries)} of its {count} entries")
    place = np.clip(np.rint(values).astype(np.int64) - first, 0, count - 1)
    return entries[place].astype(np.float64)


def is_inverted(path: str | Path, dataset: Any, kind: str) -> bool:
    """True where low values are bright.

    Raises:
        DataError: ``PresentationLUTShape`` says the opposite of ``PhotometricInterpretation`` (C.8.11.3.1.2).
    """
    shape = word(dataset, "PresentationLUTShape")
    inverted = kind == "MONOCHROME1"
    if shape in ("INVERSE", "IDENTITY") and (shape == "INVERSE") != inverted:
        raise DataError(
            f"{path} is {kind} with PresentationLUTShape {shape}: dense is bright by one, dark by the other; "
            "export it again",
            "two contradicting polarities",
        )
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"{kind} is no photometric interpretation")
    return inverted


def hanging(path: str | Path, dataset: Any) -> int:
    """Orientation code (as TIFF's) that brings the film upright: the patient's left to the right, feet down.

    A frontal film says where its rows and columns run by L, R, F and H. A lateral one has A or P in place of L or R,
    and is turned only where its columns run to the head. What is empty or no direction of a film says nothing.

    Raises:
        DataError: Rows and columns run along the same axis of the patient.
    """
    parts = [part.strip()[:1] for part in word(dataset, "PatientOrientation").split("\\")]
    if len(parts) != 2 or not all(part in "LRFHAP" and part for part in parts):
        return 1
    axes = [next(axis for axis in ("LR", "FH", "AP") if part in axis) for part in parts]
    if axes[0] == axes[1]:
        raise DataError(
            f"{path} runs to {parts[0]} along both rows and columns, or back; export it again",
            "no such orientation",
        )
    row, column = parts
    if "AP" in axes and "FH" in axes:  # a lateral film may look either way
        row, column = ("L" if part in "AP" else part for part in parts)
    return _HANGING.get((row, column), 1)
