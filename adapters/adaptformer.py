"""AdaptFormer: a scaled bottleneck beside the MLP of each block.

Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022 (arXiv
2205.13535), equations 2 and 3: ``x_l = MLP(LN(x'_l)) + s Up(ReLU(Down(LN(x'_l)))) + x'_l``, with ``s = 0.1``, 64
numbers inside, Kaiming's start of ``Down`` and zeros in ``Up``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch.nn.functional as F
from pydantic import Field
from torch import nn

from medgraft.adapter import AdapterConfig, Attachment
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapter.site_adapter import SiteAdapter
from medgraft.adapters.parts.bottleneck import Bottleneck, branch_width
from medgraft.adapters.parts.placement import DepthGroup, Hits, select
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site


class AdaptFormer(SiteAdapter):
    """A parallel bottleneck that reads what the MLP reads, the frozen norm's output, as the paper's equations say.

    The authors' code reads the tokens before that norm. Where an encoder scales the MLP's output (layer scale), the
    bottleneck's is scaled with it. In post-norm blocks (BERT) the MLP reads the attention's normed output.
    """

    paper = (
        "Chen et al., AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition, NeurIPS 2022 (arXiv "
        "2205.13535)"
    )
    licence = "Apache-2.0"
    formula = (
        r"x_\ell = \mathrm{MLP}(\mathrm{LN}(x'_\ell)) + s\, W_{up}\, \mathrm{ReLU}(W_{down}\, "
        r"\mathrm{LN}(x'_\ell)) + x'_\ell"
    )
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 6})
    size_knob = SizeKnob("width")
    search = MappingProxyType({"width": (4, 16, 32, 64, 128), "scale": (0.01, 0.05, 0.1, 0.5, 1.0)})
    text_padding = 0

    class Config(AdapterConfig):
        """Options.

        Attributes:
            width: Numbers inside the bottleneck.
            scale: Factor ``s`` on what the bottleneck adds.
            targets: Patterns of branches, ``blocks.{i}.mlp`` and ``blocks.{i}.attn``.
            depth: Group of blocks.
        """

        width: int = Field(64, ge=1)
        scale: float = Field(0.1, gt=0)
        targets: tuple[str, ...] = Field(("*.mlp",), min_length=1)
        depth: DepthGroup = "all"

    config: Config
    modules_name = "bottleneck"

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Branches that ``targets`` names, in the blocks that ``depth`` names."""
        return select(encoder, sites, self.config.targets, {"branch"}, depth=self.config.depth, what="adaptformer")

    def build(self, encoder: Encoder, site: Site) -> Bottleneck:
        """The bottleneck beside one branch, ``[B, N, C] -> [B, N, C]``."""
        like = next(encoder.get_submodule(site.path).parameters())
        return Bottleneck(branch_width(encoder, site), self.config.width, F.relu, 0.0, like)

    def connect(self, attachment: Attachment, site: Site, module: nn.Module) -> None:
        """Adds what the bottleneck makes of the branch's input ``[B, N, C]``, scaled, to the branch's output."""
        attachment.add_to_branch(site, lambda x: self.config.scale * module(x))
