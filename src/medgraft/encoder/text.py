"""Encoders of texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medgraft.encoder.base import Encoder


class TextEncoder(Encoder):
    """An encoder whose prepared input is ``int64 [L]`` token ids, padded with :attr:`pad_id`.

    Attributes:
        pad_id: Token that fills up short texts.
        any_length: :meth:`encode` takes ids ``[B, L]`` of any ``L`` from 1 to the context length, and columns behind
            the last real token change nothing of what it gives for the others, ``pooled`` included; the mask of its
            features is then :meth:`real_tokens`. Batches may be cut to their longest text
            (:mod:`medgraft.fast.short_texts`). An encoder that does not say so gets its whole context.
    """

    pad_id: int = 0
    any_length: bool = False

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids of several texts, ``int64 [B, L]``."""
        return torch.stack([self.prepare(text) for text in texts])

    def real_tokens(self, ids: Tensor) -> Tensor:
        """``[B, L]``, true for the tokens of the text and false for padding."""
        return ids != self.pad_id
