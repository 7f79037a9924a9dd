"""ACE-HGNN: an attention-conditioned hypergraph layer that refines the CLS embedding.

Aydin et al., "ACE-LoRA: Graph-Attentive Context Enhancement for Parameter-Efficient Adaptation of Medical
Vision-Language Models", 2026 (arXiv 2603.17079): ``h_E = phi_1(H v)``, ``v' = phi_2(H^T h_E)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapters.kernels.hypergraph import cls_message_passing, message_passing
from medgraft.encoder import Encoder
from medgraft.errors import ConfigError
from medgraft.features import Features
from medgraft.sites import Site


class BottleneckMap(nn.Module):
    """``up(LeakyReLU(down(z)))`` without a skip connection; Kaiming-normal weights, default biases.

    Args:
        dim: Input and output width.
        hidden_dim: Width between.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden_dim)
        self.up = nn.Linear(hidden_dim, dim)
        for layer in (self.down, self.up):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, z: Tensor) -> Tensor:
        """``[..., dim] -> [..., dim]``."""
        return self.up(F.leaky_relu(self.down(z), 0.2))


class AceHgnn(nn.Module):
    """One hypergraph layer.

    Args:
        dim: Token width ``C``.
        hidden_dim: Width inside the two maps.
        top_k: Members of a hyperedge besides its centre.

    Example:
        >>> layer = AceHgnn(16, hidden_dim=4, top_k=3)
        >>> layer(torch.randn(2, 10, 16), torch.randn(2, 9)).shape
        torch.Size([2, 16])
    """

    def __init__(self, dim: int, hidden_dim: int = 128, top_k: int = 5) -> None:
        super().__init__()
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; a hyperedge needs at least one member")
        self.top_k = top_k
        self.edge = BottleneckMap(dim, hidden_dim)
        self.node = BottleneckMap(dim, hidden_dim)

    def forward(self, tokens: Tensor, scores: Tensor, return_tokens: bool = False) -> Tensor:
        """Refines the tokens.

        Args:
            tokens: ``[B, N, C]``, CLS first, L2-normalised in the published model.
            scores: CLS-to-token attention ``[B, N - 1]``.
            return_tokens: Return all tokens ``[B, N, C]`` in place of CLS ``[B, C]``, which costs ``N`` hyperedges in
                place of ``1 + top_k``.
        """
        if scores.shape != (tokens.shape[0], tokens.shape[1] - 1):
            raise ValueError(
                f"scores have shape {tuple(scores.shape)}; tokens {tuple(tokens.shape)} need one per token but CLS"
            )
        form = message_passing if return_tokens else cls_message_passing
        return form(tokens, scores, self.top_k, self.edge, self.node)


class AceHgnnAdapter(Adapter):
    """ACE-HGNN on the output tokens of each tower; ``pooled`` and ``embedding`` become the refined CLS, unit length.

    The layer has no skip connection and its result passes through two random maps, so a fresh graft does not equal
    the encoder (``identity_at_init`` is false), as published. Scores are raw products for images and probabilities
    for text, as published; tokens of padding are nodes like any other. The graph runs in float32 under autocast,
    since half precision makes ties in the top-k.
    """

    identity_at_init = False

    class Config(AdapterConfig):
        """Options.

        Attributes:
            hidden_dim: Width inside the maps.
            top_k: Members of a hyperedge besides its centre.
            modality: Which towers of a dual encoder get a layer.
        """

        hidden_dim: int = Field(128, ge=1)
        top_k: int = Field(5, ge=1)
        modality: Literal["both", "visual", "text"] = "both"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.layer = nn.ModuleDict()

    def _towers(self, encoder: Encoder) -> dict[str, Encoder]:
        wanted = self.config.modality
        return {
            name: tower
            for name, tower in encoder.towers().items()
            if wanted == "both" or (name == "text") == (wanted == "text")
        }

    def supports(self, encoder: Encoder) -> Support:
        """Fits encoders whose CLS token attends to the others in the last block."""
        towers = self._towers(encoder)
        if not towers:
            return Support(False, f"it has no {self.config.modality} tower")
        for name, tower in towers.items():
            if not tower.attention:
                return Support(False, f"its {name} tower has no attention, and the hypergraph needs CLS scores")
            if not tower.has_cls:
                return Support(False, f"its {name} tower has no CLS token, and the hypergraph starts from one")
        return Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Adds one layer per tower, on the projected tokens."""
        attachment = Attachment(encoder)
        features = [site for site in sites.values() if site.kind == "features"]
        for name, tower in self._towers(encoder).items():
            site = next(site for site in features if site.tower in ("", name))
            attachment.record({"features": [site]})
            kind = next((p.dtype for p in tower.parameters()), torch.float32)
            width = tower.project(torch.zeros(1, tower.spec.dim, device=tower.device, dtype=kind)).shape[-1]
            layer = AceHgnn(width, self.config.hidden_dim, self.config.top_k)
            # The graph runs in float32 at least, whatever the encoder's weights are kept in.
            layer.to(torch.promote_types(kind, torch.float32))
            self.layer[name] = layer
            attachment.map_features(tower, _refine(tower, layer, text=name == "text"), scores=True)
        return attachment


def _refine(tower: Encoder, layer: AceHgnn, text: bool):
    def refine(features: Features) -> Features:
        scores = features.cls_probs if text else features.cls_scores
        if scores is None:
            raise ConfigError("the hypergraph needs CLS scores; compute the features with scores=True")
        tokens = features.tokens
        if features.n_prefix > 1:
            tokens = torch.cat([tokens[:, :1], tokens[:, features.n_prefix :]], dim=1)
        with torch.autocast(tokens.device.type, enabled=False):
            kind = next((p.dtype for p in tower.parameters()), tokens.dtype)
            projected = tower.project(tokens.to(kind)).to(layer.edge.down.weight.dtype)
            refined = layer(F.normalize(projected, dim=-1), scores.to(projected.dtype).mean(dim=1))
            refined = F.normalize(refined, dim=-1)
        return features.replace(pooled=refined, embedding=refined)

    return refine
