"""Fields of a DICOM header as plain numbers and words, empty ones as if they were not there."""

from __future__ import annotations

import math
from typing import Any


def numbers(dataset: Any, name: str) -> list[float]:
    """Finite numbers of a field, in order; none where it is missing or empty.

    Raises:
        ValueError: It holds something that is no number.
    """
    value = dataset.get(name)
    if value is None or value == "":
        return []
    if isinstance(value, bytes):  # a field of unknown type, as private conversions leave it
        return [float(int.from_bytes(value[:2], "little"))] if len(value) >= 2 else []
    items = [value] if isinstance(value, str | int | float) or not hasattr(value, "__iter__") else list(value)
    values = [float(item) for item in items if item is not None and str(item).strip()]
    return [number for number in values if math.isfinite(number)]


def first_number(dataset: Any, name: str) -> float | None:
    """The first finite number of a field, ``None`` without one.

    Raises:
        ValueError: It holds something that is no number.
    """
    return next(iter(numbers(dataset, name)), None)


def word(dataset: Any, name: str) -> str:
    """A field of one or several code words, in capitals, parts joined by a backslash; empty where there is none."""
    value = dataset.get(name)
    if value is None:
        return ""
    items = [value] if isinstance(value, str) else list(value)
    return "\\".join(str(item).strip().upper() for item in items)


def lookup_of(dataset: Any, name: str) -> Any:
    """First item of a sequence that holds a whole lookup table, ``None`` where none does."""
    for item in dataset.get(name) or ():
        if len(numbers(item, "LUTDescriptor")) == 3 and item.get("LUTData"):
            return item
    return None
