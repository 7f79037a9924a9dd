"""Blind: a few trained vectors in front of the prompt, the same for every sample, so that no image is seen.

Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021 (arXiv 2104.08691). It learns
what reports say on the whole, which is what any number of a table of reports must be held against.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.parts.language import beside_language_model
from medgraft.adapters.parts.placement import towers_with_features, trained_dtype
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import text_tower, visual_tower
from medgraft.errors import IncompatibleError
from medgraft.features import Features


class Blind(Adapter):
    """Trained soft tokens ``[S, C]`` that know nothing of the sample: the language prior as a baseline.

    The vectors start at random, so a fresh graft is not the identity.
    """

    title = "Blind: trained soft tokens, the same for every sample, and no image"
    paper = "Lester et al., The Power of Scale for Parameter-Efficient Prompt Tuning, EMNLP 2021 (arXiv 2104.08691)"
    licence = "Apache-2.0"
    formula = r"[\,P;\; \mathrm{prompt}\,]"
    train_defaults = MappingProxyType({"lr": 0.01, "epochs": 3})
    text_padding = 0
    identity_at_init = False
    size_knob = SizeKnob("tokens")
    search = MappingProxyType({"tokens": (4, 8, 16, 32)})

    class Config(AdapterConfig):
        """Options.

        Attributes:
            tokens: Number of soft tokens.
        """

        tokens: int = Field(16, ge=1)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.prompt: nn.Parameter | None = None
        self._visual = ""

    def supports(self, encoder: Encoder) -> Support:
        """Fits a visual tower beside a language model, like the adapters that it is compared with."""
        return beside_language_model(encoder)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts the vectors in the place of what the first visual tower sees."""
        attachment = Attachment(encoder)
        reader, seen = text_tower(encoder), visual_tower(encoder)
        if reader is None or seen is None:
            raise IncompatibleError(f"blind does not fit {encoder.spec.name}: {self.supports(encoder).reason}")
        self._visual = seen[0]
        tower, site = towers_with_features(encoder, sites, "visual")[seen[0]]
        attachment.record({"features": [site]})
        start = torch.empty(self.config.tokens, reader[1].spec.dim).normal_(std=0.02)
        self.prompt = nn.Parameter(start.to(trained_dtype(tower)))
        attachment.map_features(tower, self._unseeing)
        return attachment

    def _unseeing(self, features: Features) -> Features:
        assert self.prompt is not None
        tokens = self.prompt[None].expand(len(features.pooled), -1, -1)
        # What other adapters make of the image stays among what is pooled, which no language model reads.
        pooled = torch.cat([features.pooled, tokens.mean(dim=1).to(features.pooled.dtype)], dim=1)
        return Features(tokens, pooled, 0, (tokens.shape[1],))

    def soft_tokens(self, outputs: Mapping[str, Features]) -> tuple[Tensor, Tensor | None]:
        """The vectors for each sample, ``[B, S, C]``; all are real."""
        return outputs[self._visual].tokens, None
