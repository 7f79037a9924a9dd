"""LoRA: low-rank updates of linear maps, packed projections and convolutions.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, equation 3:
``h = W0 x + (alpha / r) B A x`` with ``B = 0`` at the start. The rank-stabilised factor ``alpha / sqrt(r)`` is
Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023. Convolutions are factorised as a
convolution to ``r`` channels and a 1x1 convolution back, as peft does.

On a packed ``qkv`` each projection has its own ``A`` and ``B``: one rank-``r`` update of the whole packed weight is a
different function with fewer parameters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.kernels.packed_lora import op as packed_lora
from medgraft.adapters.parts.placement import DepthGroup, check_rank, in_depth
from medgraft.attachment.portable import Portable
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site, match_sites
from medgraft.encoder.stored import home_of, is_packed, weight_dtype, weight_of, weight_shape
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.ops import backends

CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


class LoraDelta(nn.Module):
    """The low-rank branch of one linear map or convolution.

    Args:
        base: The frozen module, read for its shape only.
        out_features: Rows of the weight that the branch updates.
        rank: ``r``.
        scaling: Factor on the branch.
        dropout: Probability on the branch's input.
    """

    def __init__(self, base: nn.Module, out_features: int, rank: int, scaling: float, dropout: float) -> None:
        super().__init__()
        shape, where = weight_shape(base), {"dtype": weight_dtype(base), "device": home_of(base)}
        self.scaling = scaling
        self.dropout = nn.Dropout(dropout)
        self.A = nn.Parameter(torch.empty(rank, *shape[1:], **where))
        self.B = nn.Parameter(torch.zeros(out_features, rank, *(1 for _ in shape[2:]), **where))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.convolution = next((f for kind, f in CONVOLUTIONS.items() if isinstance(base, kind)), None)
        self.geometry: dict[str, Any] = {}
        if self.convolution is not None:
            self.geometry = {key: getattr(base, key) for key in ("stride", "padding", "dilation")}
        self.same = self.convolution is not None and pads_to_same(base)

    def forward(self, x: Tensor) -> Tensor:
        """Branch output: ``[..., in] -> [..., out]``, or feature maps for a convolution."""
        x = self.dropout(x)
        if self.convolution is None:
            return F.linear(F.linear(x, self.A), self.B) * self.scaling
        if self.same:
            x = F.pad(
                x, same_padding(x.shape[2:], self.A.shape[2:], self.geometry["stride"], self.geometry["dilation"])
            )
        return self.convolution(self.convolution(x, self.A, **self.geometry), self.B) * self.scaling

    def weight(self) -> Tensor:
        """The update ``scaling * B A`` in the shape of the weight it belongs to, ``[out, in, *kernel]``."""
        return (self.B.flatten(1) @ self.A.flatten(1)).view(len(self.B), *self.A.shape[1:]) * self.scaling


def pads_to_same(base: nn.Module) -> bool:
    """Whether a convolution pads by the size of its input as TensorFlow does (timm's ``tf_`` models, BiT, NF-Net).

    Such a layer has no padding of its own to read; timm marks it by its class or by ``same_pad``.
    """
    return type(base).__name__.startswith("Conv2dSame") or bool(getattr(base, "same_pad", False))


def same_padding(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """TensorFlow's ``SAME`` padding for :func:`torch.nn.functional.pad`: ``ceil(size / stride)`` results per axis.

    An odd number of rows has the extra one behind.

    Example:
        >>> same_padding((224, 7), (3, 3), (2, 1), (1, 2))
        [2, 2, 0, 1]
    """
    padding: list[int] = []
    for length, taps, step, gap in zip(size, kernel, stride, dilation, strict=True):
        total = max((-(-length // step) - 1) * step + (taps - 1) * gap + 1 - length, 0)
        padding = [total // 2, total - total // 2, *padding]
    return padding


Change = Callable[[Tensor], Tensor | None]


def _plus(base: Tensor, added: Tensor | None) -> Tensor:
    return base if added is None else base + added


class FusedLinear(Portable):
    """A linear map and its LoRA branches as one operation, wherever :mod:`~medgraft.ops.backends` says so.

    It stands in for the map's ``forward`` and for the change that a hook adds behind it: one of the two adds the
    branches, whichever form runs.

    Args:
        base: The frozen map.
        branches: Its sites that have a branch, with the branch.
        plain: The change in eager mode; ``None`` from it means that the branches are merged.
        merged: Whether they are.
    """

    def __init__(
        self,
        base: nn.Linear,
        branches: list[tuple[Site, LoraDelta]],
        plain: Change,
        merged: Callable[[], bool],
    ) -> None:
        self.base, self.plain, self.merged = base, plain, merged
        self.deltas = [delta for _, delta in branches]
        self.starts = [0 if site.rows is None else site.rows.start for site, _ in branches]
        self.added = False

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D] -> [..., O]``, with the branches in the fused form."""
        self.added = False
        if not self.merged():
            A, B = (torch.stack([getattr(delta, name) for delta in self.deltas]) for name in "AB")
            output = backends.outside_autocast(self._fused, x, self.base.weight, self.base.bias, A, B)
            if output is not None:
                self.added = True
                return output
        return F.linear(x, self.base.weight, self.base.bias)

    def change(self, x: Tensor) -> Tensor | None:
        """What is still to be added behind :meth:`forward`, ``[..., D] -> [..., O]``; ``None`` for nothing."""
        return None if self.added else self.plain(x)

    def _fused(self, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor) -> Tensor | None:
        drops = any(delta.training and delta.dropout.p > 0 for delta in self.deltas)
        obstacle = "each branch drops inputs of its own" if drops else packed_lora.obstacle(x, weight, bias, A, B)
        if backends.choose("packed_lora", backends.current(), obstacle) != "fused":
            return None
        return packed_lora.lora_forward(x, weight, bias, A, B, self.starts, self.deltas[0].scaling)[0]


class Lora(Adapter):
    """LoRA on the sites that ``targets`` names, in the blocks that ``depth`` names.

    Attached under a backend other than ``eager``, a plain linear map and its branches become one operation. Attached in
    eager mode, it stays with it.
    """

    paper = "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022 (arXiv 2106.09685)"
    licence = "Apache-2.0"
    formula = r"h = W_0 x + \frac{\alpha}{r} B A x"
    formats = ("a folder of peft, both ways: `load_peft` and `save_peft` of `medgraft.adapters.lora_peft`",)
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 6})
    size_knob = SizeKnob("rank")
    search = MappingProxyType({"rank": (2, 4, 8, 16, 32), "alpha": (4.0, 8.0, 16.0, 32.0, 64.0)})
    mergeable = True
    token_wise = True

    class Config(AdapterConfig):
        """Options.

        Attributes:
            rank: Rank ``r`` of the update; at most the smaller width of each layer that it is on.
            alpha: Numerator of the scaling factor.
            rank_stabilised: Scale by ``alpha / sqrt(r)`` in place of ``alpha / r``.
            dropout: Dropout on the branch's input.
            targets: Patterns of sites: ``q``, ``k``, ``v``, ``out``, globs of site names or of module paths.
            depth: Group of blocks, ``up`` for the last third; sites outside of blocks are kept only for ``all``.
        """

        rank: int = Field(8, ge=1)
        alpha: float = Field(16.0, gt=0)
        rank_stabilised: bool = False
        dropout: float = Field(0.0, ge=0, lt=1)
        targets: tuple[str, ...] = Field(("q", "v"), min_length=1)
        depth: DepthGroup = "all"

        @property
        def scaling(self) -> float:
            """Factor on ``B A x``."""
            return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.delta = nn.ModuleDict()
        self._merged: list[tuple[Tensor, Tensor]] = []
        self._places: list[tuple[nn.Module, Site]] = []
        self.register_load_state_dict_pre_hook(self._refuse_if_merged)

    def _refuse_if_merged(self, *_: Any) -> None:
        if self._merged:
            raise ConfigError("this LoRA is merged, so the encoder would keep the old update; unmerge before loading")

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> dict[str, list[Site]]:
        """Linear maps and ungrouped convolutions that ``targets`` names."""
        hits = match_sites(sites, self.config.targets, "lora.targets")
        selected: dict[str, list[Site]] = {}
        for pattern, matches in hits.items():
            usable = [site for site in matches if site.kind in ("projection", "layer")]
            usable = [site for site in usable if in_depth(encoder, site, self.config.depth)]
            if not usable:
                raise IncompatibleError(
                    f"lora.targets: {pattern!r} matches {matches[0].name} and the like, but no linear map or "
                    f"convolution in depth group {self.config.depth!r}"
                )
            for site in usable:
                base = encoder.get_submodule(site.path)
                if not isinstance(base, nn.Linear) and is_packed(weight_of(base)):
                    raise IncompatibleError(f"lora.targets: the weight of {site.name} is quantised; leave it out")
                if home_of(base) != encoder.device:
                    raise IncompatibleError(
                        f"lora.targets: {site.name} runs on {home_of(base)} and the adapter on {encoder.device}; give "
                        "the encoder one accelerator, with the rest of its weights in the memory of the CPU"
                    )
                if getattr(base, "groups", 1) != 1:
                    raise IncompatibleError(f"lora.targets: {site.name} is a grouped convolution; leave it out")
                if (mode := getattr(base, "padding_mode", "zeros")) != "zeros":
                    raise IncompatibleError(f"lora.targets: {site.name} is a convolution with padding_mode {mode!r}")
                check_rank(self.config.rank, weight_shape(base), site)
            selected[pattern] = usable
        return selected

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Adds one branch per site."""
        attachment = Attachment(encoder)
        attachment.on_detach(self.unmerge)
        hits = self.select(encoder, sites)
        attachment.record(hits)
        self.delta.clear()
        self._places.clear()
        for site in {site.name: site for matches in hits.values() for site in matches}.values():
            base = encoder.get_submodule(site.path)
            rows = weight_shape(base)[0] if site.rows is None else site.rows.stop - site.rows.start
            delta = LoraDelta(base, rows, self.config.rank, self.config.scaling, self.config.dropout)
            self.delta[site.name.replace(".", "/")] = delta
            self._places.append((base, site))
        for path, branches in self.branches().items():
            module = encoder.get_submodule(path)
            change = self._change(branches, weight_shape(module)[0])
            if isinstance(module, nn.MultiheadAttention):
                change = self._noting(change, "an nn.MultiheadAttention multiplies by its packed weight itself")
                attachment.map_projection(path, lambda x, packed, change=change: _plus(packed, change(x)))
            else:
                change = self._fuse(attachment, module, branches, change)
                attachment.add_to_output(dataclasses.replace(branches[0][0], rows=None), change)
        return attachment

    def _fuse(
        self, attachment: Attachment, module: nn.Module, branches: list[tuple[Site, LoraDelta]], change: Change
    ) -> Change:
        """Puts the fused form in the place of a module's forward where it can; what a hook adds behind it."""
        if backends.current() in ("eager", "compile"):
            return self._noting(change, "")
        if type(module) is not nn.Linear:
            return self._noting(change, f"{type(module).__name__} is no plain linear map")
        if is_packed(module.weight):
            return self._noting(change, "its weight is quantised")
        if "forward" in module.__dict__:
            return self._noting(change, "another adapter has changed the linear map")
        fused = FusedLinear(module, branches, change, lambda: bool(self._merged))
        attachment.set_attribute(module, "forward", fused.forward)
        return fused.change

    def _noting(self, change: Change, obstacle: str) -> Change:
        """The same change in eager mode, with a note of why it is no other."""

        def noted(x: Tensor) -> Tensor | None:
            if not self._merged:
                backends.choose("packed_lora", backends.current(), obstacle or "it was attached in eager mode")
            return change(x)

        return noted

    def branches(self) -> dict[str, list[tuple[Site, LoraDelta]]]:
        """Module path -> its sites that have a branch, with the branch."""
        by_module: dict[str, list[tuple[Site, LoraDelta]]] = {}
        for (_, site), delta in zip(self._places, self.delta.values(), strict=True):
            assert isinstance(delta, LoraDelta)
            by_module.setdefault(site.path, []).append((site, delta))
        return by_module

    def _change(self, branches: list[tuple[Site, LoraDelta]], width: int) -> Change:
        """What is added to a module's output: one branch, or those of a packed weight side by side (one addition)."""
        if branches[0][0].rows is None:
            delta = branches[0][1]
            return lambda x: None if self._merged else delta(x)
        by_start = {site.rows.start: (site.rows.stop, delta) for site, delta in branches if site.rows is not None}

        def change(x: Tensor) -> Tensor | None:
            if self._merged:
                return None
            outputs = {start: delta(x) for start, (_, delta) in by_start.items()}
            like = next(iter(outputs.values()))  # under autocast the branches have another type than x
            parts, at = [], 0
            for start, (stop, _) in sorted(by_start.items()):
                if at < start:
                    parts.append(like.new_zeros(*like.shape[:-1], start - at))
                parts.append(outputs[start])
                at = stop
            if at < width:
                parts.append(like.new_zeros(*like.shape[:-1], width - at))
            return torch.cat(parts, dim=-1)

        return change

    def merge(self) -> None:
        """Adds every update to the frozen weight, in the weight's own precision."""
        if self._merged:
            raise ConfigError("this LoRA is merged already")
        kept: dict[int, tuple[Tensor, Tensor]] = {}
        with torch.no_grad():
            for (base, site), delta in zip(self._places, self.delta.values(), strict=True):
                assert isinstance(delta, LoraDelta)
                weight = weight_of(base)
                kept.setdefault(id(weight), (weight, weight.detach().clone()))
                target = weight if site.rows is None else weight[site.rows]
                target += delta.weight().to(weight.dtype)
        self._merged = list(kept.values())

    def unmerge(self) -> None:
        """Puts the kept copies of the weights back."""
        with torch.no_grad():
            for weight, original in self._merged:
                weight.copy_(original)
        self._merged = []
