"""The labelled training features that a method without a trained head classifies by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SupportSet:
    """Training samples as frozen towers see them.

    Attributes:
        features: ``[n, D]``: pooled features of the modalities side by side, or, where classes have prompts, unit
            embeddings in the space that image and text share.
        targets: Classes ``int64 [n]``, or labels 0 and 1 ``int64 [n, L]``.
        count: Number of classes or labels; the samples need not show all of them.
        subjects: ``[n]``, whom each sample is of, for methods that choose something by cross-validation.
        mask: ``bool [n, L]``, true where a label counts; ``None`` where all do.
        text: Unit embeddings of the classes' prompts ``[K, D]``, where they have any.
        scale: Multiplier of the similarity of image and text, where there is one.
    """

    features: Tensor
    targets: Tensor
    count: int
    subjects: np.ndarray
    mask: Tensor | None = None
    text: Tensor | None = None
    scale: float | None = None

    def one_hot(self) -> Tensor:
        """Which class each sample has, ``[n, K]`` in the type of the features."""
        return F.one_hot(self.targets, self.count).to(self.features.dtype)

    def present_absent(self) -> Tensor:
        """Who has each label and who has not, of those who count, ``[2, n, L]`` in the type of the features."""
        present = self.targets.to(self.features.dtype)
        both = present.new_empty(2, *present.shape)
        both[0], both[1] = present, 1 - present
        return both if self.mask is None else both * self.mask.to(present.dtype)
