"""Attention across the slices of a volume, in the place of a 2D block's own; the options of an inflation.

The mixing of slices follows Yu et al., "TGH-MoE" (arXiv 2604.10233), as :mod:`medgraft.encoders.inflate3d` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ConfigDict, Field, field_validator
from torch import Tensor, nn

from medgraft.encoder.attention import AttentionLayout, attend, mha_projection
from medgraft.errors import ConfigError
from medgraft.options import Options

BASE = 10000.0
Turned = tuple[Tensor, Tensor]


class Inflation(Options):
    """How a 2D encoder is inflated.

    Attributes:
        slices: Slices that a volume is given as; shorter volumes are padded, and the padding is masked.
        depth_2d: Blocks that stay in the plane; ``None`` for half of them.
        rotary: Turn queries and keys by the index of their slice.
        window: Slices that a token of a 3D block sees, its own in the middle; odd, ``None`` for all.
        axis: Axis of the raw volume that is cut into slices; the last one, axial in volumes in RAS orientation.
        slice_spacing: Distance of the slices in mm, for volumes that know the size of their voxels; ``None`` spreads
            them evenly over the volume.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    slices: int = Field(default=16, ge=1)
    depth_2d: int | None = Field(default=None, ge=0)
    rotary: bool = True
    window: int | None = Field(default=None, ge=1)
    axis: int = Field(default=2, ge=0, le=2)
    slice_spacing: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @field_validator("window")
    @classmethod
    def _odd(cls, value: int | None) -> int | None:
        if value is not None and value % 2 == 0:
            raise ValueError("must be odd, so that a slice sees as many on either side")
        return value


def rotate(x: Tensor, places: Tensor) -> Tensor:
    """Turns pairs of channels by an angle that grows with the place.

    Args:
        x: ``[..., S, N, d]``, ``d`` even.
        places: ``[S]``, index of each slice.

    Returns:
        The same shape; pair ``(2i, 2i + 1)`` of slice ``s`` turned by ``places[s] * 10000 ** (-2 i / d)``.
    """
    d = x.shape[-1]
    exact = torch.promote_types(x.dtype, torch.float32)
    rates = BASE ** (-torch.arange(0, d, 2, device=x.device, dtype=exact) / d)
    angles = places.to(exact)[:, None, None] * rates  # [S, 1, d / 2]
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[..., 0::2].to(exact), x[..., 1::2].to(exact)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def attend_across(q: Tensor, k: Tensor, v: Tensor, real: Tensor | None, window: int | None) -> Tensor:
    """Attention over the tokens of all slices, or of a window around each.

    Args:
        q: ``[B, heads, S, N, d]``, and so ``k`` and ``v``.
        k: Keys.
        v: Values.
        real: ``[B, S]``, false for slices that nobody may see; ``None`` where all are real.
        window: Odd number of slices, or ``None`` for all.

    Returns:
        ``[B, heads, S, N, d]``.
    """
    B, heads, S, N, d = q.shape
    if window is None or window >= 2 * S - 1:
        bias = None if real is None else real.repeat_interleave(N, dim=1)[:, None, None]
        q, k, v = (x.reshape(B, heads, S * N, d) for x in (q, k, v))
        return attend(q, k, v, bias).view(B, heads, S, N, d)
    side = window // 2
    seen = torch.ones(B, S, dtype=torch.bool, device=q.device) if real is None else real
    seen = nn.functional.pad(seen, (side, side)).unfold(1, window, 1).reshape(B * S, window)
    # A padded slice far from every real one would see nothing; its output is dropped, so it may see all.
    seen = seen | ~seen.any(dim=1, keepdim=True)

    def around(x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (0, 0, 0, 0, side, side)).unfold(2, window, 1)  # [B, heads, S, N, d, window]
        return padded.permute(0, 2, 1, 5, 3, 4).reshape(B * S, heads, window * N, d)

    queries = q.transpose(1, 2).reshape(B * S, heads, N, d)
    mixed = attend(queries, around(k), around(v), seen.repeat_interleave(N, dim=1)[:, None, None])
    return mixed.view(B, S, heads, N, d).transpose(1, 2)


class SliceAttention:
    """What takes the place of one block's attention while a volume runs through it.

    The library computes its own attention within the slices; the queries, keys and values that it projected, adapters
    included, are mixed across slices here and given to its output projection. An ``nn.MultiheadAttention`` calls no
    submodule for its output, so its forward is replaced as a whole.

    Args:
        layout: The block's attention inside the 2D encoder.
        options: Of the inflation.
        real: ``[B, S]``, or ``None``.
    """

    def __init__(self, layout: AttentionLayout, options: Inflation, real: Tensor | None) -> None:
        self.layout, self.options, self.real = layout, options, real
        self.parts: dict[str, Tensor] = {}

    def queries_and_keys(self, q: Tensor, k: Tensor) -> Turned:
        """``[B * S, N, C]`` each -> what is multiplied, ``[B, heads, S, N, d]``."""
        S = self.options.slices

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.layout.heads, -1)).transpose(1, 2)

        q, k = split(q), split(k)
        if self.layout.transform is not None:
            q, k = self.layout.transform(q, k)
        q, k = (x.unflatten(0, (-1, S)).transpose(1, 2) for x in (q, k))
        if self.options.rotary:
            places = torch.arange(S, device=q.device)
            q, k = rotate(q, places), rotate(k, places)
        return q, k

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Output of the attention before its output projection, ``[B * S, N, C]``."""
        q, k = self.queries_and_keys(q, k)
        v = v.unflatten(-1, (self.layout.heads, -1)).transpose(1, 2)
        v = v.unflatten(0, (-1, self.options.slices)).transpose(1, 2)
        if self.layout.scale is not None and self.layout.scale != q.shape[-1] ** -0.5:
            q = q * (self.layout.scale * q.shape[-1] ** 0.5)
        out = attend_across(q, k.to(q.dtype), v, self.real, self.options.window)
        return out.permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1)

    @contextmanager
    def on(self, root: nn.Module) -> Iterator[SliceAttention]:
        """Replaces the attention of ``root`` inside; whatever adapters did to its modules stays in force."""
        undo: list[Callable[[], None]] = []
        module = root.get_submodule(self.layout.path)
        try:
            if self.layout.style == "mha":
                undo.append(self._shadow(module))
            else:
                undo += [handle.remove for handle in self._watch(root)]
            yield self
        finally:
            for each in undo:
                each()

    def _watch(self, root: nn.Module) -> list[Any]:
        """Hooks that keep the projections, and one that gives the output projection another input."""
        layout = self.layout

        def keep(name: str) -> Any:
            return lambda module, args, output: self.parts.__setitem__(name, output)

        def give(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            whole = self.parts.pop("qkv", None)
            q, k, v = whole.split(layout.dim, dim=-1) if whole is not None else (self.parts.pop(n) for n in "qkv")
            return self.mixed(q, k, v).to(args[0].dtype).view(args[0].shape), *args[1:]

        names = {"qkv": layout.path}
        if layout.style == "split":
            names = {"q": layout.path, "k": layout.key_path, "v": layout.value_path}
        # Behind the adapters' hooks, to see what they made of the projections; before them on the output projection.
        handles: list[Any] = [
            root.get_submodule(path).register_forward_hook(keep(name)) for name, path in names.items()
        ]
        return [*handles, root.get_submodule(layout.out_path).register_forward_pre_hook(give, prepend=True)]

    def _shadow(self, module: Any) -> Callable[[], None]:
        before = module.__dict__.get("forward")

        def forward(query: Tensor, *args: Any, **options: Any) -> tuple[Tensor, None]:
            if options.get("attn_mask") is not None or options.get("need_weights", True):
                raise ConfigError(
                    f"attention {self.layout.path} takes a mask or gives weights, so it cannot be inflated"
                )
            x = query if module.batch_first else query.transpose(0, 1)
            mixed = self.mixed(*mha_projection(module, x).split(self.layout.dim, dim=-1))
            out = nn.functional.linear(mixed, module.out_proj.weight, module.out_proj.bias)
            return (out if module.batch_first else out.transpose(0, 1)), None

        def undo() -> None:
            object.__delattr__(module, "forward")
            if before is not None:
                object.__setattr__(module, "forward", before)

        object.__setattr__(module, "forward", forward)
        return undo
