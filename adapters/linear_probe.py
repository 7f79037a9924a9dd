"""Linear probe: no adapter at all, only the task's linear head on frozen features.

Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016 (arXiv 1610.01644). The
harness fits the head as a logistic regression with a cross-validated L2 penalty, the strongest plain probe and the bar
that an adapter has to clear (Kornblith et al., "Do Better ImageNet Models Transfer Better?", CVPR 2019, fit theirs so).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.features import Condenser, Features

Pooling = Literal["encoder", "cls", "mean", "cls+mean"]
Solver = Literal["lbfgs", "sgd"]


class LinearProbe(Adapter):
    """Chooses what the head reads; trains nothing itself."""

    paper = (
        "Alain and Bengio, Understanding intermediate layers using linear classifier probes, 2016 (arXiv 1610.01644)"
    )
    licence = "Apache-2.0"
    formula = r"\min_{W, b}\; C \sum_i \ell(W x_i + b,\, y_i) + \frac{1}{2} \lVert W \rVert^2"
    train_defaults = MappingProxyType(
        {"epochs": 60}
    )  # of dense heads and linear_probe:sgd; a logistic regression has none
    search = MappingProxyType({"pooling": ("encoder", "cls", "mean", "cls+mean")})
    text_padding = 0

    class Config(AdapterConfig):
        """Options.

        Attributes:
            pooling: ``encoder`` reads what the encoder pools; ``cls``, ``mean`` and ``cls+mean`` read its tokens.
            solver: ``lbfgs`` leaves the head to the harness, which solves a logistic regression exactly, its C chosen
                of six by cross-validation over training subjects. ``sgd``, also by the name ``linear_probe:sgd``,
                trains the head by gradient descent as heads of adapters are trained, and keeps it.
        """

        pooling: Pooling = "encoder"
        solver: Solver = "lbfgs"

    config: Config
    variant_field = "solver"

    @property
    def trained_by_steps(self) -> bool:
        """Only by gradient descent."""
        return self.config.solver == "sgd"

    @property
    def refit_head(self) -> bool:
        """Unless gradient descent was asked for."""
        return self.config.solver == "lbfgs"

    def supports(self, encoder: Encoder) -> Support:
        """Fits every encoder; a pooling that reads CLS needs one in each tower."""
        for name, tower in encoder.towers().items():
            if "cls" in self.config.pooling and not tower.has_cls:
                return Support(False, f"its {name} tower has no CLS token for pooling {self.config.pooling!r}")
        return Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Changes the pooling of each tower, and nothing else."""
        attachment = Attachment(encoder)
        attachment.record({"features": [site for site in sites.values() if site.kind == "features"]})
        if self.config.pooling != "encoder":
            for tower in encoder.towers().values():
                attachment.map_features(tower, self._pool)
        return attachment

    def precompute(self, tower: Encoder) -> Condenser:
        """All of it: the probe trains nothing, and its head reads one vector."""
        key = f"linear_probe pooling={self.config.pooling}"
        pool = self._pool if self.config.pooling != "encoder" else lambda features: features

        def apply(features: Features) -> Features:
            pooled = pool(features).pooled
            return Features(tokens=pooled[:, None], pooled=pooled, n_prefix=0, grid=(1,), condensed=key)

        return Condenser(key, apply)

    def _pool(self, features: Features) -> Features:
        if features.condensed:
            return features
        parts = []
        if "cls" in self.config.pooling:
            parts.append(features.tokens[:, 0])
        if "mean" in self.config.pooling:
            parts.append(mean_token(features))
        return features.replace(pooled=torch.cat(parts, dim=-1))


def mean_token(features: Features) -> Tensor:
    """Mean over the real, non-prefix tokens, ``[B, C]``."""
    tokens = features.tokens[:, features.n_prefix :]
    if features.mask is None:
        return tokens.mean(dim=1)
    weight = features.mask[:, features.n_prefix :, None].to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
