"""Pfeiffer adapters: one serial bottleneck per block, behind the MLP.

Pfeiffer et al., "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", EACL 2021 (arXiv 2005.00247),
and "MAD-X: An Adapter-Based Framework for Multi-Task Cross-Lingual Transfer", EMNLP 2020 (arXiv 2005.00052),
equation 1: ``h <- U ReLU(D h) + r``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medgraft.adapter import AdapterConfig
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.parts.bottleneck import Bottleneck, SerialAdapter
from medgraft.adapters.parts.placement import DepthGroup, Hits, select
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site


class Pfeiffer(SerialAdapter):
    """One serial bottleneck per block, behind the MLP.

    The published form reads the norm that follows the MLP in a post-norm block; pre-norm blocks have none, so the
    bottleneck reads what it is added to, in both kinds. The papers leave the start open; here ``U`` starts at zero, so
    a fresh graft changes nothing.
    """

    paper = (
        "Pfeiffer et al., AdapterFusion: Non-Destructive Task Composition for Transfer Learning, EACL 2021 (arXiv "
        "2005.00247)"
    )
    licence = "Apache-2.0"
    formula = r"h \leftarrow h + U\, \mathrm{ReLU}(D h)"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 6})
    size_knob = SizeKnob("reduction", shrinks=True)
    search = MappingProxyType({"reduction": (2, 4, 8, 16, 32)})
    text_padding = 0

    class Config(AdapterConfig):
        """Options.

        Attributes:
            reduction: Width of the tokens over the width of the bottleneck, 16 in the paper; 8 numbers inside at
                least (ours), since fewer ReLUs may all be dead.
            targets: Patterns of branches, ``blocks.{i}.mlp`` and ``blocks.{i}.attn``.
            depth: Group of blocks.
        """

        reduction: int = Field(16, ge=1)
        targets: tuple[str, ...] = Field(("*.mlp",), min_length=1)
        depth: DepthGroup = "all"

    config: Config

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Branches that ``targets`` names, in the blocks that ``depth`` names."""
        return select(encoder, sites, self.config.targets, {"branch"}, depth=self.config.depth, what="pfeiffer")

    def build_bottleneck(self, dim: int, like: Tensor) -> Bottleneck:
        """The bottleneck of one branch, ``[B, N, dim] -> [B, N, dim]``."""
        return Bottleneck(dim, max(dim // self.config.reduction, 8), F.relu, 0.0, like)
