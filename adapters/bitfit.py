"""BitFit: the encoder's biases, and nothing else.

Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models", ACL
2022 (arXiv 2106.10199), section 3: every bias is trained, of linear maps, convolutions and norms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pydantic import Field
from torch import nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment
from medgraft.adapters.parts.placement import DepthGroup, Hits, select
from medgraft.adapters.parts.substitution import Substitution
from medgraft.attachment.blank_run import used_parameters
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.errors import IncompatibleError

KINDS = {"projection", "layer", "norm", "branch"}


class BitFit(Adapter):
    """Trained copies in the place of the biases that the features depend on.

    The encoder keeps its own biases; the file holds the trained copies, and a fresh graft changes nothing. A packed
    ``qkv`` has one bias, so a pattern that names one of its projections stands for the three; the paper's smaller
    variant is ``targets=("q", "fc1")`` where projections are apart. Running means and variances of batch norms stay.
    """

    paper = (
        "Ben Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked "
        "Language-models, ACL 2022 (arXiv 2106.10199)"
    )
    licence = "Apache-2.0"
    formula = r"y = W_0 x + b, \quad b \text{ trained from } b_0"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 6})
    text_padding = 0
    mergeable = True

    class Config(AdapterConfig):
        """Options.

        Attributes:
            targets: Patterns of layers and norms.
            depth: Group of blocks.
        """

        targets: tuple[str, ...] = Field(("*",), min_length=1)
        depth: DepthGroup = "all"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.bias = Substitution()

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Layers and norms with a bias that ``targets`` names; fits every encoder with biases, CNNs included."""
        # The output projection of a fused attention is no layer of its own; its branch stands for it.
        offered = {name: site for name, site in sites.items() if site.kind != "branch" or site.in_mha}
        hits = select(encoder, offered, self.config.targets, KINDS, depth=self.config.depth, what="bitfit")
        return _with_any(hits, lambda site: next(_biases(encoder, site), None) is not None, "has no bias")

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts the copies in the place of the biases."""
        attachment = Attachment(encoder)
        attachment.on_detach(self.unmerge)
        used = set().union(*(used_parameters(tower) for tower in encoder.towers().values()))

        def matters(site: Site) -> bool:
            return any(value in used for _, _, value in _biases(encoder, site))

        hits = _with_any(self.select(encoder, sites), matters, "has no bias that a feature depends on")
        attachment.record(hits)
        self.bias.clear()
        done: set[tuple[str, str]] = set()
        for site in (site for matches in hits.values() for site in matches):
            for path, name, _ in _biases(encoder, site):
                if (path, name) not in done:
                    done.add((path, name))
                    self.bias.add(attachment, path, name)
        return attachment

    def merge(self) -> None:
        """Writes the trained biases into the encoder."""
        self.bias.merge()

    def unmerge(self) -> None:
        """Writes the encoder's own biases back."""
        self.bias.unmerge()


def _with_any(hits: Hits, keep, reason: str) -> Hits:
    kept = {pattern: [site for site in matches if keep(site)] for pattern, matches in hits.items()}
    for pattern, matches in kept.items():
        if not matches:
            raise IncompatibleError(
                f"bitfit.targets: nothing that {pattern!r} matches, {hits[pattern][0].name} first, {reason}"
            )
    return kept


def _biases(encoder: Encoder, site: Site) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Module path, attribute and value of the bias at a site; none where the layer has none."""
    module, path, name = encoder.get_submodule(site.path), site.path, "bias"
    if isinstance(module, nn.MultiheadAttention):
        if site.kind == "branch":
            module, path = module.out_proj, f"{site.path}.out_proj"
        else:
            name = "in_proj_bias"
    if (value := module._parameters.get(name)) is not None:
        yield path, name, value
