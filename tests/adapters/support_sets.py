"""Made-up training features of classes and labels, in float64."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.adapter.support_set import SupportSet


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Random unit vectors, float64."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def of_classes(
    targets: list[int], count: int, width: int = 6, *, scale: float | None = None, seed: int = 0
) -> SupportSet:
    """Unit features of samples with these classes, with class prompts where there is a scale."""
    text = None if scale is None else unit(count, width, seed=seed + 100)
    subjects = np.arange(len(targets)).astype(str)
    return SupportSet(unit(len(targets), width, seed=seed), torch.tensor(targets), count, subjects, None, text, scale)


def of_labels(targets: list[list[int]], mask: list[list[int]] | None = None, width: int = 6) -> SupportSet:
    """The same with labels, of which some may not count."""
    counts = None if mask is None else torch.tensor(mask).bool()
    subjects = np.arange(len(targets)).astype(str)
    return SupportSet(unit(len(targets), width), torch.tensor(targets), len(targets[0]), subjects, counts)
