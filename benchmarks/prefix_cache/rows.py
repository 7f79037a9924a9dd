"""Rows of cached arrays as a tower is fed them, and the record of how many were read."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgraft.benchmarks.prefix_cache.arrays import FEATURE_ARRAYS
from medgraft.benchmarks.prefix_cache.store import Entry
from medgraft.features import Features

_COUNTING = threading.Lock()
"""Rows are read ahead in a thread of their own, and by the trainer in between."""


@dataclass
class CacheUse:
    """What a cell had from one entry.

    Attributes:
        kind: ``prepared`` inputs, the ``prefix`` of an encoder, what an adapter's first, untrained part makes of its
            features (``condensed``), or an augmented ``view`` of inputs.
        modality: Of the tower.
        stage: From which the tower runs on.
        view: Augmented view; ``None`` for the samples as they are.
        samples: Rows.
        size: Bytes on disk.
        hit: It was there; otherwise this cell has built it.
        served: Rows read so far.
        float32: Arrays with values beyond half precision, kept in single precision.
        source: The features that this cell made a ``condensed`` entry of; ``None`` where it did not have to.
        entry: Held, so that nobody removes it.
    """

    kind: str
    modality: str
    stage: int
    view: int | None
    samples: int
    size: int
    hit: bool
    served: int = 0
    float32: tuple[str, ...] = ()
    source: CacheUse | None = None
    entry: Entry | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For a result; ``source`` is told in the same way, inside."""
        names = ("kind", "modality", "stage", "view", "samples", "size", "hit", "served")
        facts: dict[str, Any] = {name: getattr(self, name) for name in names}
        return {**facts, "float32": list(self.float32), "source": self.source and self.source.to_dict()}


def hit_rate(uses: Iterable[CacheUse]) -> float | None:
    """Share of the rows read that this cell did not have to compute; ``None`` where it read none.

    Rows that were read to condense them count as well, and so do the runs of the encoder behind them.
    """
    uses = [each for use in uses for each in (use, use.source) if each is not None]
    served = sum(use.served for use in uses)
    computed = sum(use.samples for use in uses if not use.hit)
    return max(0.0, 1 - computed / served) if served else None


@dataclass(frozen=True)
class TowerInputs:
    """What a tower is fed during training: its inputs, a hidden state, or its features.

    Attributes:
        stage: Stage of the rows, as :meth:`medgraft.encoder.Encoder.forward` takes it.
        arrays: ``{"x": ...}``, or the arrays of :class:`~medgraft.features.Features`.
        n_prefix: Of the features.
        grid: Of the features.
        condensed: Of the features.
        use: What the cache did; ``None`` for arrays from elsewhere.
    """

    stage: int
    arrays: dict[str, np.ndarray]
    n_prefix: int = 0
    grid: tuple[int, ...] = ()
    condensed: str = ""
    use: CacheUse | None = None

    def batch(self, index: np.ndarray) -> Tensor | Features:
        """Rows ``index``, ``[B, ...]`` in full precision."""
        return widened(self.stored(index))

    def stored(self, index: np.ndarray) -> Tensor | Features:
        """Rows ``index``, ``[B, ...]``, in the types that they are kept in, which are half as large to move."""
        self.count(len(index))
        return self.of({name: np.asarray(array[index]) for name, array in self.arrays.items()})

    def count(self, rows: int) -> None:
        """Notes that rows were read."""
        if self.use is not None:
            with _COUNTING:
                self.use.served += rows

    def of(self, arrays: dict[str, np.ndarray]) -> Tensor | Features:
        """Rows ``[B, ...]`` of each array, as what the tower is fed."""
        rows = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if "x" in rows:
            return rows["x"]
        optional = {name: rows.get(name) for name in FEATURE_ARRAYS[2:]}
        facts = {"n_prefix": self.n_prefix, "grid": self.grid, "condensed": self.condensed}
        return Features(rows["tokens"], rows["pooled"], **facts, **optional)  # pyright: ignore


def widened(rows: Tensor | Features) -> Tensor | Features:
    """Rows ``[B, ...]`` as a graft computes with them: real numbers in ``float32``, ids in ``int64``."""
    if isinstance(rows, Tensor):
        return rows.float() if rows.is_floating_point() else rows if rows.dtype == torch.bool else rows.long()
    return rows.replace(**{name: widened(part) for name, part in vars(rows).items() if isinstance(part, Tensor)})


def drawn_batch(views: Sequence[TowerInputs], index: np.ndarray, draw: np.ndarray) -> Tensor | Features:
    """:func:`drawn_rows`, ``[B, ...]``, in full precision."""
    return widened(drawn_rows(views, index, draw))


def drawn_rows(views: Sequence[TowerInputs], index: np.ndarray, draw: np.ndarray) -> Tensor | Features:
    """Rows ``index``, each of the view that was drawn for it, in the types that they are kept in.

    Args:
        views: The same samples in every view.
        index: Samples ``[B]``.
        draw: View of each ``[B]``.
    """
    rows: dict[str, np.ndarray] = {}
    for name, array in views[0].arrays.items():
        widest = np.result_type(*(view.arrays[name].dtype for view in views))
        rows[name] = np.empty((len(index), *array.shape[1:]), widest)
    for view in np.unique(draw):
        here = draw == view
        views[view].count(int(here.sum()))
        for name, array in views[view].arrays.items():
            rows[name][here] = array[index[here]]
    return views[0].of(rows)
