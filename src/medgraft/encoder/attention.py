"""How self-attention is stored in the libraries we graft onto, and the CLS row of its scores.

Three layouts cover timm, transformers, open_clip and MONAI:

``packed``
    one ``nn.Linear`` whose output rows are ``[q | k | v]`` (timm, MONAI),
``split``
    three ``nn.Linear`` (transformers),
``mha``
    ``nn.MultiheadAttention`` with an ``in_proj_weight`` that no submodule's forward ever sees (open_clip).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from medgraft.fast.switch import is_plain

Projection = Literal["q", "k", "v"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v")


@dataclass(frozen=True)
class AttentionLayout:
    """Where one block keeps its attention, by module path relative to the encoder.

    Attributes:
        style: One of ``packed``, ``split``, ``mha``.
        path: Path of the packed linear or of the ``nn.MultiheadAttention``; for ``split`` the path of the query.
        heads: Number of heads.
        dim: Width of q, and of k and v unless ``kv_dim`` says otherwise.
        kv_dim: Width of k and of v where several queries share one key (grouped-query attention, Ainslie et al., "GQA",
            EMNLP 2023), each ``heads * kv_dim / dim`` heads; ``None`` where it is ``dim``.
        key_path: Path of the key linear (``split`` only).
        value_path: Path of the value linear (``split`` only).
        out_path: Path of the output projection, if a plain linear is called there.
        scale: Factor on the query-key product; ``head_dim ** -0.5`` where ``None``.
        transform: Maps ``(q, k)``, each ``[B, heads, N, head_dim]``, to what the library multiplies
            (per-head norms); ``None`` where it multiplies them as they are.
        batch_first: ``False`` where an ``nn.MultiheadAttention`` takes ``[N, B, C]``.
        scored: Whether the (transformed) query-key product is all that the softmax sees. Where the library adds a bias
            by position or looks at a window only, the projections are sites like any others, but there are no scores.
    """

    style: Literal["packed", "split", "mha"]
    path: str
    heads: int
    dim: int
    key_path: str = ""
    value_path: str = ""
    out_path: str = ""
    scale: float | None = None
    transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = field(default=None, compare=False)
    batch_first: bool = True
    kv_dim: int | None = None
    scored: bool = True

    @property
    def widths(self) -> tuple[int, int, int]:
        """Widths of q, k and v."""
        narrow = self.dim if self.kv_dim is None else self.kv_dim
        return self.dim, narrow, narrow

    def location(self, projection: Projection) -> tuple[str, slice | None]:
        """Module path of one projection and the rows it owns there (``None`` for the whole weight)."""
        if self.style == "split":
            paths = {"q": self.path, "k": self.key_path, "v": self.value_path}
            return paths[projection], None
        index = PROJECTIONS.index(projection)
        start = sum(self.widths[:index])
        return self.path, slice(start, start + self.widths[index])


def mha_projection(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """``[q | k | v]`` of a self-attention ``nn.MultiheadAttention``, ``[..., 3C]``, adapters included.

    An adapter that changes the projection publishes its version of this function as the attribute
    ``medgraft_projection`` of the module, since ``in_proj_weight`` has no forward to hook.
    """
    projection = module.__dict__.get("medgraft_projection")
    return projection(x) if projection is not None else F.linear(x, module.in_proj_weight, module.in_proj_bias)


class _Capture:
    """Collects the projected queries and keys of one attention while the encoder runs."""

    def __init__(self, root: nn.Module, layout: AttentionLayout) -> None:
        self.layout = layout
        self.query: Tensor | None = None
        self.key: Tensor | None = None
        self.handles: list[RemovableHandle] = []
        module = root.get_submodule(layout.path)
        if layout.style == "mha":
            self.handles.append(module.register_forward_pre_hook(self._on_mha, with_kwargs=True))
        elif layout.style == "packed":
            self.handles.append(module.register_forward_hook(self._on_packed))
        else:
            self.handles.append(module.register_forward_hook(self._on_query))
            self.handles.append(root.get_submodule(layout.key_path).register_forward_hook(self._on_key))

    def _on_packed(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.query, self.key, _ = torch.split(output, list(self.layout.widths), dim=-1)

    def _on_query(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.query = output

    def _on_key(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.key = output

    def _on_mha(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(module, nn.MultiheadAttention)
        x = args[0] if args else kwargs["query"]
        packed = mha_projection(module, x if module.batch_first else x.transpose(0, 1))
        self.query, self.key, _ = torch.split(packed, self.layout.dim, dim=-1)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def rows(self, n_prefix: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """CLS row of the scores and of the probabilities, each ``[B, heads, N - n_prefix]``."""
        logits = self._logits(slice(0, 1), mask).squeeze(2)
        probs = torch.softmax(logits, dim=-1)
        return logits[..., n_prefix:], probs[..., n_prefix:]

    def probabilities(self, mask: Tensor | None = None) -> Tensor:
        """All rows of the probabilities, ``[B, heads, N, N]``; a row is what one token takes of the others."""
        return torch.softmax(self._logits(slice(None), mask), dim=-1)

    def _logits(self, queries: slice, mask: Tensor | None) -> Tensor:
        """Scaled products of some queries with all keys, ``[B, heads, n, N]``."""
        assert self.query is not None and self.key is not None, f"{self.layout.path} was not called"
        B, N, _ = self.key.shape
        heads, width = self.layout.heads, self.layout.dim // self.layout.heads
        q = self.query.view(B, N, heads, width).transpose(1, 2)
        k = self.key.view(B, N, -1, width).transpose(1, 2)
        if self.layout.transform is not None:
            q, k = self.layout.transform(q, k)
        k = k.repeat_interleave(heads // k.shape[1], dim=1)
        scale = self.layout.scale if self.layout.scale is not None else width**-0.5
        logits = q[:, :, queries] * scale @ k.transpose(-1, -2)
        return logits if mask is None else logits.masked_fill(~mask[:, None, None, :], float("-inf"))


@contextmanager
def capture_cls_rows(root: nn.Module, layout: AttentionLayout) -> Generator[_Capture]:
    """Yields an object whose ``rows(n_prefix, mask)`` gives the CLS row after the encoder has run inside the block.

    Only one row of the score matrix is computed, and gradients flow through it to the queries and keys.
    """
    capture = _Capture(root, layout)
    try:
        yield capture
    finally:
        capture.remove()


@contextmanager
def capture_attention(root: nn.Module, layouts: Sequence[AttentionLayout]) -> Generator[list[_Capture]]:
    """Yields an object for each attention, whose ``probabilities(mask)`` it gives once the encoder has run inside.

    Adapters on the projections count; nothing is computed before it is asked for.

    Args:
        root: Whose module paths the layouts are.
        layouts: The attentions.
    """
    captures: list[_Capture] = []
    try:
        captures.extend(_Capture(root, layout) for layout in layouts)
        yield captures
    finally:
        for capture in captures:
            capture.remove()


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention in the form that is fastest where it runs.

    In bf16 on a CPU that is two batched products: the backward of PyTorch's fused CPU kernel is about six times slower
    than theirs (65 tokens, 3 heads of 64). Everywhere else it is ``F.scaled_dot_product_attention``.

    Args:
        q: ``[B, heads, N, head_dim]``, and so ``k`` and ``v``.
        k: Keys.
        v: Values.
        bias: Boolean (true = attend, as in ``F.scaled_dot_product_attention``) or additive, broadcastable to
            ``[B, heads, N, N]``.

    Returns:
        ``[B, heads, N, head_dim]``.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or is_plain():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    B, heads, N, width = q.shape
    with torch.autocast("cpu", enabled=False):  # its softmax would go through fp32
        q, k, v = (x.reshape(B * heads, -1, width) for x in (q * width**-0.5, k, v))
        scores = torch.bmm(q, k.transpose(1, 2)).view(B, heads, N, -1)
        shut = None
        if bias is not None:
            bias = in_type(bias, scores.dtype)
            shut = closed_rows(bias)
            scores = hide(scores, bias, shut)
        mixed = torch.bmm(torch.softmax(scores, dim=-1).view(B * heads, N, -1), v).view(B, heads, N, width)
        return mixed if shut is None else mixed.masked_fill(shut, 0)


def in_type(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of any shape for scores of a type: what was finite stays so, such as the lowest number of a wider type."""
    if bias.dtype in (torch.bool, dtype):
        return bias
    narrow = bias.to(dtype)
    return torch.where(bias == float("-inf"), narrow, narrow.clamp(min=torch.finfo(dtype).min))


def closed_rows(bias: Tensor) -> Tensor:
    """Rows of a mask that hide every token, ``[..., 1]``; their result is zero, as in PyTorch's own attention."""
    return ~bias.any(-1, keepdim=True) if bias.dtype == torch.bool else (bias == float("-inf")).all(-1, keepdim=True)


def hide(scores: Tensor, bias: Tensor, shut: Tensor) -> Tensor:
    """Scores under a boolean (true = attend) or additive mask; rows that hide every token stay finite.

    Args:
        scores: ``[..., M]`` of ``M`` keys.
        bias: The mask, broadcastable to ``scores``.
        shut: :func:`closed_rows` of the mask.
    """
    if bias.dtype == torch.bool:
        return scores.masked_fill(~(bias | shut), float("-inf"))
    return scores + bias.masked_fill(shut, 0)


def fast_attention(*args: Any, **kwargs: Any) -> Tensor:
    """``F.scaled_dot_product_attention`` in the form that :func:`attend` picks.

    The arguments are the library's: ``q [B, heads, N, head_dim]``, and so on; the result has the shape of ``q``. Calls
    with dropout, causal masks, scales of their own or grouped heads are the library's own.

    Example:
        >>> q = k = v = torch.ones(1, 1, 2, 4, dtype=torch.bfloat16)
        >>> fast_attention(q, k, v).shape
        torch.Size([1, 1, 2, 4])
    """
    if len(args) >= 3 and _usual(*args[:3]):
        bias = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
        others = [*args[4:], *(value for key, value in kwargs.items() if key != "attn_mask")]
        if not any(others) or (kwargs.get("scale") == args[0].shape[-1] ** -0.5 and sum(map(bool, others)) == 1):
            return attend(args[0], args[1], args[2], bias)
    return F.scaled_dot_product_attention(*args, **kwargs)


def _usual(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether these are ``[B, heads, N, head_dim]`` with the same ``B``, ``heads`` and ``head_dim``, not empty."""
    alike = q.dim() == k.dim() == v.dim() == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2]
    return alike and q.shape[-1] == k.shape[-1] == v.shape[-1] and min(q.numel(), k.numel()) > 0


def mha_forward(
    module: nn.MultiheadAttention, packed: Tensor, attn_mask: Tensor | None, need_weights: bool, average: bool
) -> tuple[Tensor, Tensor | None]:
    """Self-attention of an ``nn.MultiheadAttention`` from its projected ``[q | k | v]``.

    Args:
        module: Gives heads, output projection and layout.
        packed: ``[B, N, 3C]``.
        attn_mask: Boolean (true = hidden, as in PyTorch's module) or additive mask, broadcastable to ``[N, N]``.
        need_weights: Also return the attention probabilities.
        average: Average them over the heads.
    """
    B, N, width = packed.shape
    heads: int = module.num_heads
    q, k, v = packed.view(B, N, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
    bias: Tensor | None = None
    if attn_mask is not None:
        bias = attn_mask
        if attn_mask.dtype == torch.bool:
            bias = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(attn_mask, float("-inf"))
        if bias.dim() == 3:
            bias = bias.view(B, -1, N, N)
    if need_weights:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        weights = torch.softmax(scores if bias is None else scores + bias, dim=-1)
        mixed = weights @ v
    else:
        weights = None
        mixed = attend(q, k, v, bias)
    out = F.linear(mixed.transpose(1, 2).reshape(B, N, -1), module.out_proj.weight, module.out_proj.bias)
    if weights is not None and average:
        weights = weights.mean(dim=1)
    return (out if module.batch_first else out.transpose(0, 1)), weights
