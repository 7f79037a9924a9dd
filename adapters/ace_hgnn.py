"""ACE-HGNN: an attention-conditioned hypergraph layer that refines the CLS embedding.

Aydin et al., "ACE-LoRA: Graph-Attentive Context Enhancement for Parameter-Efficient Adaptation of Medical
Vision-Language Models", 2026 (arXiv 2603.17079): ``h_E = phi_1(H v)``, ``v' = phi_2(H^T h_E)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.kernels.hypergraph.op import cls_hyperedges, hypergraph_layer, read_cls
from medgraft.adapters.parts.ace_graphs import GraphKind, NeighbourGraph
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import Reading, reads_text, towers_reading
from medgraft.errors import ConfigError
from medgraft.features import Condenser, Features
from medgraft.modality import is_text
from medgraft.ops import backends


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
        """``[..., dim] -> [..., dim]``, in the type of ``z``, which is wider than weights in half precision."""
        if z.dtype == self.down.weight.dtype or torch.is_autocast_enabled(z.device.type):
            return self.up(F.leaky_relu(self.down(z), 0.2))
        down, up = ([part.to(z.dtype) for part in (layer.weight, layer.bias)] for layer in (self.down, self.up))
        return F.linear(F.leaky_relu(F.linear(z, *down), 0.2), *up)


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
        if return_tokens:
            arguments = (tokens, scores, self.top_k, self.edge, self.node)
            return hypergraph_layer(*arguments, all_tokens=True, backend=backends.current())
        return self.read(*cls_hyperedges(tokens, scores, self.top_k))

    def read(self, hyperedges: Tensor, weights: Tensor) -> Tensor:
        """CLS ``[B, C]`` from the hyperedges that reach it, see :func:`~.kernels.hypergraph.cls_hyperedges`."""
        backends.choose("hypergraph_cls", backends.current(), None)  # the short form is exact, so it is every backend's
        return read_cls(hyperedges, weights, self.edge, self.node)


class AceHgnnAdapter(Adapter):
    """ACE-HGNN on the output tokens of each tower; ``pooled`` and ``embedding`` become the refined CLS, unit length.

    The layer has no skip connection and its result passes through two random maps, so a fresh graft does not equal
    the encoder (``identity_at_init`` is false), as published. Tokens of padding are nodes like any other, as
    published. The graph runs in float32 under autocast, since half precision makes ties in the top-k.
    """

    paper = "Aydin et al., ACE-LoRA, 2026 (arXiv 2603.17079), section on the attention-conditioned hypergraph network"
    licence = "Apache-2.0"
    formula = r"X' = \phi_2\left(H^\top \phi_1(H X)\right)"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 10})
    size_knob = SizeKnob("hidden_dim")
    search = MappingProxyType({"top_k": (1, 3, 5, 7, 10)})
    identity_at_init = False

    class Config(AdapterConfig):
        """Options; the defaults are the published ones but for ``prompt_ensemble``.

        Attributes:
            hidden_dim: Width inside the maps.
            top_k: Members of a hyperedge besides its centre.
            modality: Which towers of a dual encoder get a layer.
            graph: ``attention`` is ACE-HGNN; ``gat``, ``gatv2`` and ``hypergraph_conv`` pass messages between the
                same neighbours with layers of torch-geometric.
            cls_attention: What CLS weighs tokens by: ``published`` takes scaled query-key products for images and
                probabilities for text, ``logits`` and ``probabilities`` take one of the two for both.
            return_tokens: ``tokens`` become the refined tokens ``[B, N, E]`` too, from all ``N`` hyperedges; by
                default only the ``1 + top_k`` that reach CLS are computed, and ``tokens`` stay the encoder's.
            prompt_ensemble: How the prompts of a class become one embedding: ``embeddings`` averages what the layer
                makes of each, ``tokens`` averages their tokens position by position before the layer, as published.
        """

        hidden_dim: int = Field(128, ge=1)
        top_k: int = Field(5, ge=1)
        modality: Reading = "both"
        graph: Literal["attention"] | GraphKind = "attention"
        cls_attention: Literal["published", "logits", "probabilities"] = "published"
        return_tokens: bool = False
        prompt_ensemble: Literal["embeddings", "tokens"] = "embeddings"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.layer = nn.ModuleDict()
        self._prompts = 1
        if self.config.modality == "visual":
            self.text_padding = 0  # a graph of text has nodes of padding, as many as the context has room for

    def _towers(self, encoder: Encoder) -> dict[str, Encoder]:
        return towers_reading(encoder, self.config.modality)

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
            if not tower.has_scores:
                return Support(False, f"its {name} tower's attention has biases by place or a window, so no CLS scores")
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
            layer = self._make_layer(width)
            # The graph runs in float32 at least, whatever the encoder's weights are kept in.
            layer.to(torch.promote_types(kind, torch.float32))
            self.layer[name] = layer
            attachment.map_features(tower, self._refine(tower, layer, text=reads_text(tower)), scores=True)
        return attachment

    def _make_layer(self, width: int) -> AceHgnn | NeighbourGraph:
        config = self.config
        if config.graph == "attention":
            return AceHgnn(width, config.hidden_dim, config.top_k)
        return NeighbourGraph(config.graph, width, config.hidden_dim, config.top_k)

    def prompt_ensemble(self, count: int) -> AbstractContextManager[None] | None:
        """Joins the prompts of a class before the graph, where ``prompt_ensemble`` says so and text has a graph."""
        joins = self.config.prompt_ensemble == "tokens" and any(map(is_text, self.layer))
        return self._joining(count) if joins else None

    @contextmanager
    def _joining(self, count: int) -> Iterator[None]:
        self._prompts = count
        try:
            yield
        finally:
            self._prompts = 1

    def _cls_row(self, features: Features, text: bool) -> Tensor:
        """What CLS weighs tokens by, mean over the heads, ``[B, N - n_prefix]``."""
        cls_attention = self.config.cls_attention
        probabilities = text if cls_attention == "published" else cls_attention == "probabilities"
        row = features.cls_probs if probabilities else features.cls_scores
        if row is None:
            raise ConfigError("the hypergraph needs CLS scores; compute the features with scores=True")
        return row.mean(dim=1)

    def precompute(self, tower: Encoder) -> Condenser | None:
        """The hyperedges that reach CLS, which are sums of tokens: no parameter comes before their first map."""
        config, text = self.config, reads_text(tower)
        if config.graph != "attention" or config.return_tokens or not towers_reading(tower, config.modality):
            return None
        key = f"ace_hgnn top_k={config.top_k} cls_attention={config.cls_attention}"

        def apply(features: Features) -> Features:
            edges, weights = cls_hyperedges(*self._nodes(tower, features, text), config.top_k)
            places, pooled = (edges.shape[1] - 1,), features.pooled
            return Features(edges, pooled, n_prefix=1, grid=places, cls_scores=weights[:, None], condensed=key)

        return Condenser(key, apply)

    def _nodes(self, tower: Encoder, features: Features, text: bool) -> tuple[Tensor, Tensor]:
        """Unit tokens ``[B, N, E]``, CLS first, and what CLS weighs the others by ``[B, N - 1]``; at least float32."""
        tokens = features.tokens
        if features.n_prefix > 1:
            tokens = torch.cat([tokens[:, :1], tokens[:, features.n_prefix :]], dim=1)
        with torch.autocast(tokens.device.type, enabled=False):
            exact = torch.promote_types(tower.dtype, torch.float32)
            unit = F.normalize(tower.project(tokens.to(tower.dtype)).to(exact), dim=-1)
            return unit, self._cls_row(features, text).to(exact)

    def _refine(self, tower: Encoder, layer: AceHgnn | NeighbourGraph, text: bool) -> Callable[[Features], Features]:
        def refined(features: Features) -> Tensor:
            if features.condensed:
                assert isinstance(layer, AceHgnn) and features.cls_scores is not None
                return layer.read(features.tokens, features.cls_scores[:, 0])
            unit, row = self._nodes(tower, features, text)
            if text and self._prompts > 1:
                unit, row = (each.unflatten(0, (-1, self._prompts)).mean(dim=1) for each in (unit, row))
            return layer(unit, row, self.config.return_tokens)

        def refine(features: Features) -> Features:
            with torch.autocast(features.tokens.device.type, enabled=False):
                output = refined(features)
                cls = F.normalize(output[:, 0] if self.config.return_tokens else output, dim=-1)
            if not self.config.return_tokens:
                return features.replace(pooled=cls, embedding=cls)
            mask = features.mask
            if mask is not None:
                mask = torch.cat([mask[:, :1], mask[:, features.n_prefix :]], dim=1)
            return features.replace(tokens=output, n_prefix=1, mask=mask, pooled=cls, embedding=cls)

        return refine
