"""Experts that start as copies of a block's own MLP and store what training changed of it.

Starting the experts of a mixture from the MLP of a trained network is sparse upcycling (Komatsuzaki et al., "Sparse
Upcycling: Training Mixture-of-Experts from Dense Checkpoints", ICLR 2023). Beside the frozen MLP, each expert adds the
difference between its copy and the MLP, so that gates which sum to 1 replace the MLP by the mixture of the copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.attachment.blank_run import trace_features
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.errors import IncompatibleError

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": F.gelu,
    "gelu of tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}


class Ffn(NamedTuple):
    """The MLP of a block: ``second(activation(first(u)))``."""

    first: nn.Linear
    second: nn.Linear
    activation: Activation


def ffn_of(encoder: Encoder, tower: Encoder, site: Site) -> Ffn:
    """The MLP at a branch site; which activation it has is found by running the tower once on a blank sample.

    Raises:
        IncompatibleError: It is not two linears with a known activation between them.
    """
    first, second = encoder.get_submodule(site.entry), encoder.get_submodule(site.path)
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    seen: dict[str, Any] = {}
    handles = [
        first.register_forward_hook(lambda module, args, output: seen.__setitem__("out", output)),
        second.register_forward_pre_hook(lambda module, args: seen.__setitem__("in", args[0])),
    ]
    try:
        trace_features(tower)
    finally:
        for handle in handles:
            handle.remove()
    for activation in ACTIVATIONS.values():
        if seen["out"].shape == seen["in"].shape and torch.allclose(activation(seen["out"]), seen["in"], atol=1e-5):
            return Ffn(first, second, activation)
    raise IncompatibleError(
        f"the MLP at {site.name} is not two linear maps with {', '.join(ACTIVATIONS)} between them, so it cannot be "
        "copied; use expert: bottleneck"
    )


class FfnCopies(nn.Module):
    """``E`` trained copies of an MLP, each less the MLP itself: ``E_e(u) = FFN_e(u) - FFN(u)``, zero at the start.

    Parameters are the differences from the frozen weights: the file holds no weight of the encoder, and weight decay
    pulls towards it.

    Args:
        count: ``E``.
        ffn: The MLP, ``D -> h -> D``; it stays the encoder's own.
    """

    def __init__(self, count: int, ffn: Ffn) -> None:
        super().__init__()
        width, dim = ffn.first.weight.shape
        kind = {"dtype": ffn.first.weight.dtype, "device": ffn.first.weight.device}
        self._ffn = (ffn,)  # in a tuple, so that no module of the encoder becomes one of the adapter
        self.down = nn.Parameter(torch.zeros(count, dim, width, **kind))
        self.down_bias = nn.Parameter(torch.zeros(count, width, **kind))
        self.up = nn.Parameter(torch.zeros(count, width, dim, **kind))
        self.up_bias = nn.Parameter(torch.zeros(count, dim, **kind))

    def mixed(self, u: Tensor, gates: Tensor) -> Tensor:
        """``sum_e gates_e E_e(u)``: ``u`` ``[R, N, D]``, gates ``[R, N, E]`` -> ``[R, N, D]``."""
        gates = gates.to(u.dtype)
        change = torch.einsum("rnd,edh->rneh", u, self.down) + self.down_bias
        moved, hidden = self._hidden(u, change, gates)
        return moved + torch.einsum("rneh,ehd->rnd", hidden, self.up) + torch.einsum("rne,ed->rnd", gates, self.up_bias)

    def mixed_of(self, u: Tensor, experts: Tensor, gates: Tensor) -> Tensor:
        """The same with own experts ``[R, K]`` for each row, gates ``[R, N, K]``."""
        gates = gates.to(u.dtype)
        change = torch.einsum("rnd,rkdh->rnkh", u, self.down[experts]) + self.down_bias[experts][:, None]
        moved, hidden = self._hidden(u, change, gates)
        mixed = torch.einsum("rnkh,rkhd->rnd", hidden, self.up[experts])
        return moved + mixed + torch.einsum("rnk,rkd->rnd", gates, self.up_bias[experts])

    def _hidden(self, u: Tensor, change: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """What the changed first linears do through the frozen second one, and the gated hidden units of the copies.

        Nothing but the change is computed anew, so a copy without one differs from the MLP by exactly 0.
        """
        first, second, activation = self._ffn[0]
        before = F.linear(u, first.weight, first.bias)[:, :, None]
        hidden, plain = activation(before + change), activation(before)
        moved = F.linear(((hidden - plain) * gates[..., None]).sum(dim=2), second.weight)
        return moved, hidden * gates[..., None]
