"""The plain form of the hypergraph: the whole incidence matrix, the definition that the fused forms are held to."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def top_weights(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Softmax weights ``[..., top_k]`` and places of the largest of ``scores [..., N]``; ``-inf`` weighs nothing."""
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
    weights, index = top_weights(similarity.masked_fill(excluded, float("-inf")), top_k)
    matrix = torch.zeros(B, N, N, dtype=weights.dtype, device=tokens.device).scatter(2, index, weights)
    # Excluded entries that were picked for want of others weigh 0, so the diagonal may be overwritten.
    eye = torch.eye(N, dtype=weights.dtype, device=tokens.device)
    matrix = matrix * (1 - eye) + eye
    return torch.cat([torch.cat([matrix[:, :1, :1], matrix[:, 0, 1:, None]], dim=1), matrix[:, :, 1:]], dim=2)


def message_passing(tokens: Tensor, scores: Tensor, top_k: int, edge: Map, node: Map) -> Tensor:
    """The whole layer, ``X' = node(H^T edge(H X))``, for all tokens: ``[B, N, C] -> [B, N, C]``."""
    matrix = incidence(tokens, scores, top_k)
    return node(matrix.transpose(1, 2) @ edge(matrix @ tokens))
