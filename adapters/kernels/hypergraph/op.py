"""Attention-conditioned hypergraph: the incidence matrix and the exact ways of passing messages over it.

Aydin et al., "ACE-LoRA", 2026 (arXiv 2603.17079). Every token is the centre of one hyperedge; the hyperedge of a patch
joins its ``top_k`` most similar tokens, that of CLS the ``top_k`` tokens it attends to.

:func:`message_passing` is the plain reference. :func:`hyperedges` fuses similarity, top-k, softmax and aggregation: the
similarities of a block of tokens never leave the chip, what is stored is the incidence matrix. For CLS alone
:func:`cls_message_passing` is exact with ``1 + top_k`` hyperedges and needs no kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.adapters.kernels.hypergraph.reference import message_passing, top_weights
from medgraft.adapters.kernels.hypergraph.triton import MOST_TOKENS, launch_backward, launch_forward
from medgraft.adapters.kernels.hypergraph.triton import VARIANTS as VARIANTS
from medgraft.ops import backends
from medgraft.ops.backends import Backend
from medgraft.ops.triton_runtime import Tile

Map = Callable[[Tensor], Tensor]


def cls_message_passing(tokens: Tensor, scores: Tensor, top_k: int, edge: Map, node: Map) -> Tensor:
    """Row 0 of :func:`message_passing`, ``[B, C]``, from the ``1 + top_k`` hyperedges that reach it.

    CLS belongs to its own hyperedge and to those of its ``top_k`` tokens, all other hyperedges meet it with weight 0,
    so the result and the gradients are the same as the full form's (up to ties between equal scores).
    """
    return read_cls(*cls_hyperedges(tokens, scores, top_k), edge, node)


def read_cls(hyperedges: Tensor, weights: Tensor, edge: Map, node: Map) -> Tensor:
    """The trained half of :func:`cls_message_passing`: both maps, from what :func:`cls_hyperedges` gives.

    Args:
        hyperedges: ``[B, 1 + top_k, C]``.
        weights: ``[B, top_k]``.
        edge: Map of the hyperedges' features.
        node: Map of the node's features.

    Returns:
        ``[B, C]``.
    """
    edges = edge(hyperedges)
    return node((edges[:, :1] + weights[:, None] @ edges[:, 1:]).squeeze(1))


def cls_hyperedges(tokens: Tensor, scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The half of :func:`cls_message_passing` without parameters.

    Returns:
        Features of the hyperedges that reach CLS, its own first, ``[B, 1 + top_k, C]``, and the weights by which the
        others do, ``[B, top_k]``.
    """
    N, C = tokens.shape[1:]
    weights, members = top_weights(F.pad(scores, (1, 0), value=float("-inf")), top_k)
    unit = F.normalize(tokens, dim=-1)
    centres = unit.gather(1, members[..., None].expand(-1, -1, C))
    similarity = centres @ unit.transpose(1, 2)
    column = torch.arange(N, device=tokens.device)
    similarity = similarity.masked_fill((column == 0) | (column == members[..., None]), float("-inf"))
    inner, neighbours = top_weights(similarity, top_k)
    spread = torch.zeros_like(similarity).scatter(2, neighbours, inner)
    chosen = tokens.gather(1, members[..., None].expand(-1, -1, C))
    cls = tokens[:, :1]
    of_cls = cls + weights[:, None] @ chosen
    of_members = chosen + spread @ tokens + weights[..., None] * cls
    return torch.cat([of_cls, of_members], dim=1), weights


def hypergraph_layer(
    tokens: Tensor,
    scores: Tensor,
    top_k: int,
    edge: Map,
    node: Map,
    *,
    all_tokens: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """The layer ``X' = node(H^T edge(H X))`` in the form that ``backend`` names.

    Args:
        tokens: ``[B, N, C]``, CLS first.
        scores: CLS-to-token scores ``[B, N - 1]``.
        top_k: Members of a hyperedge besides its centre, at least 1.
        edge: Map of the hyperedges' features, ``[B, *, C] -> [B, *, C]``.
        node: Map of the nodes' features.
        all_tokens: Return every token in place of CLS.
        backend: ``eager`` (the whole incidence matrix, for CLS as well), ``compile``, ``fused`` or ``auto``. The fused
            form of the CLS read-out is the exact short one, on any device.

    Returns:
        ``[B, N, C]``, or ``[B, C]`` for CLS.

    Example:
        >>> tokens, scores, same = torch.eye(5, 8)[None], torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.nn.Identity()
        >>> hypergraph_layer(tokens, scores, 2, same, same).shape
        torch.Size([1, 8])
        >>> hypergraph_layer(tokens, scores, 2, same, same, all_tokens=True).shape
        torch.Size([1, 5, 8])
    """
    if all_tokens:
        form = backends.choose("hypergraph", backend, _obstacle(tokens, scores))
        if form == "fused":
            return fused_message_passing(tokens, scores, top_k, edge, node)
        whole = message_passing if form == "eager" else backends.compiled(message_passing)
        return whole(tokens, scores, top_k, edge, node)
    form = backends.choose("hypergraph_cls", backend, None)
    if form == "eager":
        return message_passing(tokens, scores, top_k, edge, node)[:, 0]
    short = cls_message_passing if form == "fused" else backends.compiled(cls_message_passing)
    return short(tokens, scores, top_k, edge, node)


def _obstacle(tokens: Tensor, scores: Tensor) -> str | None:
    if tokens.device.type == "cuda" and tokens.shape[1] > MOST_TOKENS:
        return (
            f"{tokens.shape[1]} tokens; the GPU kernel keeps rows of similarities on chip and takes up to {MOST_TOKENS}"
        )
    return backends.obstacle_of(tokens, scores) or backends.width_obstacle(tokens, tokens.shape[2])


def fused_message_passing(tokens: Tensor, scores: Tensor, top_k: int, edge: Map, node: Map) -> Tensor:
    """:func:`message_passing` over the fused operation: ``[B, N, C] -> [B, N, C]``."""
    features, matrix = hyperedges(tokens, F.normalize(tokens, dim=-1), scores, top_k)
    return node(matrix.transpose(1, 2) @ edge(features))


@torch.library.custom_op("medgraft::hyperedges", mutates_args=(), device_types="cpu")
def hyperedges(tokens: Tensor, unit: Tensor, scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Incidence matrix and aggregated features in one step.

    Args:
        tokens: ``[B, N, C]``, CLS first.
        unit: The same at unit length, compared by dot product.
        scores: ``[B, N - 1]``.
        top_k: Members of a hyperedge besides its centre.

    Returns:
        ``H X`` ``[B, N, C]`` and ``H`` ``[B, N, N]``.
    """
    similarity = unit @ unit.transpose(1, 2)
    similarity[:, 0, 1:] = scores
    similarity[:, :, 0] = float("-inf")
    similarity.diagonal(dim1=1, dim2=2).fill_(float("-inf"))
    weights, index = top_weights(similarity, top_k)
    matrix = similarity.zero_().scatter_(2, index, weights)
    matrix[:, 1:, 0] = matrix[:, 0, 1:]
    matrix.diagonal(dim1=1, dim2=2).fill_(1)
    return matrix @ tokens, matrix


@torch.library.custom_op("medgraft::hyperedges_backward", mutates_args=(), device_types="cpu")
def hyperedges_backward(
    d_edges: Tensor, d_matrix: Tensor, tokens: Tensor, unit: Tensor, matrix: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to ``tokens``, ``unit`` and ``scores``.

    Args:
        d_edges: Gradient of ``H X`` ``[B, N, C]``.
        d_matrix: Gradient of ``H`` ``[B, N, N]``, from its other uses.
        tokens: ``[B, N, C]``.
        unit: ``[B, N, C]``.
        matrix: ``H``.
    """
    change = torch.baddbmm(d_matrix, d_edges, tokens.transpose(1, 2))
    d_scores = _score_gradient(change[:, 0], change[:, :, 0], matrix)
    weights = matrix.clone()
    weights.diagonal(dim1=1, dim2=2).zero_()
    weights[:, 0] = 0
    weights[:, :, 0] = 0
    change.mul_(weights)
    change.sub_(weights.mul_(change.sum(-1, keepdim=True)))
    return _token_gradients(change, d_edges, unit, matrix, d_scores)


def _score_gradient(row: Tensor, column: Tensor, matrix: Tensor) -> Tensor:
    """Gradient of the scores from that of row 0 and of column 0 of ``H``, which hold the same weights."""
    weights, change = matrix[:, 0, 1:], row[:, 1:] + column[:, 1:]
    return weights * (change - (weights * change).sum(-1, keepdim=True))


def _token_gradients(
    change: Tensor, d_edges: Tensor, unit: Tensor, matrix: Tensor, d_scores: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    d_unit = change @ unit
    d_unit.baddbmm_(change.transpose(1, 2), unit)
    return matrix.transpose(1, 2) @ d_edges, d_unit, d_scores.to(unit.dtype)


@hyperedges.register_fake
def _(tokens: Tensor, unit: Tensor, scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    B, N, C = tokens.shape
    return tokens.new_empty(B, N, C), tokens.new_empty(B, N, N)


@hyperedges_backward.register_fake
def _(d_edges: Tensor, d_matrix: Tensor, tokens: Tensor, unit: Tensor, matrix: Tensor):
    B, N, C = tokens.shape
    return tokens.new_empty(B, N, C), tokens.new_empty(B, N, C), tokens.new_empty(B, N - 1)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tokens, unit, _, _ = inputs
    ctx.save_for_backward(tokens, unit, output[1])


def _backward(ctx: Any, d_edges: Tensor, d_matrix: Tensor) -> tuple[Tensor | None, ...]:
    return *hyperedges_backward(d_edges, d_matrix, *ctx.saved_tensors), None


hyperedges.register_autograd(_backward, setup_context=_save)
hyperedges.register_vmap(backends.fold_into_batch(hyperedges))
hyperedges_backward.register_vmap(backends.fold_into_batch(hyperedges_backward))


def triton_backward(
    d_edges: Tensor, d_matrix: Tensor, tokens: Tensor, unit: Tensor, matrix: Tensor, tile: Tile | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients as in :func:`hyperedges_backward`, with one kernel and the remaining products from the library."""
    change, row, column = launch_backward(d_edges, d_matrix, tokens, matrix, tile)
    return _token_gradients(change, d_edges, unit, matrix, _score_gradient(row, column, matrix))


hyperedges.register_kernel("cuda")(launch_forward)
hyperedges_backward.register_kernel("cuda")(triton_backward)
