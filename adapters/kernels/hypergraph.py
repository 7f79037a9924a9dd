"""Attention-conditioned hypergraph: the incidence matrix and two exact ways of passing messages over it.

Aydin et al., "ACE-LoRA", 2026 (arXiv 2603.17079). Every token is the centre of one hyperedge; the hyperedge of a patch
joins its ``top_k`` most similar tokens, that of CLS the ``top_k`` tokens it attends to.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _top_weights(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Softmax over the ``top_k`` largest entries of the last axis; excluded entries (``-inf``) weigh nothing."""
    values, index = scores.topk(min(top_k, scores.shape[-1]), dim=-1)
    # A row that has nothing to choose from (two tokens: CLS and one patch) must weigh nothing, not NaN.
    empty = torch.isneginf(values).all(dim=-1, keepdim=True)
    weights = torch.softmax(values.masked_fill(empty, 0.0), dim=-1)
    return weights.masked_fill(empty, 0.0), index


def incidence(tokens: Tensor, scores: Tensor, top_k: int) -> Tensor:
    """The incidence matrix ``H``, row = hyperedge, column = node.

    Args:
        tokens: ``[B, N, C]``, CLS first; compared by cosine.
        scores: CLS-to-token scores ``[B, N - 1]``.
        top_k: Members of a hyperedge besides its centre.

    Returns:
        ``[B, N, N]``: the softmax weights of each row's ``top_k`` entries, ones on the diagonal, and in column 0 the
        weight that CLS gave to the hyperedge's centre.
    """
    B, N, _ = tokens.shape
    unit = F.normalize(tokens, dim=-1)
    similarity = unit @ unit.transpose(1, 2)
    similarity = torch.cat([F.pad(scores, (1, 0))[:, None], similarity[:, 1:]], dim=1)
    excluded = torch.eye(N, dtype=torch.bool, device=tokens.device)
    excluded[:, 0] = True
    weights, index = _top_weights(similarity.masked_fill(excluded, float("-inf")), top_k)
    matrix = torch.zeros(B, N, N, dtype=weights.dtype, device=tokens.device).scatter(2, index, weights)
    # Excluded entries that were picked for want of others weigh 0, so the diagonal may be overwritten.
    eye = torch.eye(N, dtype=weights.dtype, device=tokens.device)
    matrix = matrix * (1 - eye) + eye
    return torch.cat([torch.cat([matrix[:, :1, :1], matrix[:, 0, 1:, None]], dim=1), matrix[:, :, 1:]], dim=2)


Map = Callable[[Tensor], Tensor]


def message_passing(tokens: Tensor, scores: Tensor, top_k: int, edge: Map, node: Map) -> Tensor:
    """The whole layer, ``X' = node(H^T edge(H X))``, for all tokens: ``[B, N, C] -> [B, N, C]``."""
    matrix = incidence(tokens, scores, top_k)
    return node(matrix.transpose(1, 2) @ edge(matrix @ tokens))


def cls_message_passing(tokens: Tensor, scores: Tensor, top_k: int, edge: Map, node: Map) -> Tensor:
    """Row 0 of :func:`message_passing`, ``[B, C]``, from the ``1 + top_k`` hyperedges that reach it.

    CLS belongs to its own hyperedge and to those of its ``top_k`` tokens, all other hyperedges meet it with weight 0,
    so the result and the gradients are the same as the full form's (up to ties between equal scores).
    """
    N, C = tokens.shape[1:]
    weights, members = _top_weights(F.pad(scores, (1, 0), value=float("-inf")), top_k)
    unit = F.normalize(tokens, dim=-1)
    centres = unit.gather(1, members[..., None].expand(-1, -1, C))
    similarity = centres @ unit.transpose(1, 2)
    column = torch.arange(N, device=tokens.device)
    similarity = similarity.masked_fill((column == 0) | (column == members[..., None]), float("-inf"))
    inner, neighbours = _top_weights(similarity, top_k)
    spread = torch.zeros_like(similarity).scatter(2, neighbours, inner)
    chosen = tokens.gather(1, members[..., None].expand(-1, -1, C))
    cls = tokens[:, :1]
    of_cls = cls + weights[:, None] @ chosen
    of_members = chosen + spread @ tokens + weights[..., None] * cls
    edges = edge(torch.cat([of_cls, of_members], dim=1))
    return node((edges[:, :1] + weights[:, None] @ edges[:, 1:]).squeeze(1))
