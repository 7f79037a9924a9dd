"""Full fine-tuning: every value of the encoder, the upper reference that adapters are measured against.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", NAACL 2019 (arXiv
1810.04805), section 3.2, for transformers; the usual practice before adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from medgraft.adapter import Adapter, AdapterConfig, Attachment
from medgraft.adapters.parts.placement import DepthGroup, in_depth
from medgraft.adapters.parts.substitution import Substitution
from medgraft.attachment.blank_run import used_parameters
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.errors import IncompatibleError


class FullFinetune(Adapter):
    """Trained copies in the place of every parameter of the encoder that its features depend on.

    Its file is as large as the encoder: it holds the trained copies, under this adapter's own names, and training
    takes the memory of a second encoder. The encoder itself stays bit for bit as it was, so it serves other grafts
    and comes back on ungraft; a fresh graft changes nothing. Parameters that no token and no pooled embedding depends
    on (a projection into a space shared with text, a mask token of the pre-training) stay frozen, and so do the running
    means and variances of batch norms and all dropout.
    """

    paper = (
        "Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, NAACL 2019 "
        "(arXiv 1810.04805), for transformers"
    )
    licence = "Apache-2.0"
    formula = r"y = f_\theta(x), \quad \theta \text{ trained from } \theta_0"
    train_defaults = MappingProxyType({"lr": 0.0001, "epochs": 6})
    text_padding = 0
    mergeable = True

    class Config(AdapterConfig):
        """Options.

        Attributes:
            depth: Group of blocks; ``all`` also trains what lies outside of blocks, the others leave that frozen.
        """

        depth: DepthGroup = "all"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.value = Substitution()

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> dict[str, list[Site]]:
        """Everything but the features, or the blocks that ``depth`` names."""
        depth = self.config.depth
        if next(encoder.parameters(), None) is None:
            raise IncompatibleError("full_finetune trains the values of an encoder, and this one has none")
        if depth == "all":
            return {"all": [site for site in sites.values() if site.kind != "features"]}
        selected = [site for site in sites.values() if site.block is not None and in_depth(encoder, site, depth)]
        if not selected:
            raise IncompatibleError(f"full_finetune.depth: this encoder has no block in depth group {depth!r}")
        return {depth: selected}

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts the copies in the place of the values."""
        attachment = Attachment(encoder)
        attachment.on_detach(self.unmerge)
        hits = self.select(encoder, sites)
        self.value.clear()
        used = set().union(*(used_parameters(tower) for tower in encoder.towers().values()))

        def matters(site: Site) -> bool:
            return not site.path or not used.isdisjoint(encoder.get_submodule(site.path).parameters())

        attachment.record({group: [site for site in matches if matters(site)] for group, matches in hits.items()})
        roots = [site.path for matches in hits.values() for site in matches]
        for path, module in encoder.named_modules():
            inside = any(path == root or path.startswith(f"{root}.") for root in roots)
            if self.config.depth != "all" and not inside:
                continue
            for name, value in list(module.named_parameters(recurse=False)):
                if value in used:
                    self.value.add(attachment, path, name)
        return attachment

    def merge(self) -> None:
        """Writes the trained values into the encoder."""
        self.value.merge()

    def unmerge(self) -> None:
        """Writes the encoder's own values back."""
        self.value.unmerge()
