"""The attention of the CLS token alone: one query, every key and value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder.attention import AttentionLayout


class OneQuery:
    """Attention for the first query alone, between the projections of a block and its output projection.

    Args:
        tower: The encoder.
        layout: The block's attention. Where its queries have a projection of their own, that reads one row, too.
        attention: What computes an attention.
    """

    def __init__(self, tower: nn.Module, layout: AttentionLayout, attention: Callable[..., Tensor]) -> None:
        self.tower, self.layout, self.attention = tower, layout, attention
        self._inside = False
        self._length = 0

    def hooks(self) -> list[Any]:
        """Handles of hooks on the projection of queries and the output projection, behind those of adapters."""
        queries = self.tower.get_submodule(self.layout.location("q")[0])
        handles = [queries.register_forward_pre_hook(self._enter)]
        if self.layout.style == "split":
            handles.append(queries.register_forward_hook(self._widen))
        return [*handles, self.tower.get_submodule(self.layout.out_path).register_forward_pre_hook(self._leave)]

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self._inside, self._length = True, args[0].shape[-2]
        return (args[0][..., :1, :], *args[1:]) if self.layout.style == "split" else None

    def _widen(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The one row as often as the library expects rows, in the memory of one."""
        return output.expand(*output.shape[:-2], self._length, -1)

    def _leave(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inside = False

    def attend(self, *args: Any, **kwargs: Any) -> Tensor:
        """``F.scaled_dot_product_attention``; inside the block, all rows of the result but the first are zero.

        The arguments are the library's: ``q``, ``k`` and ``v`` of ``[B, heads, N, head_dim]``, and so is the result.
        """
        options = dict(zip(("attn_mask", "dropout_p", "is_causal"), args[3:], strict=False)) | kwargs
        if not self._inside or len(args) < 3 or options.get("is_causal"):
            return self.attention(*args, **kwargs)
        q, k, v = args[:3]
        mask = options.get("attn_mask")
        if mask is not None and mask.shape[-2] > 1:
            options["attn_mask"] = mask[..., :1, :]
        return F.pad(self.attention(q[..., :1, :], k, v, **options), (0, 0, 0, q.shape[-2] - 1))
