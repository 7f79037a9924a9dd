"""Attention rollout (Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medgraft.benchmarks.explain.scorer import Scorer
from medgraft.encoder.attention import capture_attention
from medgraft.errors import ConfigError

READ_OUT = ("cls", "mean")
"""Poolings of which it is known how much they take of each token."""


@torch.no_grad()
def rollout(scorer: Scorer, x: Tensor, target: int) -> Tensor:
    """How much of each place reaches what the tower pools, if attention were all that moves tokens' content.

    Each block mixes tokens by ``A = (W + I) / 2``, ``W`` being the attention averaged over its heads and ``I`` the
    residual connection; the product of all blocks has a row for each token of the end. The row of the CLS token is
    taken, or the mean of the patches' where the tower pools them so. Tokens that an adapter puts beside the patches are
    left out of each block, and its rows are divided by what is left. The map is the same for every class: the method
    knows no gradient and no head.

    Args:
        scorer: The graft.
        x: One prepared image or volume, ``[1, C, *size]``.
        target: Not read.

    Returns:
        Shares of the whole, on the grid of the tokens, ``[*grid]``.

    Raises:
        ConfigError: The tower has no attention, none that queries and keys alone give, or pools otherwise.
    """
    tower = scorer.tower
    _refuse(scorer)
    with capture_attention(tower, tower.attention) as captures:
        features = scorer.features(x)[scorer.modality]
    n_prefix, grid = tower.block_grid or (features.n_prefix, features.grid)
    places = math.prod(grid)
    joint: Tensor | None = None
    for capture in captures:
        weights = without_prompts(capture.probabilities().float().mean(dim=1)[0], places + n_prefix, int(tower.has_cls))
        mixed = (weights + torch.eye(len(weights), device=weights.device)) / 2
        joint = mixed if joint is None else mixed @ joint
    assert joint is not None
    row = joint[0] if tower.spec.pooling == "cls" else joint[n_prefix:].mean(dim=0)
    return row[n_prefix:].view(grid)


def without_prompts(weights: Tensor, count: int, at: int) -> Tensor:
    """Attention ``[N, N]`` among the ``count`` tokens that go through all blocks, rows that sum to 1 again.

    Args:
        weights: Of one block, with the prompt tokens that an adapter has put in.
        count: Tokens without prompts.
        at: Where prompts begin.
    """
    extra = len(weights) - count
    if extra <= 0:
        return weights
    kept = torch.cat([torch.arange(at), torch.arange(at + extra, len(weights))]).to(weights.device)
    part = weights[kept][:, kept]
    return part / part.sum(dim=-1, keepdim=True)


def _refuse(scorer: Scorer) -> None:
    tower = scorer.tower
    name = tower.spec.name
    other = "use gradcam or occlusion"
    if not tower.attention:
        raise ConfigError(f"rollout reads attention, and encoder {name} has none; {other}")
    if not all(layout.scored for layout in tower.attention):
        raise ConfigError(
            f"rollout reads attention that queries and keys alone give, and that of encoder {name} has a bias by "
            f"position or sees a part of the tokens; {other}"
        )
    if tower.sliced > 1:
        raise ConfigError(
            f"rollout follows one sequence of tokens, and encoder {name} reads slices one by one; {other}"
        )
    if tower.spec.pooling not in READ_OUT or (tower.spec.pooling == "cls" and not tower.has_cls):
        raise ConfigError(
            f"rollout ends at a CLS token or a mean, and encoder {name} pools by {tower.spec.pooling}; {other}"
        )
