"""CLIP-Adapter: a bottleneck on the embedding of image or text, mixed with what it reads.

Gao et al., "CLIP-Adapter: Better Vision-Language Models with Feature Adapters", IJCV 2024 (arXiv 2110.04544),
equations 3 to 5: ``f* = alpha A(f) + (1 - alpha) f`` with ``A(f) = ReLU(ReLU(f W1) W2)`` without biases, where ``f`` is
the projected embedding before its length is made one. The last ReLU is in the authors' code and not in the equation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.class_prompts import shared_embedding
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.parts.placement import towers_with_features
from medgraft.attachment.blank_run import trace_features
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import Reading, reads_text
from medgraft.features import Features


class EmbeddingBottleneck(nn.Module):
    """``ReLU(ReLU(f W1) W2)``, ``[B, E] -> [B, E]``.

    Args:
        dim: ``E``.
        reduction: The width between is ``E // reduction``, and at least 1.
        last_relu: Whether the second ReLU is there.
    """

    def __init__(self, dim: int, reduction: int, last_relu: bool) -> None:
        super().__init__()
        inner = max(1, dim // reduction)
        self.down = nn.Linear(dim, inner, bias=False)
        self.up = nn.Linear(inner, dim, bias=False)
        self.last_relu = last_relu

    def forward(self, f: Tensor) -> Tensor:
        """``[B, E] -> [B, E]``."""
        out = self.up(F.relu(self.down(f)))
        return F.relu(out) if self.last_relu else out


class ClipAdapter(Adapter):
    """CLIP-Adapter on the embedding of each tower that ``modality`` names.

    Not the identity at the start: the mix takes ``ratio`` of a random bottleneck, as published. ``pooled`` becomes the
    mixed embedding, so that a linear head reads it too, and ``embedding`` the same with unit length.
    """

    paper = (
        "Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters, IJCV 2024 (arXiv 2110.04544)"
    )
    licence = "Apache-2.0"
    formula = r"f^* = \alpha\, \mathrm{ReLU}(\mathrm{ReLU}(f W_1)\, W_2) + (1 - \alpha)\, f"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 100})
    size_knob = SizeKnob("reduction", shrinks=True)
    search = MappingProxyType({"ratio": (0.1, 0.2, 0.4, 0.6, 0.8), "reduction": (1, 2, 4, 8, 16)})
    text_padding = 0
    identity_at_init = False

    class Config(AdapterConfig):
        """Options; the defaults are those of the authors' code.

        Attributes:
            reduction: Width of the embedding divided by that of the bottleneck.
            ratio: ``alpha``, the share of the bottleneck in the image's embedding.
            text_ratio: The same for the text, ``beta`` in the paper.
            modality: Towers that get a bottleneck.
            last_relu: ReLU behind the second map, as in the code; the paper's equation has none.
        """

        reduction: int = Field(4, ge=1)
        ratio: float = Field(0.2, gt=0, le=1)
        text_ratio: float = Field(0.2, gt=0, le=1)
        modality: Reading = "visual"
        last_relu: bool = True

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.bottleneck = nn.ModuleDict()

    def supports(self, encoder: Encoder) -> Support:
        """Fits every encoder with weights that has the towers asked for."""
        towers = towers_with_features(encoder, encoder.sites(), self.config.modality)
        if not towers:
            return Support(False, f"it has no {self.config.modality} tower")
        if any(next(tower.parameters(), None) is None for tower, _ in towers.values()):
            return Support(False, "it has no weights, so what it gives is no embedding")
        return Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Adds one bottleneck per tower, on the projected embedding."""
        attachment = Attachment(encoder)
        self.bottleneck.clear()
        for name, (tower, site) in towers_with_features(encoder, sites, self.config.modality).items():
            attachment.record({"features": [site]})
            kind = next(tower.parameters()).dtype
            width = shared_embedding(tower, trace_features(tower)).shape[-1]  # pooled may be narrower than tokens
            bottleneck = EmbeddingBottleneck(width, self.config.reduction, self.config.last_relu).to(kind)
            self.bottleneck[name] = bottleneck
            ratio = self.config.text_ratio if reads_text(tower) else self.config.ratio
            attachment.map_features(tower, _mixing(tower, bottleneck, ratio))
        return attachment


def _mixing(tower: Encoder, bottleneck: EmbeddingBottleneck, ratio: float) -> Callable[[Features], Features]:
    def mix(features: Features) -> Features:
        f = shared_embedding(tower, features).to(bottleneck.down.weight.dtype)
        with torch.autocast(f.device.type, enabled=False):
            mixed = ratio * bottleneck(f) + (1 - ratio) * f
        return features.replace(pooled=mixed, embedding=F.normalize(mixed, dim=-1))

    return mix
