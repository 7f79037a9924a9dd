"""AdaptFormer: a scaled bottleneck beside the MLP of each block.

Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022 (arXiv
2205.13535), equations 2 and 3: ``x_l = MLP(LN(x'_l)) + s Up(ReLU(Down(LN(x'_l)))) + x'_l``, with ``s = 0.1``, 64
numbers inside, Kaiming's start of ``Down`` and zeros in ``Up``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapters.bottleneck import Bottleneck
from medgraft.adapters.placement import DepthGroup, Hits, key_of, select, unique
from medgraft.encoder import Encoder
from medgraft.errors import IncompatibleError
from medgraft.sites import Site


class AdaptFormer(Adapter):
    """A parallel bottleneck that reads what the MLP reads, the frozen norm's output, as the paper's equations say.

    The authors' code reads the tokens before that norm. Where an encoder scales the MLP's output (layer scale), the
    bottleneck's is scaled with it. In post-norm blocks (BERT) the MLP reads the attention's normed output.
    """

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

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.bottleneck = nn.ModuleDict()

    def supports(self, encoder: Encoder) -> Support:
        """Fits encoders with transformer blocks, in two and three dimensions and on text."""
        try:
            self._select(encoder, encoder.sites())
        except IncompatibleError as error:
            return Support(False, str(error))
        return Support(True)

    def _select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        return select(encoder, sites, self.config.targets, {"branch"}, depth=self.config.depth, what="adaptformer")

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts a bottleneck beside each branch."""
        attachment = Attachment(encoder)
        hits = self._select(encoder, sites)
        attachment.record(hits)
        self.bottleneck.clear()
        for site in unique(hits):
            like = next(encoder.get_submodule(site.path).parameters())
            dim = like.shape[1] if site.in_mha else like.shape[0]
            bottleneck = Bottleneck(dim, self.config.width, F.relu, 0.0, like)
            self.bottleneck[key_of(site)] = bottleneck
            attachment.add_to_branch(site, self._scaled(bottleneck))
        return attachment

    def _scaled(self, bottleneck: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: self.config.scale * bottleneck(x)
