"""VPT: trained prompt tokens beside the tokens of a vision transformer.

Jia et al., "Visual Prompt Tuning", ECCV 2022 (arXiv 2203.12119), equations 4 to 7. Deep: every block reads
``[x, P_i, E]`` with prompts of its own, and what it makes of them is dropped,
``[x_i, _, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}])``. Shallow: the first block reads prompts, and what each block makes
of them goes on to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.parts.placement import TOKENS, DepthGroup, Hits, key_of, select, tower_of, unique
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.features import Features


class Vpt(Adapter):
    """Prompt tokens in the transformer blocks of towers that read no text; text towers stay as they are.

    Not the identity at the start: prompts take a share of every attention, whatever they hold. They are drawn from
    ``U(-b, b)`` with ``b = sqrt(3 / C)``, the paper's Xavier bound ``sqrt(6 / (3 p^2 + C))`` where a patch has as many
    values as a token, as in ViT-B/16. They come after the CLS token, and are taken out behind the last block that
    reads them, so tokens, grid and heads know nothing of them. CLS scores are those of the patches; probabilities are
    shares of a sum that prompts take part in.
    """

    paper = "Jia et al., Visual Prompt Tuning, ECCV 2022 (arXiv 2203.12119)"
    licence = "Apache-2.0"
    formula = r"[x_i, \_, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}])"
    train_defaults = MappingProxyType({"lr": 0.003, "epochs": 10})
    size_knob = SizeKnob("prompts")
    search = MappingProxyType({"prompts": (1, 5, 10, 20, 50)})
    text_padding = 0
    identity_at_init = False

    class Config(AdapterConfig):
        """Options.

        Attributes:
            prompts: Prompt tokens per block (deep) or in all (shallow).
            mode: ``deep`` or ``shallow``.
            depth: Group of blocks; in shallow mode prompts enter at its first block and leave behind its last.
        """

        prompts: int = Field(10, ge=1)
        mode: Literal["deep", "shallow"] = "deep"
        depth: DepthGroup = "all"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.prompt = nn.ParameterDict()

    def supports(self, encoder: Encoder) -> Support:
        """Fits towers of transformer blocks whose positions are added to the tokens; DIVER's take more registers."""
        if not (support := super().supports(encoder)):
            return support
        if any(tower_of(encoder, site).rotary for site in unique(self.select(encoder, encoder.sites()))):
            needs = "its attention turns tokens by their place, or works on parts of a grid or along edges of a graph"
            return Support(False, f"{needs}, and a prompt token has none")
        return Support(True)

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Blocks that ``depth`` names, of towers that read no text."""
        patterns, depth = ("blocks.*",), self.config.depth
        return select(encoder, sites, patterns, {"block"}, depth=depth, what="vpt", towers=TOKENS)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Lets blocks read prompts, and takes them out again."""
        attachment = Attachment(encoder)
        hits = self.select(encoder, sites)
        attachment.record(hits)
        self.prompt.clear()
        by_tower: dict[str, list[Site]] = {}
        for site in unique(hits):
            by_tower.setdefault(site.tower, []).append(site)
        for blocks in by_tower.values():
            tower = tower_of(encoder, blocks[0])
            at, dtype = int(tower.has_cls), next(tower.parameters()).dtype
            deep = self.config.mode == "deep"
            for first, last in [(b, b) for b in blocks] if deep else [(blocks[0], blocks[-1])]:
                prompt = nn.Parameter(torch.empty(self.config.prompts, tower.spec.dim, dtype=dtype))
                nn.init.uniform_(prompt, -math.sqrt(3 / tower.spec.dim), math.sqrt(3 / tower.spec.dim))
                self.prompt[key_of(first)] = prompt
                attachment.map_block_input(first, self._insert(key_of(first), at))
                attachment.map_output(last, self._remove(at))
            attachment.map_features(tower, _drop_scores)
        return attachment

    def _insert(self, key: str, at: int) -> Callable[[Tensor], Tensor]:
        def insert(x: Tensor) -> Tensor:
            prompt = self.prompt[key].to(x.dtype).expand(x.shape[0], -1, -1)
            return torch.cat([x[:, :at], prompt, x[:, at:]], dim=1)

        return insert

    def _remove(self, at: int) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat([x[:, :at], x[:, at + self.config.prompts :]], dim=1)


def _drop_scores(features: Features) -> Features:
    """The last block's scores were taken with its prompts; the patches come last."""
    if features.cls_scores is None or features.cls_probs is None:
        return features
    places = features.tokens.shape[1] - features.n_prefix
    return features.replace(cls_scores=features.cls_scores[..., -places:], cls_probs=features.cls_probs[..., -places:])
