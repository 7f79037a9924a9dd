"""ACE-LoRA: LoRA on every q, k and v of both encoders, and an attention-conditioned hypergraph on their outputs.

Aydin et al., "ACE-LoRA: Graph-Attentive Context Enhancement for Parameter-Efficient Adaptation of Medical
Vision-Language Models", 2026 (arXiv 2603.17079). On BiomedCLIP this trains 969,217 numbers: 442,368 in LoRA, 526,848
in the hypergraph maps, one similarity multiplier.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.ace_hgnn import AceHgnnAdapter
from medgraft.adapters.lora import Lora
from medgraft.adapters.parts.ace_graphs import GraphKind
from medgraft.adapters.parts.ace_lora_files import BIOMEDCLIP, export_ace_lora, import_ace_lora
from medgraft.adapters.parts.placement import DepthGroup
from medgraft.checkpoints.weights import UNRECORDED
from medgraft.encoder import DualEncoder, Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import reads_text


class AceLora(Adapter):
    """LoRA and ACE-HGNN with the published settings.

    The hypergraph makes a fresh graft differ from the encoder, as published (``identity_at_init`` is false).
    """

    paper = "Aydin et al., ACE-LoRA, 2026 (arXiv 2603.17079)"
    licence = "Apache-2.0"
    formula = (
        r"h = W_0 x + \frac{\alpha}{\sqrt{r}} B A x"
        "\n"
        r"X' = \phi_2\left(H^\top \phi_1(H X)\right)"
    )
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 6})
    size_knob = SizeKnob("rank")
    search = MappingProxyType({"rank": (2, 4, 8, 16, 32), "alpha": (0.25, 0.5, 1.0, 2.0, 4.0)})
    identity_at_init = False

    class Config(AdapterConfig):
        """Options, published ones but for ``text_dropout``, ``prompt_ensemble`` and ``test_scale``.

        Attributes:
            rank: LoRA rank, at most the smaller width of each layer.
            alpha: LoRA numerator; the factor is ``alpha / sqrt(rank)``, 0.5 by default.
            dropout: Dropout on the LoRA branch's input.
            depth: Blocks that get LoRA.
            text_dropout: Dropout in training after the text tower's embeddings and MLPs, where there is a text tower.
                The published script trained with BERT's own, 0.1; by default a frozen encoder stays as it is.
            hidden_dim: Width inside the hypergraph maps.
            top_k: Members of a hyperedge besides its centre.
            hypergraph: Which towers get a hypergraph; with ``none`` it is plain LoRA under the same recipe.
            graph: How messages pass: ``attention`` as published, or the same neighbours in a layer of torch-geometric.
            cls_attention: What CLS weighs tokens by: ``published`` takes scaled query-key products for images and
                probabilities for text, ``logits`` and ``probabilities`` take one of the two for both.
            return_tokens: Refine all tokens, not CLS alone.
            prompt_ensemble: How the prompts of a class become one embedding: the mean of their ``embeddings``, or of
                their ``tokens`` position by position, as published.
            train_logit_scale: Train the similarity multiplier of a dual encoder, directly and not its logarithm.
            test_scale: Multiplier in evaluation: the ``trained`` one, or the ``encoder``'s own as in the published
                scripts; it moves class probabilities and one-against-rest AUC, never the predicted class.
        """

        rank: int = Field(4, ge=1)
        alpha: float = Field(1.0, gt=0)
        dropout: float = Field(0.1, ge=0, lt=1)
        depth: DepthGroup = "all"
        text_dropout: float = Field(0.0, ge=0, lt=1)
        hidden_dim: int = Field(128, ge=1)
        top_k: int = Field(5, ge=1)
        hypergraph: Literal["both", "visual", "text", "none"] = "both"
        graph: Literal["attention"] | GraphKind = "attention"
        cls_attention: Literal["published", "logits", "probabilities"] = "published"
        return_tokens: bool = False
        prompt_ensemble: Literal["embeddings", "tokens"] = "embeddings"
        train_logit_scale: bool = True
        test_scale: Literal["trained", "encoder"] = "trained"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        options = self.config
        self.lora = Lora(
            Lora.Config(
                rank=options.rank,
                alpha=options.alpha,
                rank_stabilised=True,
                dropout=options.dropout,
                targets=("q", "k", "v"),
                depth=options.depth,
            )
        )
        self.hgnn = (
            None if options.hypergraph == "none" else AceHgnnAdapter(_hypergraph_options(options, options.hypergraph))
        )
        self.identity_at_init = self.hgnn is None
        self.text_padding = 0 if self.hgnn is None else self.hgnn.text_padding
        self.text_dropout = nn.Dropout(options.text_dropout)
        self.register_parameter("scale", None)

    def supports(self, encoder: Encoder) -> Support:
        """Fits where both of its parts fit."""
        lora = self.lora.supports(encoder)
        return self.hgnn.supports(encoder) if lora and self.hgnn is not None else lora

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Attaches LoRA, then the hypergraph, which reads what LoRA changed."""
        attachment = self.lora.attach(encoder, sites)
        if self.config.text_dropout:
            self._drop_text(attachment, encoder, sites)
        if self.hgnn is not None:
            attachment.absorb(self.hgnn.attach(encoder, sites))
        if self.config.train_logit_scale and isinstance(encoder, DualEncoder) and encoder.logit_scale is not None:
            self.scale = nn.Parameter(torch.tensor(float(encoder.logit_scale)))
        return attachment

    def _drop_text(self, attachment: Attachment, encoder: Encoder, sites: Mapping[str, Site]) -> None:
        towers = encoder.towers()
        mine = [site for site in sites.values() if reads_text(towers[site.tower or next(iter(towers))])]
        first = [site for site in mine if site.kind == "block" and site.block == 0]
        branches = [site for site in mine if site.kind == "branch" and site.name.endswith(".mlp")]
        for site in first:
            attachment.map_block_input(site, self.text_dropout)
        for site in branches:
            attachment.map_output(site, self.text_dropout)
        attachment.record({"text_dropout": [*first, *branches]} if mine else {})

    def logit_scale(self) -> Tensor | None:
        """The trained multiplier, a scalar; ``None`` in evaluation where ``test_scale`` asks for the encoder's."""
        return self.scale if self.training or self.config.test_scale == "trained" else None

    @staticmethod
    def import_file(path: Path, out: Path, encoder: str | None = None) -> str:
        """Makes an adapter folder of the authors' file; see :mod:`medgraft.adapters.parts.ace_lora_files`."""
        encoder = encoder or BIOMEDCLIP
        imported = import_ace_lora(path, out, encoder)
        text = f"{imported.numbers:,} numbers of ACE-LoRA written to {imported.folder}, for encoder {encoder}"
        if imported.base_digest != UNRECORDED:
            return text
        return (
            f"{text}\nthe weights of {encoder} are not on this machine, so the folder does not record which ones the "
            "adapter belongs to, and loading it cannot check them"
        )

    @staticmethod
    def export_file(folder: Path, path: Path) -> str:
        """Writes an adapter folder in the authors' layout; says what was written."""
        return f"{export_ace_lora(folder, path):,} numbers written to {path} in the layout of ACE-LoRA's authors"

    def prompt_ensemble(self, count: int) -> AbstractContextManager[None] | None:
        """Joins the prompts of a class as the hypergraph does."""
        return None if self.hgnn is None else self.hgnn.prompt_ensemble(count)


def _hypergraph_options(config: AceLora.Config, modality: Literal["both", "visual", "text"]) -> AceHgnnAdapter.Config:
    return AceHgnnAdapter.Config(
        hidden_dim=config.hidden_dim,
        top_k=config.top_k,
        modality=modality,
        graph=config.graph,
        cls_attention=config.cls_attention,
        return_tokens=config.return_tokens,
        prompt_ensemble=config.prompt_ensemble,
    )
