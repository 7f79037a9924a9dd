"""Attentive probe: learned queries attend to all frozen tokens, and the linear head reads what they gather.

Two forms. ``light``, after Psomas et al., "Attention, Please! Revisiting Attentive Probing Through the Lens of
Efficiency", 2025 (arXiv 2506.10178): ``M`` queries ``q_m`` and no map of keys or values, each for a slice of the width
``C``, ``y_m = sum_n softmax_n(q_m . x_n / sqrt(C)) x_n[slice m]``, and the ``M`` slices side by side are ``y`` ``[C]``.
``block``, after Bardes et al., "Revisiting Feature Prediction for Learning Visual Representations from Video" (V-JEPA),
2024 (arXiv 2404.08471), code ``facebookresearch/jepa``, ``src/models/attentive_pooler.py``:

    q = q + W_o MHA(W_q q, W_k LN(x), W_v LN(x));    q = q + W_2 GELU(W_1 LN(q))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapters.parts.placement import towers_with_features, trained_dtype
from medgraft.encoder import Encoder
from medgraft.encoder.attention import attend
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import Reading
from medgraft.features import Features

DEVIATION = 0.02
"""Standard deviation of fresh queries and maps, that of both published codes."""


def divisor(width: int, wanted: int) -> int:
    """The largest divisor of a width that is not above the one wanted.

    Example:
        >>> divisor(192, 32), divisor(50, 8)
        (32, 5)
    """
    return next(count for count in range(min(width, wanted), 0, -1) if width % count == 0)


class LightPooling(nn.Module):
    """One query per slice of the width, on tokens as they are.

    Args:
        dim: ``C``.
        queries: ``M``, a divisor of ``C``.
        value_projection: Map the values first, without bias, as the published code does.
    """

    def __init__(self, dim: int, queries: int, value_projection: bool = False) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, dim) * DEVIATION)
        self.value = nn.Linear(dim, dim, bias=False) if value_projection else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens ``[B, N, C]``, of which ``mask`` ``[B, N]`` are real -> ``[B, C]``."""
        scores = x @ self.query.T / math.sqrt(x.shape[-1])  # [B, N, M]
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, None], float("-inf"))
        slices = self.value(x).unflatten(-1, (len(self.query), -1))  # [B, N, M, C / M]
        return torch.einsum("bnm,bnmc->bmc", torch.softmax(scores, dim=1), slices).flatten(1)


class BlockPooling(nn.Module):
    """The attentive pooler of V-JEPA; several queries are averaged behind it.

    Args:
        dim: ``C``.
        queries: Number of queries; 1 as published.
        heads: A divisor of ``C``.
        mlp_ratio: Width inside the MLP as a multiple of ``C``.
    """

    def __init__(self, dim: int, queries: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        inner = max(1, int(dim * mlp_ratio))
        self.heads = heads
        self.query = nn.Parameter(torch.empty(queries, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, inner), nn.Linear(inner, dim)
        nn.init.trunc_normal_(self.query, std=DEVIATION)
        for linear in (self.q, self.kv, self.proj, self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=DEVIATION)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():  # the published code scales what is added to the queries by the depth
            self.proj.weight /= math.sqrt(2)
            self.fc2.weight /= math.sqrt(2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens ``[B, N, C]``, of which ``mask`` ``[B, N]`` are real -> ``[B, C]``."""
        B, K = x.shape[0], len(self.query)
        asked = self.query.expand(B, -1, -1)
        q = self.q(asked).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(self.norm1(x)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        gathered = attend(q, k, v, None if mask is None else mask[:, None, None].expand(-1, 1, K, -1))
        q = asked + self.proj(gathered.transpose(1, 2).flatten(2))
        return (q + self.fc2(nn.functional.gelu(self.fc1(self.norm2(q))))).mean(dim=1)


class AttentiveProbe(Adapter):
    """Replaces the pooled features of a tower by what its queries gather; tokens stay as they are.

    Prefix tokens (CLS, registers) are attended to like all others. Not the identity at the start: the queries are
    random, as published.
    """

    title = "Attentive probe: learned queries on all frozen tokens"
    paper = (
        "Psomas et al., Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency, 2025 (arXiv "
        "2506.10178); with form=block Bardes et al., V-JEPA, 2024 (arXiv 2404.08471)"
    )
    licence = "Apache-2.0"
    formula = r"y_m = \sum_n \mathrm{softmax}_n\left(\frac{q_m \cdot x_n}{\sqrt{C}}\right) x_n^{(m)}"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 20})
    identity_at_init = False
    text_padding = 0
    variant_field = "form"

    class Config(AdapterConfig):
        """Options; ``attentive_probe:block`` is the other form.

        Attributes:
            form: ``light``, one query per slice of the width; ``block``, a cross-attention with maps, norms and an MLP.
            queries: Their number, 32 in the light form and 1 in the block unless it is given. In the light form it is
                lowered to a divisor of the width.
            heads: Of the block's attention, lowered to a divisor of the width.
            mlp_ratio: Width inside the block's MLP as a multiple of the token's.
            value_projection: A map of the values in the light form, which the published code has.
            modality: Towers that get a probe.
        """

        form: Literal["light", "block"] = "light"
        queries: int | None = Field(None, ge=1)
        heads: int = Field(12, ge=1)
        mlp_ratio: float = Field(4.0, gt=0)
        value_projection: bool = False
        modality: Reading = "visual"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.pooling = nn.ModuleDict()

    def supports(self, encoder: Encoder) -> Support:
        """Fits every encoder with a tower of the modality whose tokens are more than single values."""
        towers = towers_with_features(encoder, encoder.sites(), self.config.modality)
        if not towers:
            return Support(False, f"it has no {self.config.modality} tower")
        for name, (tower, _) in towers.items():
            if tower.spec.dim < 2:
                return Support(False, f"the tokens of its {name} tower are single values, so there is nothing to weigh")
        return Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Adds one pooling per tower, on its tokens."""
        attachment = Attachment(encoder)
        self.pooling.clear()
        for name, (tower, site) in towers_with_features(encoder, sites, self.config.modality).items():
            attachment.record({"features": [site]})
            pooling = self._build(tower.spec.dim).to(trained_dtype(tower))
            self.pooling[name] = pooling
            attachment.map_features(tower, _pooled_by(pooling))
        return attachment

    def _build(self, dim: int) -> LightPooling | BlockPooling:
        config = self.config
        if config.form == "light":
            return LightPooling(dim, divisor(dim, config.queries or 32), config.value_projection)
        return BlockPooling(dim, config.queries or 1, divisor(dim, config.heads), config.mlp_ratio)


def _pooled_by(pooling: LightPooling | BlockPooling):
    def pool(features: Features) -> Features:
        return features.replace(pooled=pooling(features.tokens.to(pooling.query.dtype), features.mask))

    return pool
