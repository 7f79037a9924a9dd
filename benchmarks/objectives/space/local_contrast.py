"""``local_contrast``: within a run, a window is told from those at other times."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medgraft.benchmarks.objectives.space.windows import TEMPERATURE, WindowObjective
from medgraft.losses import local_contrast


class LocalContrast(WindowObjective):
    """:func:`medgraft.losses.local_contrast`: a window and its view against the other windows of the same run.

    Summed over the runs of a batch, as published.
    """

    def contrast(self, z: Tensor, again: Tensor, counts: np.ndarray, rows: np.ndarray, people: np.ndarray) -> Tensor:
        """See :meth:`WindowObjective.contrast`."""
        terms = []
        for count in np.unique(counts[rows]):
            alike = torch.from_numpy(rows[counts[rows] == count])
            terms.append(local_contrast(z[alike, :count], again[alike, :count], TEMPERATURE))
        return torch.stack(terms).sum()
