"""Losses that adapters and tasks share."""

from __future__ import annotations

import torch
from torch import Tensor


def label_guided_info_nce(image: Tensor, text: Tensor, scale: Tensor | float, labels: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE whose negatives never share the anchor's labels.

    Aydin et al., "ACE-LoRA", 2026 (arXiv 2603.17079): positives are the diagonal pairs only, and an off-diagonal pair
    with equal label vectors (two all-zero vectors included) is left out of the denominator. A batch in which all
    labels agree has loss 0. Without labels it is the CLIP loss (Radford et al., 2021).

    Args:
        image: Unit embeddings ``[B, C]``.
        text: Unit embeddings ``[B, C]``, row ``i`` the partner of image ``i``.
        scale: Multiplier of the cosine similarity (already exponentiated).
        labels: Label vectors ``[B, L]``; ``None`` removes no pair.

    Returns:
        The mean over both directions, a scalar.

    Example:
        >>> unit = torch.eye(3)
        >>> round(label_guided_info_nce(unit, unit, 1.0).item(), 4)
        0.5514
        >>> label_guided_info_nce(unit, unit, 1.0, torch.zeros(3, 14)).item()
        0.0
    """
    logits = scale * (image @ text.T)
    if labels is not None:
        same = (labels[:, None] == labels[None]).all(dim=-1)
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, float("-inf"))
    positive = logits.diagonal()
    rows = torch.logsumexp(logits, dim=1) - positive
    columns = torch.logsumexp(logits, dim=0) - positive
    return (rows.mean() + columns.mean()) / 2
