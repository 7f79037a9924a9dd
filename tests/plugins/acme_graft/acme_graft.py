"""A third party's adapter (one gain per channel of the pooled features) and encoder (the mean of the image)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field

from medgraft import Adapter, AdapterConfig, Attachment, Encoder, EncoderSpec, Features, Site


class Gain(Adapter):
    """Multiplies ``pooled`` by a trained gain; a family with the variants ``gain`` and ``frozen``."""

    api_version: ClassVar[int] = 1
    variant_field: ClassVar[str | None] = "kind"

    class Config(AdapterConfig):
        """Options.

        Attributes:
            start: Gain at the start.
            kind: ``frozen`` trains nothing.
        """

        start: float = Field(1.0, gt=0)
        kind: str = Field("gain", pattern="gain|frozen")

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Adds the gain behind every tower."""
        attachment = Attachment(encoder)
        attachment.record({"features": [site for site in sites.values() if site.kind == "features"]})
        self.gain = torch.nn.Parameter(torch.tensor(self.config.start), requires_grad=self.config.kind == "gain")
        for tower in encoder.towers().values():
            attachment.map_features(tower, lambda features: features.replace(pooled=features.pooled * self.gain))
        return attachment


class Mean(Encoder):
    """The mean of the image."""

    has_cls = False

    def encode(self, x: torch.Tensor, *, start: int = 0) -> Features:
        """``[B, 1, H, W] -> pooled [B, 1]``."""
        mean = x.mean(dim=(1, 2, 3))[:, None]
        return Features(tokens=mean[:, None], pooled=mean, n_prefix=0, grid=(1,))


class MeanSource:
    """Entry point ``acme_mean``."""

    api_version = 1

    @staticmethod
    def models() -> dict[str, str]:
        """Names that ``build`` takes."""
        return {"image": "the mean of an image"}

    @classmethod
    def build(cls, model: str, weights: str = "default", sha256: str | None = None) -> Mean:
        """Builds it."""
        return Mean(EncoderSpec(name=f"acme_mean:{model}", modality="image", input_size=(8, 8), dim=1, weights="none"))
