"""The arrays of a cache entry, written batch by batch: real numbers in half precision where they fit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from medgraft.features import Features

logger = logging.getLogger(__name__)

META = "meta.json"
FEATURE_ARRAYS = ("tokens", "pooled", "cls_scores", "cls_probs", "mask")
WIDENED_AT_ONCE = 32
"""Rows that are rewritten in one step."""


def stored(values: Tensor, *, wide: bool = False) -> np.ndarray:
    """Values in the type that an entry keeps them in.

    Args:
        values: A tensor of any shape in the CPU's memory.
        wide: Real numbers in ``float32``, also where half precision would do.

    Returns:
        The same shape: real numbers as ``float16``, or all as ``float32`` where half precision would make one of them
        infinite; token ids as ``int32``; ``bool`` as it is. Infinities and NaN that are there stay.

    Example:
        >>> stored(torch.tensor([7.0, float("-inf")])).dtype, stored(torch.tensor([7.0, 1e5])).dtype
        (dtype('float16'), dtype('float32'))
    """
    if values.dtype == torch.bool:
        return values.numpy()
    if not values.is_floating_point():
        return values.to(torch.int32).numpy()
    half = values.to(torch.float16)
    beyond = half.isinf()
    if wide or (beyond.any() and (beyond & values.isfinite()).any()):
        return values.to(torch.float32).numpy()
    return half.numpy()


class Column:
    """A ``.npy`` file of ``count`` rows, begun when its first row is known; rows left out are zero.

    From the first batch on that half precision cannot hold, the whole file is ``float32``; rows that came before it
    keep their rounding to half precision. Written and not mapped: on a full disk a write is an error, and a touched
    page the end of the process.

    Attributes:
        wide: It holds ``float32``.
    """

    def __init__(self, path: Path, count: int, wide: bool = False) -> None:
        self.path, self.count = path, count
        self.wide = wide
        self.file: IO[bytes] | None = None
        self.start = self.row = 0

    def write(self, index: np.ndarray, values: Tensor) -> None:
        """Puts rows ``[B, ...]`` at the places ``index``, ``int64 [B]``."""
        rows = stored(values, wide=self.wide)
        if rows.dtype == np.float32 and not self.wide:
            self._widen(values)
        if self.file is None:
            self._begin(rows.dtype, rows.shape[1:])
        for run in np.split(np.arange(len(index)), np.flatnonzero(np.diff(index) != 1) + 1):
            self._put(int(index[run[0]]), rows[run[0] : run[-1] + 1])

    def close(self) -> None:
        """Completes the file; one that was never begun is not made."""
        if self.file is not None:
            self.file.truncate(self.start + self.count * self.row)
            self.file.close()

    def _begin(self, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self.file = self.path.open("wb")
        facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (self.count, *shape)}
        np.lib.format.write_array_header_1_0(self.file, facts)
        self.start, self.row = self.file.tell(), dtype.itemsize * int(np.prod(shape))

    def _put(self, start: int, rows: np.ndarray) -> None:
        assert self.file is not None
        self.file.seek(self.start + start * self.row)
        self.file.write(np.ascontiguousarray(rows).data)

    def _widen(self, values: Tensor) -> None:
        """Rewrites what is there in ``float32``."""
        largest = float(values[values.isfinite()].abs().max())
        remedy = "it is kept in float32, which takes twice the room"
        name = f"{self.path.stem} of cache entry {self.path.parent.stem}"
        logger.warning("%s holds %g, beyond half precision; %s", name, largest, remedy)
        self.wide = True
        if self.file is None:
            return
        self.close()
        narrow = self.path.rename(self.path.with_suffix(".half"))
        rows = np.load(narrow, mmap_mode="r")
        self._begin(np.dtype(np.float32), rows.shape[1:])
        for start in range(0, self.count, WIDENED_AT_ONCE):
            self._put(start, rows[start : start + WIDENED_AT_ONCE].astype(np.float32))
        narrow.unlink()


class RowWriter:
    """Writes features, hidden states or inputs, batch by batch, into the folder of an entry.

    Args:
        folder: Of the entry.
        count: Rows.
        wide: All real numbers in ``float32``, also where half precision would do.
    """

    def __init__(self, folder: Path, count: int, wide: bool = False) -> None:
        self.folder, self.count, self.wide = folder, count, wide
        self.columns: dict[str, Column] = {}
        self.meta: dict[str, Any] = {}

    def write(self, index: np.ndarray, rows: Tensor | Features) -> None:
        """Puts a batch ``[B, ...]`` at rows ``index``, ``[B]``: a tensor as ``x``, features under their own names."""
        if isinstance(rows, Features):
            arrays = {name: getattr(rows, name) for name in FEATURE_ARRAYS}
            self.meta = {"n_prefix": rows.n_prefix, "grid": list(rows.grid), "condensed": rows.condensed}
        else:
            arrays = {"x": rows}
        for name, value in arrays.items():
            if value is not None:
                wide = self.wide and value.is_floating_point()
                column = self.columns.setdefault(name, Column(self.folder / f"{name}.npy", self.count, wide))
                column.write(index, value.cpu())

    def close(self) -> None:
        """Completes the files and notes beside them which hold ``float32``."""
        for column in self.columns.values():
            column.close()
        self.meta["float32"] = sorted(name for name, column in self.columns.items() if column.wide)
        (self.folder / META).write_text(json.dumps(self.meta))
