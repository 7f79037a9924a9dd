"""Graph layers of torch-geometric in the place of ACE-HGNN's hypergraph, for the ablation of its message passing.

Aydin et al., "ACE-LoRA", 2026 (arXiv 2603.17079), compare with GAT (Velickovic et al., "Graph Attention Networks",
ICLR 2018), GATv2 (Brody et al., "How Attentive are Graph Attention Networks?", ICLR 2022) and HypergraphConv (Bai et
al., "Hypergraph Convolution and Hypergraph Attention", Pattern Recognition 2021). Who is whose neighbour is the same
as in the hypergraph, so that only the way messages pass differs; how wide the published comparison's layers were is
not known, and here each has the two maps ``C -> hidden_dim -> C`` of the hypergraph.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.adapters.kernels.hypergraph.reference import incidence

GraphKind = Literal["gat", "gatv2", "hypergraph_conv"]


class NeighbourGraph(nn.Module):
    """Two layers of one kind, ``C -> hidden_dim -> C`` with a LeakyReLU between, over the hypergraph's neighbours.

    CLS is joined to the ``top_k`` tokens it attends to most, every other token to its ``top_k`` most similar ones and
    to CLS where CLS attends to it, each token to itself. The scores choose neighbours and weigh nothing, so no
    gradient reaches them.

    Args:
        kind: ``gat``, ``gatv2`` (one head, neighbours send to the centre) or ``hypergraph_conv`` (hyperedges without
            weights).
        dim: Token width ``C``.
        hidden_dim: Width between.
        top_k: Neighbours of a token besides itself.

    Example:
        >>> NeighbourGraph("gatv2", 16, hidden_dim=4, top_k=3)(torch.randn(2, 10, 16), torch.randn(2, 9)).shape
        torch.Size([2, 16])
    """

    def __init__(self, kind: GraphKind, dim: int, hidden_dim: int = 128, top_k: int = 5) -> None:
        from torch_geometric.nn import GATConv, GATv2Conv, HypergraphConv

        super().__init__()
        self.top_k = top_k
        if kind == "hypergraph_conv":
            self.down, self.up = HypergraphConv(dim, hidden_dim), HypergraphConv(hidden_dim, dim)
        else:
            layer = GATConv if kind == "gat" else GATv2Conv  # the neighbours hold every token itself already
            self.down = layer(dim, hidden_dim, add_self_loops=False)
            self.up = layer(hidden_dim, dim, add_self_loops=False)

    def forward(self, tokens: Tensor, scores: Tensor, return_tokens: bool = False) -> Tensor:
        """Refines the tokens.

        Args:
            tokens: ``[B, N, C]``, CLS first.
            scores: CLS-to-token attention ``[B, N - 1]``.
            return_tokens: Return all tokens ``[B, N, C]`` in place of CLS ``[B, C]``; costs the same.
        """
        B, N, C = tokens.shape
        index = self.neighbours(tokens, scores)
        tokens = tokens.to(next(self.parameters()).dtype)
        hidden = F.leaky_relu(self.down(tokens.reshape(B * N, C), index), 0.2)
        refined = self.up(hidden, index).view(B, N, C)
        return refined if return_tokens else refined[:, 0]

    @torch.no_grad()
    def neighbours(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """Pairs ``int64 [2, E]`` of sender (or node) and receiver (or hyperedge), numbered through the batch."""
        N = tokens.shape[1]
        batch, centre, member = (incidence(tokens, scores, self.top_k) > 0).nonzero(as_tuple=True)
        return torch.stack([batch * N + member, batch * N + centre])
