"""``instance_contrast``: a person's windows are told from those of other people."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medgraft.benchmarks.objectives.space.windows import TEMPERATURE, WindowObjective
from medgraft.losses import nt_xent


class InstanceContrast(WindowObjective):
    """:func:`medgraft.losses.nt_xent` of two windows of each person at different times, drawn anew in each step.

    Of several runs of a person in a batch the first counts: another would be a negative of its own person's.
    """

    def contrast(self, z: Tensor, again: Tensor, counts: np.ndarray, rows: np.ndarray, people: np.ndarray) -> Tensor:
        """See :meth:`WindowObjective.contrast`."""
        chosen = rows[np.sort(np.unique(people[rows], return_index=True)[1])]
        count = torch.from_numpy(counts[chosen])
        drawn = torch.rand(2, len(chosen), dtype=torch.float64)  # of PyTorch's generator, which checkpoints keep
        first = (drawn[0] * count).long()
        second = (first + 1 + (drawn[1] * (count - 1)).long()) % count
        index = torch.from_numpy(chosen)
        return nt_xent(z[index, first], again[index, second], TEMPERATURE)
