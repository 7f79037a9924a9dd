"""Houlsby adapters: a serial bottleneck behind both branches of each block, and the block's norms.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019 (arXiv 1902.00751), section 2.1: after the
attention and after the MLP of each block, directly behind the projection back to the tokens' width ``d`` and before the
residual addition, ``h <- h + W_up s(W_down h + b_down) + b_up`` with ``m`` numbers inside. With the layer norms of the
block, which are trained too, a block has ``2 (2 m d + d + m)`` and ``2 d`` numbers per norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import AdapterConfig, Attachment
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.parts.bottleneck import Bottleneck, SerialAdapter, branch_width
from medgraft.adapters.parts.placement import DepthGroup, Hits, select, unique
from medgraft.adapters.parts.substitution import Substitution
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site


class Houlsby(SerialAdapter):
    """Two serial bottlenecks per block, and the block's layer norms.

    Near the identity at the start but not it: the paper draws the weights from a normal of deviation 1e-2, cut at two
    deviations, with zero biases. The paper names no nonlinearity; this is the GELU of the authors' code. Norms over
    the head width, which the paper's encoder lacks, stay frozen. A layer scale, which it lacks too, comes after the
    bottleneck.
    """

    paper = "Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019 (arXiv 1902.00751)"
    licence = "Apache-2.0"
    formula = r"h \leftarrow h + W_{up}\, \mathrm{GELU}(W_{down} h + b_{down}) + b_{up}"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 6})
    size_knob = SizeKnob("width")
    search = MappingProxyType({"width": (8, 16, 32, 64, 128)})
    text_padding = 0
    identity_at_init = False

    class Config(AdapterConfig):
        """Options.

        Attributes:
            width: Numbers inside the bottleneck, ``m``; 8, 64 or 256 in the paper.
            std: Deviation of the weights' start; 1e-2 in the paper, 0 starts at the identity.
            norms: Also train the layer norms of the blocks that get a bottleneck, as in the paper.
            targets: Patterns of branches, ``blocks.{i}.attn`` and ``blocks.{i}.mlp``.
            depth: Group of blocks.
        """

        width: int = Field(64, ge=1)
        std: float = Field(0.01, ge=0, le=1)
        norms: bool = True
        targets: tuple[str, ...] = Field(("*.attn", "*.mlp"), min_length=1)
        depth: DepthGroup = "all"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.identity_at_init = self.config.std == 0
        self.norm = Substitution()

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Branches that ``targets`` names, in the blocks that ``depth`` names."""
        return select(encoder, sites, self.config.targets, {"branch"}, depth=self.config.depth, what="houlsby")

    def build_bottleneck(self, dim: int, like: Tensor) -> Bottleneck:
        """The bottleneck of one branch, ``[B, N, dim] -> [B, N, dim]``."""
        return Bottleneck(dim, self.config.width, F.gelu, self.config.std, like)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts a bottleneck behind each branch, and trained copies in the place of the blocks' norms."""
        attachment = super().attach(encoder, sites)
        self.norm.clear()
        if not self.config.norms:
            return attachment
        chosen = unique(self.select(encoder, sites))
        widths = {(site.tower, site.block): branch_width(encoder, site) for site in chosen}
        norms = [
            site
            for site in sites.values()
            if site.kind == "norm" and _width(encoder.get_submodule(site.path)) == widths.get((site.tower, site.block))
        ]
        if norms:
            attachment.record({"norms": norms})
        for site in norms:
            for part, _ in encoder.get_submodule(site.path).named_parameters(recurse=False):
                self.norm.add(attachment, site.path, part)
        return attachment


def _width(norm: nn.Module) -> int:
    weight = norm.weight
    assert isinstance(weight, Tensor)
    return weight.numel()
