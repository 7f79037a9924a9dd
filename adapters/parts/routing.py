"""Routing of tokens to experts: sparse gates, loads, and the losses that keep routers even and their logits small.

Every quantity is normalised so that a router that treats all experts alike gives 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def top_k_gates(probs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest probabilities of each token, renormalised (Jiang et al., "Mixtral of Experts", 2024).

    Experts that tie with the k-th are picked too, so that a router whose probabilities are all equal is dense and no
    order of the experts matters.

    Args:
        probs: ``[..., E]``.
        k: From 1 to ``E``.

    Returns:
        Gates ``[..., E]`` that sum to 1, exactly 0 elsewhere, and which experts are picked, bool ``[..., E]``.

    Example:
        >>> top_k_gates(torch.tensor([0.5, 0.3, 0.2]), 2)[0]
        tensor([0.6250, 0.3750, 0.0000])
    """
    picked = probs >= probs.topk(k, dim=-1).values[..., -1:]
    kept = torch.where(picked, probs, torch.zeros_like(probs))
    return kept / kept.sum(dim=-1, keepdim=True), picked


def expert_load(picked: Tensor) -> Tensor:
    """Share of all picks that each expert gets, without a gradient.

    Args:
        picked: Bool ``[T, E]``.

    Returns:
        ``[E]``, summing to 1.
    """
    each = picked.detach().to(torch.float32)
    return (each / each.sum(dim=-1, keepdim=True)).mean(dim=0)


def balance_loss(probs: Tensor, load: Tensor) -> Tensor:
    """``E sum_i f_i P_i``, ``f`` over all ``k`` picks (Dai et al., "DeepSeekMoE", 2024, equations 12 to 14).

    Args:
        probs: ``[T, E]``; ``P`` is their mean over tokens.
        load: ``f``, ``[E]``, see :func:`expert_load`.

    Returns:
        Scalar: 1 where the load or the probabilities are uniform, at most ``E / k`` where ``k`` experts take all.
    """
    return probs.shape[-1] * (load.to(probs.dtype) * probs.mean(dim=0)).sum()


def z_loss(logits: Tensor) -> Tensor:
    """Mean squared log-sum-exp of the logits (Zoph et al., "ST-MoE", 2022, equation 5) over that of zero logits.

    Args:
        logits: ``[T, E]``, ``E > 1``.

    Returns:
        Scalar: 1 for logits that are all 0.
    """
    return (torch.logsumexp(logits, dim=-1) / math.log(logits.shape[-1])).square().mean()


def entropy(shares: Tensor) -> Tensor:
    """Entropy of ``[..., E]`` over the largest possible: 1 for uniform shares, 0 where one expert has all."""
    return torch.special.entr(shares).sum(dim=-1) / math.log(shares.shape[-1])


def evenness(load: Tensor, k: int) -> float:
    """How evenly experts are used: 0 where only ``k`` of them are, 1 where all are alike.

    Args:
        load: ``[E]``, summing to 1, ``E > k``.
        k: Experts per token; fewer than these are never used.
    """
    low, high = math.log(k), math.log(len(load))
    return (float(torch.special.entr(load).sum()) - low) / (high - low)
