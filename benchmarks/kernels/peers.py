"""Other libraries' and published forms of the operations that ``benchmarks.kernels`` measures.

A peer gets the tensors that a case drew for every form. One that computes the case's own function is held against eager
mode before it is timed; one that computes another function beside it says how it differs and is only timed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.adapters.kernels.hypergraph.reference import incidence

Function = Callable[..., Tensor]
Made = tuple[Function, list[Tensor]]


@dataclasses.dataclass(frozen=True)
class Peer:
    """One form of another library.

    Attributes:
        make: The case's inputs -> a function and the leaves that it is called with and trained by.
        module: What it imports; empty if only PyTorch.
        package: Name to install that by.
        differs: How its function is another than the case's; empty if it is the same, which is then checked.
        cuda_only: Its kernels exist for CUDA alone.
        gather: Result and gradients of a step, in the layout of the case's, where the peer keeps its weights otherwise.
    """

    make: Callable[..., Made]
    module: str = ""
    package: str = ""
    differs: str = ""
    cuda_only: bool = False
    gather: Callable[[Sequence[Tensor]], Sequence[Tensor]] = tuple

    def obstacle(self, device: str) -> str | None:
        """Why it cannot run on ``cpu`` or ``cuda`` here, or ``None``."""
        if self.cuda_only and device != "cuda":
            return f"it runs on cuda alone, not on {device}"
        if self.module and importlib.util.find_spec(self.module) is None:
            return f"{self.module} is not installed; pip install {self.package}"
        return None


def _published_info_nce(image: Tensor, text: Tensor, scale: Tensor, labels: Tensor) -> Made:
    """The label mask by an ``N x N x L`` comparison and one cross entropy per direction, as ACE-LoRA's code has it.

    Aydin et al., "ACE-LoRA", 2026 (arXiv 2603.17079). The published code compares in NumPy on the host; here the
    comparison runs where the embeddings are.
    """

    def loss(image: Tensor, text: Tensor) -> Tensor:
        excluded = (labels[:, None] == labels[None]).all(dim=2).fill_diagonal_(False)
        partner = torch.arange(len(image), device=image.device)
        logits = scale * image @ text.T
        to_text, to_image = logits.masked_fill(excluded, -torch.inf), logits.T.masked_fill(excluded, -torch.inf)
        return (F.cross_entropy(to_text, partner) + F.cross_entropy(to_image, partner)) / 2

    return loss, [image, text]


def _open_clip_loss(image: Tensor, text: Tensor, scale: Tensor, _: Tensor) -> Made:
    """open_clip's ``ClipLoss`` in one process, its targets cached as its own training does."""
    from open_clip import ClipLoss

    loss = ClipLoss(cache_labels=True)
    return lambda image, text: loss(image, text, scale), [image, text]


def _liger_loss(image: Tensor, text: Tensor, scale: Tensor, _: Tensor) -> Made:
    """Liger's fused linear cross entropy in both directions, the other side's embeddings as the linear layer's weight.

    Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024 (arXiv 2410.10989).
    """
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # pyright: ignore[reportMissingImports]

    loss, partner = LigerFusedLinearCrossEntropyLoss(), torch.arange(len(image), device=image.device)

    def both(image: Tensor, text: Tensor) -> Tensor:
        return (loss(text, scale * image, partner) + loss(image, scale * text, partner)) / 2

    return both, [image, text]


def _geometric(tokens: Tensor, scores: Tensor) -> Made:
    """The layer with torch-geometric's ``HypergraphConv`` messages over the sparse incidence."""
    from torch_geometric.nn import HypergraphConv

    def layer(tokens: Tensor, scores: Tensor) -> Tensor:
        B, N, C = tokens.shape
        matrix = incidence(tokens, scores, 5)
        batch, edge, node = matrix.detach().nonzero(as_tuple=True)
        weights = matrix[batch, edge, node][:, None]
        flat = torch.stack([batch * N + node, batch * N + edge])
        convolution, ones = HypergraphConv(1, 1), tokens.new_ones(B * N)
        convolution.heads, convolution.out_channels = 1, C

        def send(x: Tensor, index: Tensor) -> Tensor:
            size = (B * N, B * N)
            sent = convolution.propagate(index, x=x.reshape(-1, C), norm=ones, alpha=weights, size=size)
            return sent.view(-1, C)

        return F.gelu(send(F.gelu(send(tokens, flat)), flat.flip(0))).view(B, N, C)

    return layer, [tokens, scores]


def _peft(x: Tensor, weight: Tensor, bias: Tensor, A: Tensor, B: Tensor) -> Made:
    """Three projections, LoRA of peft on the first and the last, with the very same weights."""
    from peft import LoraConfig, inject_adapter_in_model

    D, r = x.shape[-1], A.shape[1]
    model: Any = nn.ModuleDict({name: nn.Linear(D, D) for name in "qkv"}).to(x.device, x.dtype)
    with torch.no_grad():
        for part, name in enumerate("qkv"):
            model.get_submodule(name).weight.copy_(weight[part * D : (part + 1) * D])
            model.get_submodule(name).bias.copy_(bias[part * D : (part + 1) * D])
    model = inject_adapter_in_model(LoraConfig(r=r, lora_alpha=r // 2, target_modules=["q", "v"]), model)
    layers: list[Any] = [model.get_submodule(name) for name in "qkv"]
    pairs = [(layer.lora_A["default"].weight, layer.lora_B["default"].weight) for layer in layers[::2]]
    with torch.no_grad():
        for p, (a, b) in enumerate(pairs):
            a.copy_(A[p])
            b.copy_(B[p])
    trained = [x, *(weight for pair in pairs for weight in pair)]
    return lambda x, *_: torch.cat([layer(x) for layer in layers], -1), trained


def _stacked_pairs(results: Sequence[Tensor]) -> Sequence[Tensor]:
    y, d_x, d_first_A, d_first_B, d_last_A, d_last_B = results
    return y, d_x, torch.stack([d_first_A, d_last_A]), torch.stack([d_first_B, d_last_B])


def _experts(implementation: str) -> Callable[..., Made]:
    """Experts of transformers 5 in one of its forms, on the case's own weights."""

    def make(tokens: Tensor, gates: Tensor, index: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Made:
        from transformers.integrations.moe import use_experts_implementation

        @use_experts_implementation(has_bias=True)
        class Experts(nn.Module):
            def __init__(self, _: Any) -> None:
                super().__init__()
                self.num_experts = len(w1)
                self.gate_up_proj, self.gate_up_proj_bias = w1, b1
                self.down_proj, self.down_proj_bias = w2, b2

            # transformers leaves the gate to the model. Without one, the first map has no second half and the function
            # is the case's own.
            def _apply_gate(self, hidden: Tensor) -> Tensor:
                return F.gelu(hidden)

        experts = Experts(SimpleNamespace(_experts_implementation=implementation))
        return lambda tokens, gates, *_: experts(tokens, index, gates), [tokens, gates, w1, b1, w2, b2]

    return make


_NO_LABELS = "the CLIP loss of the same matrix, which knows no labels and removes no pair"

INFO_NCE = {
    "published": Peer(_published_info_nce),
    "open_clip without labels": Peer(_open_clip_loss, "open_clip", "open_clip_torch", differs=_NO_LABELS),
    "liger without labels": Peer(_liger_loss, "liger_kernel", "liger-kernel", differs=_NO_LABELS, cuda_only=True),
}
HYPERGRAPH = {"torch_geometric": Peer(_geometric, "torch_geometric", "torch-geometric")}
LORA = {"peft": Peer(_peft, "peft", "peft", gather=_stacked_pairs)}
MOE = {
    f"transformers {name}": Peer(_experts(name), "transformers", "transformers")
    for name in ("grouped_mm", "batched_mm")
}
