"""Two sound adapters, which keep every rule of the kit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.encoder.sites import Site, match_sites


class Delta(nn.Module):
    """A bottleneck with a residual connection; zero at the start."""

    def __init__(self, owner: Sound, dim: int) -> None:
        super().__init__()
        self.owner = (owner,)  # a tuple, so that it is no submodule
        self.down = nn.Linear(dim, owner.config.width)
        self.up = nn.Linear(owner.config.width, dim, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.owner[0].change(x, self.up(F.gelu(self.down(x))) * self.owner[0].config.scale)


class Sound(Adapter):
    """Keeps every rule."""

    class Config(AdapterConfig):
        """Options.

        Attributes:
            width: Of the bottleneck.
            scale: Factor on it.
            targets: Patterns of blocks.
        """

        width: int = Field(4, ge=1)
        scale: float = Field(1.0, gt=0)
        targets: tuple[str, ...] = ("blocks.*",)

    config: Config

    def __init__(self, config=None):
        super().__init__(config)
        self.delta = nn.ModuleDict()

    def supports(self, encoder):
        if not all(tower.attention for tower in encoder.towers().values()):
            return Support(False, "one of its towers has no attention")
        return Support(True)

    def hits(self, sites) -> dict[str, list[Site]]:
        found = match_sites(sites, self.config.targets, "targets")
        return {pattern: [site for site in hit if site.kind == "block"] for pattern, hit in found.items()}

    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        hits = self.hits(sites)
        self.before(encoder, attachment)
        self.record(attachment, hits)
        self.delta.clear()
        for site in [site for hit in hits.values() for site in hit]:
            tower = encoder.towers()[site.tower] if site.tower else encoder
            self.delta[site.name.replace(".", "/")] = delta = self.make(tower.spec.dim)
            attachment.map_output(site, delta)
        self.after(encoder, attachment)
        return attachment

    def before(self, encoder, attachment):
        """What a broken one does before anything is recorded."""

    def record(self, attachment, hits):
        attachment.record(hits)

    def make(self, dim):
        return Delta(self, dim)

    def after(self, encoder, attachment):
        """What a broken one does last."""

    def change(self, x, delta):
        return x + delta


class SoundMerge(Adapter):
    """A full update of the last linear map of each block, which can be merged; keeps every rule."""

    mergeable = True

    def __init__(self, config=None):
        super().__init__(config)
        self.update = nn.ParameterDict()
        self.places: list[nn.Linear] = []
        self.kept: list[torch.Tensor] = []

    def supports(self, encoder):
        if not any(name.endswith("mlp.3") for name in encoder.sites()):
            return Support(False, "its blocks have no second linear map")
        return Support(True)

    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        attachment.on_detach(self.unmerge)
        hits = [site for site in sites.values() if site.name.endswith("mlp.3")]
        attachment.record({"mlp.3": hits})
        for site in hits:
            base = encoder.get_submodule(site.path)
            self.update[site.name.replace(".", "/")] = weight = nn.Parameter(torch.zeros_like(base.weight))
            self.places.append(base)
            attachment.add_to_output(site, lambda x, weight=weight: None if self.kept else F.linear(x, weight))
        return attachment

    @torch.no_grad()
    def merge(self):
        self.kept = [base.weight.clone() for base in self.places]
        for base, weight in zip(self.places, self.update.values(), strict=True):
            base.weight += weight

    @torch.no_grad()
    def unmerge(self):
        for base, weight in zip(self.places, self.kept, strict=False):
            base.weight.copy_(weight)
        self.kept = []
