"""The order in which prepared texts go through a frozen tower, and how what it gives becomes rows of one width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.encoder import TextEncoder
from medgraft.fast.short_texts import text_lengths
from medgraft.features import Features

READ_AT_ONCE = 4096
"""Texts whose tokens are counted in one step."""


@dataclass(frozen=True)
class TextRows:
    """Texts sorted by length, so that those of a batch are about as long as each other.

    Attributes:
        columns: Tokens of each text that are computed at least, ``int64 [n]``.
        width: Tokens of each row that is kept, those of the longest text.
    """

    columns: np.ndarray
    width: int

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Numbers of the samples ``[B]`` of each batch, the shortest texts first, equal ones in their order."""
        order = np.argsort(self.columns, kind="stable")
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def cut(self, ids: Tensor, index: np.ndarray) -> Tensor:
        """Token ids ``[B, L]`` of the samples ``index`` without what is behind the longest of them."""
        return ids[:, : int(self.columns[index].max())]

    def widened(self, features: Features, columns: int) -> Features:
        """Features of a batch of ``columns`` columns as rows that all batches have: what is added is masked padding."""
        missing = self.width - columns
        mask = features.mask
        if mask is None:
            mask = torch.ones(features.tokens.shape[:2], dtype=torch.bool, device=features.tokens.device)
        scores, probs = features.cls_scores, features.cls_probs
        return features.replace(
            tokens=F.pad(features.tokens, (0, 0, 0, missing)),
            mask=F.pad(mask, (0, missing)),
            cls_scores=None if scores is None else F.pad(scores, (0, missing), value=float("-inf")),
            cls_probs=None if probs is None else F.pad(probs, (0, missing)),
            grid=(features.grid[0] + missing,),
        )


def text_rows(ids: np.ndarray, usable: np.ndarray, tower: TextEncoder, padding: int) -> TextRows:
    """How texts are sorted and cut.

    Args:
        ids: Prepared texts ``[n, L]``.
        usable: ``[n]``, false for texts that could not be read and whose rows nobody reads.
        tower: Whose tokens.
        padding: Columns that are computed behind the longest text of a batch.
    """
    parts = [
        text_lengths(tower, torch.tensor(ids[start : start + READ_AT_ONCE]).long()).numpy()
        for start in range(0, len(ids), READ_AT_ONCE)
    ]
    columns = np.minimum(np.where(usable, np.concatenate(parts), 1) + padding, ids.shape[1])
    return TextRows(columns, int(columns.max()))
