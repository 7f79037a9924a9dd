"""Zero-shot: the encoder as it is, nothing trained; the reference that a contrastive adapter must beat.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021 (arXiv 2103.00020).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from medgraft.adapter import Adapter, Attachment, Support
from medgraft.encoder import DualEncoder, Encoder
from medgraft.encoder.sites import Site


class ZeroShot(Adapter):
    """Attaches nothing."""

    paper = (
        "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021 (arXiv "
        "2103.00020)"
    )
    licence = "Apache-2.0"
    formula = r"z_k = s \cos(x, t_k)"
    train_defaults = MappingProxyType({"epochs": 0})
    text_padding = 0

    def supports(self, encoder: Encoder) -> Support:
        """Fits encoders whose image and text towers share a space."""
        if isinstance(encoder, DualEncoder) and encoder.logit_scale is not None:
            return Support(True)
        return Support(False, "it has no space that image and text share")

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Records that nothing before the features changes."""
        attachment = Attachment(encoder)
        attachment.record({"features": [site for site in sites.values() if site.kind == "features"]})
        return attachment
