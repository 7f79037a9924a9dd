"""plugin_name: a residual bottleneck on the output tokens of any encoder (Houlsby et al., 2019)."""

from collections.abc import Mapping
from functools import partial

from medgraft import Adapter, AdapterConfig, Attachment, Encoder, Features, Site, Support
from pydantic import Field
from torch import nn


class PluginAdapter(Adapter):
    """``tokens + up(gelu(down(tokens)))``; ``up`` starts at zero, so that a fresh graft changes nothing."""

    class Config(AdapterConfig):
        width: int = Field(16, ge=1, description="channels of the bottleneck")

    config: Config

    def supports(self, encoder: Encoder) -> Support:
        """Fits every encoder whose tokens are more than grey values."""
        grey = any(tower.spec.dim == 1 for tower in encoder.towers().values())
        return Support(False, "its tokens have only one channel") if grey else Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts a bottleneck behind the features of each tower: tokens ``[B, N, C]``, pooled ``[B, C]``."""
        attachment, self.branches = Attachment(encoder), nn.ModuleDict()
        attachment.record({"features": [site for site in sites.values() if site.kind == "features"]})
        for name, tower in encoder.towers().items():
            up = nn.Linear(self.config.width, tower.spec.dim, bias=False)
            nn.init.zeros_(up.weight)
            self.branches[name] = nn.Sequential(nn.Linear(tower.spec.dim, self.config.width), nn.GELU(), up)
            attachment.map_features(tower, partial(_changed, self.branches[name]))
        return attachment


def _changed(branch: nn.Module, features: Features) -> Features:
    real = 1 if features.mask is None else features.mask[..., None]  # padding stays as it is
    change = branch(features.tokens) * real
    return features.replace(tokens=features.tokens + change, pooled=features.pooled + change.mean(dim=1))
