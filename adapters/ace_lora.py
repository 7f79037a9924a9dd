"""ACE-LoRA: LoRA on every q, k and v of both encoders, and an attention-conditioned hypergraph on their outputs.

Aydin et al., "ACE-LoRA: Graph-Attentive Context Enhancement for Parameter-Efficient Adaptation of Medical
Vision-Language Models", 2026 (arXiv 2603.17079). On BiomedCLIP this trains 969,217 numbers: 442,368 in LoRA, 526,848
in the hypergraph maps, one similarity multiplier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapters.ace_hgnn import AceHgnnAdapter
from medgraft.adapters.lora import DepthGroup, Lora
from medgraft.encoder import DualEncoder, Encoder
from medgraft.sites import Site


class AceLora(Adapter):
    """LoRA and ACE-HGNN with the published settings.

    The hypergraph makes a fresh graft differ from the encoder, as published (``identity_at_init`` is false).
    """

    identity_at_init = False

    class Config(AdapterConfig):
        """Options; the defaults are the published ones.

        Attributes:
            rank: LoRA rank.
            alpha: LoRA numerator; the factor is ``alpha / sqrt(rank)``, 0.5 by default.
            dropout: Dropout on the LoRA branch's input.
            depth: Blocks that get LoRA.
            hidden_dim: Width inside the hypergraph maps.
            top_k: Members of a hyperedge besides its centre.
            hypergraph: Which towers get a hypergraph.
            train_logit_scale: Train the similarity multiplier of a dual encoder, directly and not its logarithm.
        """

        rank: int = Field(4, ge=1)
        alpha: float = Field(1.0, gt=0)
        dropout: float = Field(0.1, ge=0, lt=1)
        depth: DepthGroup = "all"
        hidden_dim: int = Field(128, ge=1)
        top_k: int = Field(5, ge=1)
        hypergraph: Literal["both", "visual", "text"] = "both"
        train_logit_scale: bool = True

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        own = self.config
        self.lora = Lora(
            Lora.Config(
                rank=own.rank,
                alpha=own.alpha,
                rank_stabilised=True,
                dropout=own.dropout,
                targets=("q", "k", "v"),
                depth=own.depth,
            )
        )
        self.hgnn = AceHgnnAdapter(
            AceHgnnAdapter.Config(hidden_dim=own.hidden_dim, top_k=own.top_k, modality=own.hypergraph)
        )
        self.register_parameter("scale", None)

    def supports(self, encoder: Encoder) -> Support:
        """Fits where both of its parts fit."""
        lora = self.lora.supports(encoder)
        return self.hgnn.supports(encoder) if lora else lora

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Attaches LoRA, then the hypergraph, which reads what LoRA changed."""
        attachment = self.lora.attach(encoder, sites)
        attachment.absorb(self.hgnn.attach(encoder, sites))
        if self.config.train_logit_scale and isinstance(encoder, DualEncoder) and encoder.logit_scale is not None:
            self.scale = nn.Parameter(torch.tensor(float(encoder.logit_scale)))
        return attachment

    def logit_scale(self) -> Tensor | None:
        """The trained multiplier."""
        return self.scale
